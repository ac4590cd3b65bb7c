//! The content of files and of parts of uploads, and the daemon's own key.
//!
//! What no record names, and what is not as its record says, is not thrown away: it goes to `lost+found/`.

use std::collections::BTreeSet;
use std::fs::{self, File as DiskFile};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::batches::seconds;
use super::super::format::{self, ExpiryKind};
use super::super::open::{self, FILES, PARTS};
use super::super::record::file::FileRecord;
use super::super::record::upload::PartRecord;
use super::super::record::{self};
use super::super::{StoreError, seal};
use super::Out;
use super::copy::Copied;
use super::told::{Telling, Thing};
use crate::domain::file::{File, FileSource};
use crate::domain::id::FileId;

/// Where content goes of which it is not known what it is.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// Bytes of all content.
pub(super) fn size(dir: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for folder in [FILES, PARTS] {
        for path in list(&dir.join(folder))? {
            bytes += fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
        }
    }
    Ok(bytes)
}

/// Copies all content; files without it are lost.
pub(super) fn copy(dir: &Path, to: &Path, copied: &mut Copied, out: &mut Out, told: &mut Telling<'_>) -> Result<(), StoreError> {
    let mut known = BTreeSet::new();
    for file in std::mem::take(&mut copied.files).into_values() {
        if let FileSource::Uploaded { sha256 } = &file.source {
            known.insert(file.id.as_u128());
            let name = name(file.id.as_u128());
            let result = copy_content(&dir.join(FILES).join(&name), &to.join(FILES).join(&name), Some((file.bytes, sha256)))?;
            if let Err(reason) = result {
                put_aside(to, FILES, &name)?;
                told.note(&format!("file {}: {reason}", file.id));
                told.lost(Thing::File(file.id));
                continue;
            }
            told.done.bytes += file.bytes;
        }
        copied.files.insert(file.id, file);
    }
    copy_rest(dir, to, &known, copied, told)?;
    copy_parts(dir, to, copied, out, told)?;
    copy_key(dir, to, told)
}

/// Content whose record was removed because it was deleted, or is lost.
fn copy_rest(dir: &Path, to: &Path, known: &BTreeSet<u128>, copied: &mut Copied, told: &mut Telling<'_>) -> Result<(), StoreError> {
    for path in list(&dir.join(FILES))? {
        let id = path.file_name().and_then(|name| u128::from_str_radix(name.to_str()?, 16).ok());
        if id.is_some_and(|id| known.contains(&id)) {
            continue;
        }
        let target = to.join(FILES).join(path.file_name().unwrap_or_default());
        match (copy_content(&path, &target, None)?, id.map(FileId::from_u128)) {
            (Ok(()), Some(id)) => drop(copied.content.insert(id)),
            (Ok(()), None) => put_aside(to, FILES, &path.file_name().unwrap_or_default().to_string_lossy())?,
            (Err(reason), _) => {
                told.lost(Thing::Other(format!("{}: {reason}", path.display())));
                let _ = fs::remove_file(&target);
            }
        }
    }
    Ok(())
}

fn copy_parts(dir: &Path, to: &Path, copied: &mut Copied, out: &mut Out, told: &mut Telling<'_>) -> Result<(), StoreError> {
    for part in std::mem::take(&mut copied.parts) {
        let name = name(part.id.as_u128());
        let source = dir.join(PARTS).join(&name);
        let result = if copied.uploads.contains_key(&part.upload) {
            copy_content(&source, &to.join(PARTS).join(&name), None)?.and_then(|()| {
                let found = fs::metadata(to.join(PARTS).join(&name)).map_or(0, |metadata| metadata.len());
                if found == part.bytes { Ok(()) } else { Err(format!("it has {found} bytes, and should have {}", part.bytes)) }
            })
        } else {
            Err("its upload is lost".to_owned())
        };
        match result {
            Ok(()) => {
                told.done.bytes += part.bytes;
                out.writes.insert(format::part(part.upload, part.id), record::encode(&PartRecord::from(&part))?);
            }
            Err(reason) => {
                put_aside(to, PARTS, &name)?;
                told.lost(Thing::Other(format!("upload {}: part {}: {reason}", part.upload, part.id)));
            }
        }
    }
    out.write()
}

fn copy_key(dir: &Path, to: &Path, told: &mut Telling<'_>) -> Result<(), StoreError> {
    let target = to.join(seal::FILE);
    let result = copy_content(&dir.join(seal::FILE), &target, None)?;
    let is_key = fs::metadata(&target).is_ok_and(|metadata| metadata.len() == seal::BYTES as u64);
    if result.is_err() || !is_key {
        let _ = fs::remove_file(&target);
        told.lost(Thing::Other(format!(
            "`{}`: links that were given out lead nowhere, and secrets of webhooks cannot be read",
            seal::FILE
        )));
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

/// Moves content that was copied to where it is in nobody's way.
pub(super) fn put_aside(to: &Path, folder: &str, name: &str) -> Result<(), StoreError> {
    let path = to.join(folder).join(name);
    if fs::metadata(&path).map_or(0, |metadata| metadata.len()) == 0 {
        let _ = fs::remove_file(&path);
        return Ok(());
    }
    open::create(&to.join(LOST_AND_FOUND))?;
    let target = to.join(LOST_AND_FOUND).join(name);
    fs::rename(&path, &target).map_err(|error| StoreError::io("renaming to", &target, &error))
}

pub(super) fn name(id: u128) -> String {
    format!("{id:032x}")
}

/// What is in a folder; nothing if there is none.
fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if folder.exists() { open::entries(folder) } else { Ok(Vec::new()) }
}

/// Copies content, as far as it can be read. The inner error says why it is not as it should be; only a target
/// that cannot be written to is an error.
fn copy_content(source: &Path, target: &Path, expected: Option<(u64, &[u8; 32])>) -> Result<Result<(), String>, StoreError> {
    match fs::symlink_metadata(source) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Ok(Err("its content is no file".to_owned())),
        Err(error) => return Ok(Err(format!("its content cannot be read: {error}"))),
    }
    let mut from = match DiskFile::open(source) {
        Ok(from) => from,
        Err(error) => return Ok(Err(format!("its content cannot be read: {error}"))),
    };
    let failed = |error: std::io::Error| StoreError::io("writing", target, &error);
    let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map_err(failed)?;
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 256 << 10], 0);
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
    to.sync_data().map_err(|error| StoreError::io("flushing", target, &error))?;
    let Some((bytes, sha256)) = expected else { return Ok(Ok(())) };
    if at != bytes {
        return Ok(Err(format!("its content has {at} bytes, and should have {bytes}")));
    }
    let found: [u8; 32] = hash.finalize().into();
    Ok(if found == *sha256 { Ok(()) } else { Err("its content is not what was uploaded".to_owned()) })
}
