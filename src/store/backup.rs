//! A copy of the whole data directory, made while it is in use, that can be opened like it.
//!
//! The records are those of one moment ([`super::copier`]). Contents of files never change, so they are
//! copied before and after that moment, those that an earlier backup in the same place has not; what is
//! deleted meanwhile is kept until the backup is done. The mark of the backup is written last: until
//! then the place holds the earlier backup, or nothing that a daemon would open.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use super::copier::Copy;
use super::mark::{self, Mark};
use super::open::{FILES, PARTS, create, entries, folder};
use super::record;
use super::record::file::FileRecord;
use super::sum::Sum;
use super::writer::Op;
use super::{Store, StoreError, format, seal};
use crate::domain::file::{File as FileObject, FileSource};

/// Says that the place is being made a backup, and was not one before.
const BEGUN: &str = "backup-begun";
/// Bytes that are copied at a time.
const BUFFER: usize = 256 << 10;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("`{0}` is not an absolute path")]
    Relative(String),
    #[error("`{0}` is inside the data directory, or the data directory inside it")]
    Within(String),
    #[error("`{0}` is neither empty nor an earlier backup of this store")]
    Foreign(String),
    #[error("`{0}` is in use by another process")]
    InUse(String),
    #[error("the store is being copied already, for another backup or to give space back; try again later")]
    Busy,
    #[error("the copy of the store was given up; the log says why")]
    GivenUp,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// Writes of the store up to which everything is in it.
    pub writes: u64,
    /// Entries of the store.
    pub entries: u64,
    /// Contents of files and of parts of uploads.
    pub contents: u64,
    /// Those that were copied this time, and their bytes.
    pub copied: u64,
    pub copied_bytes: u64,
}

/// What the writer answers: the copy and its sum, or nothing if there is another copy in the making.
pub(super) type Answer = Option<(Copy, Sum)>;

impl Store {
    /// Makes or renews the backup in `target`, an absolute path. Blocks, for as long as it takes to read the store.
    ///
    /// # Errors
    /// When the place will not do, or the disk fails. An earlier backup there stays as it was.
    pub fn backup(&self, target: &Path) -> Result<Backup, BackupError> {
        let place = Place::open(target, &self.inner.dir)?;
        // Until the end nothing that the backup may need goes away.
        let _kept = self.inner.removals.hold();
        let mut copied = Copied::default();
        for name in [FILES, PARTS] {
            self.copy_contents(name, &place.dir, &mut copied)?;
        }
        let generation = place.mark.map_or(0, |mark| mark.generation + 1);
        let (copy, sum) = self.copy_records(&place.dir.join(folder(generation)))?;
        for name in [FILES, PARTS] {
            self.copy_contents(name, &place.dir, &mut copied)?;
        }
        let contents = needed(&copy.tree)?;
        for (name, id) in &contents {
            let path = place.dir.join(name).join(format!("{id:032x}"));
            fs::metadata(&path).map_err(|error| StoreError::io("copying", &path, &error))?;
        }
        copy_file(&self.inner.dir.join(seal::FILE), &place.dir.join(seal::FILE))?;
        super::spool::sync_folder(&place.dir)?;
        drop(Mark::start(&place.dir, generation, &sum)?);
        place.tidy(generation, &contents)?;
        let contents = contents.len() as u64;
        Ok(Backup { writes: sum.writes, entries: sum.entries, contents, copied: copied.files, copied_bytes: copied.bytes })
    }

    fn copy_records(&self, folder: &Path) -> Result<(Copy, Sum), BackupError> {
        let (answer, copied) = sync_channel(1);
        let op = Op::Backup { folder: folder.to_owned(), answer };
        self.inner.queue.blocking_send(op).map_err(|_| StoreError::Closed)?;
        match copied.recv() {
            Ok(Some(copy)) => Ok(copy),
            Ok(None) => Err(BackupError::Busy),
            Err(_) => Err(BackupError::GivenUp),
        }
    }

    /// Copies what is not there yet.
    fn copy_contents(&self, name: &str, target: &Path, copied: &mut Copied) -> Result<(), StoreError> {
        let target = target.join(name);
        for path in entries(&self.inner.dir.join(name))? {
            let Some(id) = path.file_name() else { continue };
            let to = target.join(id);
            let bytes = match fs::metadata(&path) {
                Ok(found) => found.len(),
                // It was being removed already; whether it is needed is known later.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("copying", &path, &error)),
            };
            if fs::metadata(&to).is_ok_and(|there| there.len() == bytes) {
                continue;
            }
            copied.bytes += copy_file(&path, &to)?;
            copied.files += 1;
        }
        super::spool::sync_folder(&target)
    }
}

#[derive(Default)]
struct Copied {
    files: u64,
    bytes: u64,
}

/// Where a backup goes.
struct Place {
    dir: PathBuf,
    /// Of the earlier backup, if there is one.
    mark: Option<mark::Reached>,
    _lock: File,
}

impl Place {
    fn open(target: &Path, source: &Path) -> Result<Self, BackupError> {
        let name = target.display().to_string();
        if !target.is_absolute() {
            return Err(BackupError::Relative(name));
        }
        create(target)?;
        let canonical = |path: &Path| path.canonicalize().map_err(|error| StoreError::io("opening", path, &error));
        let (dir, source) = (canonical(target)?, canonical(source)?);
        if dir.starts_with(&source) || source.starts_with(&dir) {
            return Err(BackupError::Within(name));
        }
        let lock = super::open::lock(&dir).map_err(|error| match error {
            super::OpenError::InUse { .. } => BackupError::InUse(name.clone()),
            super::OpenError::Store(error) => error.into(),
            _ => BackupError::Foreign(name.clone()),
        })?;
        let own = mark::read(&source)?.flatten().map(|mark| mark.store);
        let mark = mark::read(&dir)?.flatten();
        let is_ours = mark.is_some_and(|mark| Some(mark.store) == own);
        if !is_ours {
            let is_begun = dir.join(BEGUN).exists();
            let is_empty = entries(&dir)?.iter().all(|path| path.file_name().is_some_and(|name| name == "lock"));
            if mark.is_some() || !(is_begun || is_empty) {
                return Err(BackupError::Foreign(name));
            }
            let begun = dir.join(BEGUN);
            fs::write(&begun, "").map_err(|error| StoreError::io("writing", &begun, &error))?;
        }
        for folder in [FILES, PARTS] {
            create(&dir.join(folder))?;
        }
        Ok(Self { dir, mark, _lock: lock })
    }

    /// Removes what an earlier backup needed and this one does not.
    fn tidy(&self, generation: u64, contents: &HashSet<(&'static str, u128)>) -> Result<(), StoreError> {
        super::compaction::remove_others(&self.dir, generation)?;
        for name in [FILES, PARTS] {
            for path in entries(&self.dir.join(name))? {
                let id = path.file_name().and_then(|id| u128::from_str_radix(id.to_str()?, 16).ok());
                if id.is_none_or(|id| !contents.contains(&(name, id))) {
                    fs::remove_file(&path).map_err(|error| StoreError::io("removing", &path, &error))?;
                }
            }
        }
        match fs::remove_file(self.dir.join(BEGUN)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("removing", &self.dir.join(BEGUN), &error)),
            _ => Ok(()),
        }
    }
}

/// The contents that the records name: the folder and the id of each.
fn needed(tree: &sled::Tree) -> Result<HashSet<(&'static str, u128)>, StoreError> {
    let mut needed = HashSet::new();
    for entry in tree.scan_prefix(format::FILES) {
        let file: FileObject = record::decode::<FileRecord>(&entry?.1)?.try_into()?;
        if matches!(file.source, FileSource::Uploaded { .. }) {
            needed.insert((FILES, file.id.as_u128()));
        }
    }
    for (kind, name) in [(format::DELETED, FILES), (format::PARTS, PARTS)] {
        for key in tree.scan_prefix(kind).keys() {
            needed.extend(format::trailing_id(&key?).map(|id| (name, id)));
        }
    }
    Ok(needed)
}

/// Copies a file under another name first, durably; returns its bytes.
fn copy_file(from: &Path, to: &Path) -> Result<u64, StoreError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let new = to.with_extension("new");
    let copy = || {
        let mut source = File::open(from)?;
        let mut target = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut buffer = vec![0; BUFFER];
        let mut bytes = 0;
        loop {
            let read = source.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            target.write_all(&buffer[..read])?;
            bytes += read as u64;
        }
        target.sync_all()?;
        fs::rename(&new, to)?;
        Ok(bytes)
    };
    copy().map_err(|error: std::io::Error| {
        let _ = fs::remove_file(&new);
        StoreError::io("copying", from, &error)
    })
}
