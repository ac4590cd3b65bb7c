//! The content of files and of parts of uploads, and the daemon's own key.
//!
//! Content that no record names, or that differs from its record, is not thrown away: it goes to
//! `lost+found/`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read, Write};

use sha2::{Digest, Sha256};

use super::super::dir::{DataDir, DataFile, FILES, Folder, LOST_FOUND, PARTS, SEAL_KEY, content_id, content_name};
use super::super::format::{self, ExpiryKind};
use super::super::record::file::FileRecord;
use super::super::record::upload::PartRecord;
use super::super::record::{self};
use super::super::seal;
use super::Out;
use super::copy::Copied;
use super::report::{SalvageReport, Thing};
use crate::domain::file::{File, FileSource};
use crate::domain::id::FileId;
use crate::store::error::StoreError;
use crate::store::format::seconds;

/// Bytes that are copied at a time.
const BUFFER: usize = 256 << 10;

/// Content in the new directory.
#[derive(Debug, Clone)]
pub(super) struct SalvagedContent {
    folder: Folder,
    id: u128,
}

impl SalvagedContent {
    pub fn of(to: &DataDir, file: FileId) -> Self {
        Self { folder: to.files().clone(), id: file.as_u128() }
    }

    /// Opens the content, if possible.
    pub fn open(&self) -> Option<DataFile> {
        self.folder.open(content_name(self.id)).ok()
    }
}

/// Bytes of all content.
pub(super) fn size(root: &Folder) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for folder in [FILES, PARTS] {
        let Some(folder) = root.existing_folder(folder)? else { continue };
        for entry in folder.entries()? {
            bytes += folder.open(&entry.name).map_or(0, |file| DataFile::bytes(&file).unwrap_or(0));
        }
    }
    Ok(bytes)
}

/// Copies all content; files whose content is missing are lost.
pub(super) fn copy(
    root: &Folder,
    to: &DataDir,
    copied: &mut Copied,
    out: &mut Out,
    report: &mut SalvageReport<'_>,
) -> Result<(), StoreError> {
    let files = root.existing_folder(FILES)?;
    let mut known = BTreeSet::new();
    for file in std::mem::take(&mut copied.files).into_values() {
        if let FileSource::Uploaded { sha256 } = &file.source {
            known.insert(file.id.as_u128());
            let name = content_name(file.id.as_u128());
            let result = copy_content(files.as_ref(), name.as_ref(), to.files(), Some((file.bytes, sha256)))?;
            if let Err(reason) = result {
                put_aside(to, to.files(), FILES, name.as_ref())?;
                report.note(&format!("file {}: {reason}", file.id));
                report.lost(Thing::File(file.id));
                continue;
            }
            report.done.bytes += file.bytes;
        }
        copied.files.insert(file.id, file);
    }
    if let Some(files) = &files {
        copy_rest(files, to, &known, copied, report)?;
    }
    copy_parts(root.existing_folder(PARTS)?.as_ref(), to, copied, out, report)?;
    copy_key(root, to, report)
}

/// Copies content whose record was removed by a deletion, or is lost.
fn copy_rest(
    files: &Folder,
    to: &DataDir,
    known: &BTreeSet<u128>,
    copied: &mut Copied,
    report: &mut SalvageReport<'_>,
) -> Result<(), StoreError> {
    for name in files.entries()?.into_iter().map(|entry| entry.name) {
        let id = content_id(&name);
        if id.is_some_and(|id| known.contains(&id)) {
            continue;
        }
        let id = id.map(FileId::from_u128);
        let record = id.and_then(|id| copied.deleted.get(&id)).and_then(Option::as_ref);
        let expected = record.and_then(|file| match &file.source {
            FileSource::Uploaded { sha256 } => Some((file.bytes, sha256)),
            FileSource::View { .. } => None,
        });
        match (copy_content(Some(files), &name, to.files(), expected)?, id) {
            (Ok(()), Some(id)) => drop(copied.content.insert(id)),
            (Ok(()), None) => put_aside(to, to.files(), FILES, &name)?,
            (Err(reason), _) => {
                put_aside(to, to.files(), FILES, &name)?;
                report.lost(Thing::Other(format!("{}: {reason}", files.path_of(&name).display())));
            }
        }
    }
    Ok(())
}

fn copy_parts(
    parts: Option<&Folder>,
    to: &DataDir,
    copied: &mut Copied,
    out: &mut Out,
    report: &mut SalvageReport<'_>,
) -> Result<(), StoreError> {
    for part in std::mem::take(&mut copied.parts) {
        let name = content_name(part.id.as_u128());
        let mut result = copy_content(parts, name.as_ref(), to.parts(), None)?;
        let found = to.parts().open(&name).map_or(0, |file| DataFile::bytes(&file).unwrap_or(0));
        if !copied.uploads.contains_key(&part.upload) {
            result = Err("its upload is lost".to_owned());
        } else if result.is_ok() && found != part.bytes {
            result = Err(format!("its content has {found} bytes, and should have {}", part.bytes));
        }
        match result {
            Ok(()) => {
                report.done.bytes += part.bytes;
                out.writes.insert(format::part(part.upload, part.id), record::encode(&PartRecord::from(&part))?);
            }
            Err(reason) => {
                put_aside(to, to.parts(), PARTS, name.as_ref())?;
                report.lost(Thing::Other(format!("upload {}: part {}: {reason}", part.upload, part.id)));
            }
        }
    }
    out.write()
}

fn copy_key(root: &Folder, to: &DataDir, report: &mut SalvageReport<'_>) -> Result<(), StoreError> {
    let result = copy_content(Some(root), SEAL_KEY.as_ref(), to.root(), None)?;
    let is_key = to.root().open(SEAL_KEY).is_ok_and(|key| DataFile::bytes(&key).is_ok_and(|bytes| bytes == seal::BYTES as u64));
    if result.is_err() || !is_key {
        remove(to.root(), SEAL_KEY.as_ref())?;
        report.lost(Thing::Other(format!("`{SEAL_KEY}`: links that were given out lead nowhere, and secrets of webhooks cannot be read")));
    }
    Ok(())
}

/// Writes the record of a file.
pub(super) fn put_file(file: &File, out: &mut Out) -> Result<(), StoreError> {
    out.writes.insert(format::file(file.id), record::encode(&FileRecord::from(file))?);
    if let Some(place) = format::owned(format::files_of(file.org), file.id.as_u128()) {
        out.writes.insert(place, b"".as_slice());
    }
    if let Some(at) = file.expires_at {
        out.writes.insert(format::expiry(seconds(at), ExpiryKind::File, &file.id.as_u128().to_be_bytes()), b"".as_slice());
    }
    Ok(())
}

/// Moves copied content out of the way, into `lost+found`; empty content is removed.
pub(super) fn put_aside(to: &DataDir, folder: &Folder, origin: &str, name: &OsStr) -> Result<(), StoreError> {
    if folder.open(name).map_or(0, |file| DataFile::bytes(&file).unwrap_or(0)) == 0 {
        return remove(folder, name);
    }
    let lost = to.root().folder(LOST_FOUND)?;
    super::super::lost::move_there(folder, origin, name, &lost)?;
    lost.sync()
}

fn remove(folder: &Folder, name: &OsStr) -> Result<(), StoreError> {
    if folder.kind_of(name)?.is_some() { folder.remove(name) } else { Ok(()) }
}

/// Copies content, as far as it can be read. The inner error says how the content differs from what
/// is expected; the outer error is only for a target that cannot be written.
fn copy_content(
    from: Option<&Folder>,
    name: &OsStr,
    target: &Folder,
    expected: Option<(u64, &[u8; 32])>,
) -> Result<Result<(), String>, StoreError> {
    let Some(from) = from else { return Ok(Err("its content is missing".to_owned())) };
    let mut from = match from.open(name) {
        Ok(from) => from,
        Err(StoreError::Io { missing: true, .. }) => return Ok(Err("its content is missing".to_owned())),
        Err(error) => return Ok(Err(format!("its content cannot be read: {error}"))),
    };
    let failed = |error: std::io::Error| StoreError::io("writing", &target.path_of(name), &error);
    let mut to = target.create(name)?;
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; BUFFER], 0);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hash.update(&buffer[..read]);
                to.write_all(&buffer[..read]).map_err(failed)?;
                at += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(format!("its content cannot be read at byte {at}: {error}"))),
        }
    }
    to.sync_data().map_err(failed)?;
    let Some((bytes, sha256)) = expected else { return Ok(Ok(())) };
    if at != bytes {
        return Ok(Err(format!("its content has {at} bytes, and should have {bytes}")));
    }
    let found: [u8; 32] = hash.finalize().into();
    Ok(if found == *sha256 { Ok(()) } else { Err("its content is not what was uploaded".to_owned()) })
}
