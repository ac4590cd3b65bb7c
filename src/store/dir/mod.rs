//! The data directory: everything that the store does in it, outside sled's own files, goes through
//! this module.
//!
//! This module does not know what the files mean; that is up to the modules that keep them.
//!
//! Invariants others rely on:
//! * a process with a [`Locked`] or a [`DataDir`] is the only process that has the directory;
//! * nothing is reached by a path: folders are open descriptors, and each name is looked up in one
//!   of them, so a link inside the directory is refused and never followed. (The path *to* the
//!   directory may contain links: systemd's `/var/lib/batchd` is one for a dynamic user.) Names
//!   have one part, so `openat2` would add nothing; the `RestrictSUIDSGID=` setting of our unit
//!   forbids it, too;
//! * folders are `0700` and files `0600`, whatever the umask is and whatever their mode was before,
//!   and they belong to the user that runs batchd;
//! * everything opened as a file is a regular file. A fifo or a device is refused, and never blocks
//!   the process that opens it.
//!
//! sled opens its own files by path: [`Folder::vet`] inspects them before and after that.

mod file;
mod folder;
mod seam;
#[cfg(test)]
mod tests;
mod trust;

use std::path::Path;

pub use file::DataFile;
pub(super) use folder::Folder;
#[cfg(test)]
pub use seam::Faults;
pub use seam::{Act, Seam};
pub(super) use trust::Report;

use super::OpenError;
use crate::store::error::StoreError;

/// The lock file, held by the one process that has the directory.
pub(super) const LOCK: &str = "lock";
/// The daemon's own key.
pub(super) const SEAL_KEY: &str = "seal.key";
/// The temporary file that [`Folder::replace`] writes before it replaces the key.
const SEAL_KEY_NEW: &str = "seal.key.new";
/// The folder of sled's files.
pub(super) const STORE: &str = "store";
/// Where earlier versions put sled snapshots that they considered damaged.
const DAMAGED_SNAPSHOTS: &str = "store.damaged-snapshots";
/// Content of uploaded files, by id.
pub(super) const FILES: &str = "files";
/// Content of upload parts, by id.
pub(super) const PARTS: &str = "parts";
/// The file that records how much of the store was durable.
pub(super) const MARK: &str = "mark";
pub(super) const MARK_NEW: &str = "mark.new";
/// The audit log.
pub(super) const AUDIT: &str = "audit";
/// Files that are being written.
pub(super) const SPOOL: &str = "spool";
/// Content that was found and that no record names.
pub(super) const LOST_FOUND: &str = "lost+found";
/// The same, where the file system has a folder of that name for itself.
pub(super) const LOST_FOUND_TOO: &str = "lost+found.batchd";
/// Data directories of `batchd run`, one for each input.
pub const RUNS: &str = "run";
/// The outputs that `batchd run` has written, which it may overwrite. Lost without harm.
pub const RUN_OUTPUTS: &str = "outputs.jsonl";
/// Everything besides the databases that batchd makes in a data directory.
const OURS: [&str; 13] =
    [DAMAGED_SNAPSHOTS, FILES, PARTS, AUDIT, SPOOL, LOST_FOUND, LOST_FOUND_TOO, SEAL_KEY, SEAL_KEY_NEW, MARK, MARK_NEW, RUN_OUTPUTS, LOCK];

/// A data directory that no other process has, before anything in it was examined.
#[derive(Debug)]
pub(super) struct Locked {
    root: Folder,
    lock: DataFile,
}

/// A data directory that is only read, and that no daemon has in the meantime.
#[derive(Debug)]
pub(super) struct Guest {
    root: Folder,
    _lock: Option<DataFile>,
}

impl Guest {
    /// Takes the directory at `path`. Nothing in it changes except the lock file, which is made if
    /// it is missing and the directory belongs to this user. For any other user, or where nothing
    /// can be written, a missing lock is then not taken.
    ///
    /// # Errors
    /// When another process has the directory, it does not exist, or it cannot be read.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let root = Folder::guest(path)?;
        let lock = match root.kind_of(LOCK)? {
            Some(_) => Some(root.open(LOCK)?),
            None if root.is_ours()? => root.open_or_create(LOCK).ok(),
            None => None,
        };
        match lock.as_ref().map_or(Ok(()), DataFile::try_lock) {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse { dir: path.display().to_string() }),
            Err(std::fs::TryLockError::Error(error)) => Err(StoreError::io("locking", &root.path_of(LOCK), &error).into()),
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Folder {
        &self.root
    }
}

/// A data directory with its folders.
#[derive(Debug)]
pub(super) struct DataDir {
    root: Folder,
    files: Folder,
    parts: Folder,
    spool: Folder,
    /// Held for as long as the directory is in use; a second process cannot get it.
    _lock: DataFile,
}

impl Locked {
    /// Takes the directory at `path`, which is made if it does not exist. Only the directory's own
    /// permissions and the lock are touched.
    ///
    /// # Errors
    /// When another process has the directory, or it cannot be trusted.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        Self::take_through(path, Seam::default())
    }

    /// [`Self::take`], with operations that fail as `faults` says.
    #[cfg(test)]
    pub fn take_with(path: &Path, faults: &Faults) -> Result<Self, OpenError> {
        Self::take_through(path, Seam::from(faults))
    }

    fn take_through(path: &Path, seam: Seam) -> Result<Self, OpenError> {
        let root = Folder::root(path, seam)?;
        let lock = root.open_or_create(LOCK)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, lock }),
            Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse { dir: path.display().to_string() }),
            Err(std::fs::TryLockError::Error(error)) => Err(StoreError::io("locking", &root.path_of(LOCK), &error).into()),
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Folder {
        &self.root
    }

    /// Opens the folders for content, which are made if they do not exist.
    ///
    /// # Errors
    /// When one of them is not a folder, belongs to another user, or cannot be made.
    pub fn furnish(self) -> Result<DataDir, StoreError> {
        let Self { root, lock } = self;
        let [files, parts, spool] = [root.folder(FILES)?, root.folder(PARTS)?, root.folder(SPOOL)?];
        Ok(DataDir { root, files, parts, spool, _lock: lock })
    }
}

impl DataDir {
    /// The directory itself.
    pub fn root(&self) -> &Folder {
        &self.root
    }

    /// Content of uploaded files.
    pub fn files(&self) -> &Folder {
        &self.files
    }

    /// Content of upload parts.
    pub fn parts(&self) -> &Folder {
        &self.parts
    }

    /// Files that are being written.
    pub fn spool(&self) -> &Folder {
        &self.spool
    }
}

/// The name of a database's folder; there may be several databases while one replaces another.
pub(super) fn database(generation: u64) -> String {
    if generation == 0 { STORE.to_owned() } else { format!("{STORE}-{generation}") }
}

/// The generation of the database whose folder has that name, if there is one.
pub(super) fn generation(name: &std::ffi::OsStr) -> Option<u64> {
    let rest = name.to_str()?.strip_prefix(STORE)?;
    let generation = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
    (database(generation).as_str() == name).then_some(generation)
}

/// The file name of the content with that id.
pub(super) fn content_name(id: u128) -> String {
    format!("{id:032x}")
}

/// The id of the content with that file name, if it is one of ours.
pub(super) fn content_id(name: &std::ffi::OsStr) -> Option<u128> {
    let name = name.to_str()?;
    u128::from_str_radix(name, 16).ok().filter(|id| content_name(*id) == name)
}

/// Removes a data directory that no process has. Blocks.
///
/// # Errors
/// When a process has the directory, it contains something that batchd did not make, or it cannot
/// be removed.
pub fn discard(path: &Path) -> Result<(), OpenError> {
    let locked = Locked::take(path)?;
    for entry in locked.root.entries()? {
        if generation(&entry.name).is_some() {
            locked.root.remove_tree(&entry.name)?;
        }
    }
    // The lock is removed last, so that whatever a failure leaves behind is still locked.
    for name in OURS {
        locked.root.remove_tree(name)?;
    }
    Ok(std::fs::remove_dir(path).map_err(|error| StoreError::io("removing", path, &error))?)
}
