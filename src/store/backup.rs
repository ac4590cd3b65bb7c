//! A copy of the whole data directory, made while the directory is in use; a store can be opened
//! from it like from the original.
//!
//! The records are those of one moment ([`super::copier`]). Contents of files never change, so they
//! are copied before and after that moment; contents that an earlier backup in the same place
//! already has are skipped. Contents that are deleted meanwhile are kept until the backup is done.
//! The mark of the backup is written last: until then the place holds the earlier backup, or
//! nothing that a daemon would open.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use super::databases::remove_others;
use super::dir::{DataFile, FILES, Folder, LOCK, Locked, PARTS, SEAL_KEY, content_id, content_name, database};
use super::mark::{self, Mark};
use super::op::{Copy, Op};
use super::record;
use super::record::file::FileRecord;
use super::sum::Sum;
use super::{OpenError, Store, format};
use crate::domain::file::{File as FileObject, FileSource};
use crate::store::error::StoreError;

/// Says that the place is becoming a backup, and was not one before.
const BEGUN: &str = "backup-begun";
/// Bytes that are copied at a time.
const BUFFER: usize = 256 << 10;

/// Why no backup was made.
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
    /// Number of the last write of the store that the backup includes; all earlier writes are in it
    /// too.
    pub writes: u64,
    /// Entries of the store.
    pub entries: u64,
    /// Contents of files and of parts of uploads.
    pub contents: u64,
    /// Contents that were copied by this run, and their bytes.
    pub copied: u64,
    pub copied_bytes: u64,
}

impl Store {
    /// Makes or renews the backup in `target`, an absolute path. Blocks for as long as reading the
    /// store takes.
    ///
    /// # Errors
    /// When the place is unsuitable, or the disk fails. An earlier backup there stays as it was.
    pub fn backup(&self, target: &Path) -> Result<Backup, BackupError> {
        let source = &self.inner.dir;
        let place = BackupPlace::open(target, source.root())?;
        // Until the backup ends, nothing that it may need is removed.
        let _kept = self.inner.removals.hold();
        let pairs = [(source.files(), &place.files), (source.parts(), &place.parts)];
        let mut copied = Copied::default();
        for (from, to) in pairs {
            copied.contents(from, to)?;
        }
        let generation = place.mark.map_or(0, |mark| mark.generation + 1);
        let (copy, sum) = self.copy_records(place.root(), database(generation))?;
        for (from, to) in pairs {
            copied.contents(from, to)?;
        }
        let contents = needed(&copy.tree)?;
        for (name, id) in &contents {
            // Fails if the content is missing.
            place.folder(name).open(content_name(*id))?;
        }
        copy_file(source.root(), place.root(), SEAL_KEY)?;
        place.root().sync()?;
        drop(Mark::start(place.root(), generation, &sum)?);
        place.tidy(generation, &contents)?;
        let contents = contents.len() as u64;
        Ok(Backup { writes: sum.writes, entries: sum.entries, contents, copied: copied.files, copied_bytes: copied.bytes })
    }

    fn copy_records(&self, root: &Folder, name: String) -> Result<(Copy, Sum), BackupError> {
        let (answer, copied) = sync_channel(1);
        let op = Op::Backup { place: (root.clone(), name), answer };
        self.inner.queue.blocking_send(op).map_err(|_| StoreError::Closed)?;
        match copied.recv() {
            Ok(Some(copy)) => Ok(copy),
            Ok(None) => Err(BackupError::Busy),
            Err(_) => Err(BackupError::GivenUp),
        }
    }
}

#[derive(Default)]
struct Copied {
    files: u64,
    bytes: u64,
}

impl Copied {
    /// Copies the contents that `to` does not have yet.
    fn contents(&mut self, from: &Folder, to: &Folder) -> Result<(), StoreError> {
        for entry in from.entries()? {
            if content_id(&entry.name).is_none() {
                continue;
            }
            let bytes = match from.open(&entry.name) {
                Ok(file) => DataFile::bytes(&file).map_err(|error| StoreError::io("copying", &from.path_of(&entry.name), &error))?,
                // The content was already being removed; whether the backup needs it is checked
                // later.
                Err(StoreError::Io { missing: true, .. }) => continue,
                Err(error) => return Err(error),
            };
            let there = if to.kind_of(&entry.name)?.is_some() { DataFile::bytes(&to.open(&entry.name)?).ok() } else { None };
            if there != Some(bytes) {
                self.bytes += copy_file(from, to, &entry.name)?;
                self.files += 1;
            }
        }
        to.sync()
    }
}

/// Where a backup goes.
struct BackupPlace {
    locked: Locked,
    files: Folder,
    parts: Folder,
    /// The mark of the earlier backup, if there is one.
    mark: Option<mark::Reached>,
}

impl BackupPlace {
    fn open(target: &Path, source: &Folder) -> Result<Self, BackupError> {
        let name = target.display().to_string();
        if !target.is_absolute() {
            return Err(BackupError::Relative(name));
        }
        // Checked before anything is created there.
        let parent = target.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or_default();
        let own = source.path().canonicalize().map_err(|error| StoreError::io("opening", source.path(), &error))?;
        if parent.starts_with(&own) || own.starts_with(target) {
            return Err(BackupError::Within(name));
        }
        let locked = Locked::take(target).map_err(|error| match error {
            OpenError::InUse { .. } => BackupError::InUse(name.clone()),
            OpenError::Store(error) => error.into(),
            OpenError::Newer { .. } | OpenError::Refused { .. } => BackupError::Foreign(name.clone()),
        })?;
        let root = locked.root();
        let (own, mark) = (mark::read(source)?.flatten(), mark::read(root)?.flatten());
        if mark.is_none_or(|mark| own.is_none_or(|own| own.store != mark.store)) {
            let is_begun = root.kind_of(BEGUN)?.is_some();
            let is_empty = root.entries()?.iter().all(|entry| entry.name == LOCK);
            if mark.is_some() || !(is_begun || is_empty) {
                return Err(BackupError::Foreign(name));
            }
            root.replace(BEGUN, b"")?;
        }
        let (files, parts) = (root.folder(FILES)?, root.folder(PARTS)?);
        Ok(Self { files, parts, mark, locked })
    }

    fn root(&self) -> &Folder {
        self.locked.root()
    }

    fn folder(&self, name: &str) -> &Folder {
        if name == FILES { &self.files } else { &self.parts }
    }

    /// Removes what an earlier backup needed and this one does not.
    fn tidy(&self, generation: u64, contents: &HashSet<(&'static str, u128)>) -> Result<(), StoreError> {
        remove_others(self.root(), generation)?;
        for name in [FILES, PARTS] {
            for entry in self.folder(name).entries()? {
                if content_id(&entry.name).is_none_or(|id| !contents.contains(&(name, id))) {
                    self.folder(name).remove(&entry.name)?;
                }
            }
        }
        if self.root().kind_of(BEGUN)?.is_some() {
            self.root().remove(BEGUN)?;
        }
        Ok(())
    }
}

/// The contents that the records name, each with its folder and id.
fn needed(tree: &sled::Tree) -> Result<HashSet<(&'static str, u128)>, StoreError> {
    let mut needed = HashSet::new();
    for entry in tree.scan_prefix(format::FILES) {
        let file: FileObject = record::decode::<FileRecord>(&entry?.1)?.try_into()?;
        if matches!(file.source, FileSource::Uploaded { .. }) {
            needed.insert((FILES, file.id.as_u128()));
        }
    }
    for (kind, name) in [(format::DELETED, FILES), (format::UPLOAD_PARTS, PARTS)] {
        for key in tree.scan_prefix(kind).keys() {
            needed.extend(format::trailing_id(&key?).map(|id| (name, id)));
        }
    }
    Ok(needed)
}

/// Copies a file durably, under a temporary name first; returns its bytes.
fn copy_file(from: &Folder, to: &Folder, name: impl AsRef<OsStr>) -> Result<u64, StoreError> {
    let name = name.as_ref();
    let new = format!("{}.new", name.to_string_lossy());
    if to.kind_of(&new)?.is_some() {
        to.remove(&new)?;
    }
    let (mut source, mut target) = (from.open(name)?, to.create(&new)?);
    let mut copy = || {
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
        Ok(bytes)
    };
    let copied = copy().map_err(|error: std::io::Error| StoreError::io("copying", &from.path_of(name), &error));
    let bytes = copied.inspect_err(|_| drop(to.remove(&new)))?;
    to.rename(&new, to, name)?;
    Ok(bytes)
}
