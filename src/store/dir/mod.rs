//! The data directory: everything that the store does in it outside sled's own files goes through here.
//!
//! It is not what the files mean; that is for the modules that keep them.
//!
//! Invariants others rely on:
//! * whoever has a [`Locked`] or a [`DataDir`] is the only process that has the directory;
//! * nothing is reached by a path: folders are open descriptors, and each name is looked up in one of
//!   them, so a link inside the directory is refused and never followed. (The path *to* the directory
//!   may have links: systemd's `/var/lib/batchd` is one for a dynamic user.) Names have one part, so
//!   `openat2` would add nothing; it is also what `RestrictSUIDSGID=` of our unit forbids;
//! * folders are `0700` and files `0600`, whatever the umask says and whatever they were before, and
//!   they belong to the user that runs;
//! * what is opened as a file is a regular file. A fifo or a device is refused, and blocks nobody.
//!
//! sled opens its own files by path: [`Folder::vet`] looks at them before and after that.

mod file;
mod folder;
mod seam;
#[cfg(test)]
mod tests;
mod trust;

use std::path::Path;

pub use file::DataFile;
pub(super) use folder::{Folder, Report};
#[cfg(test)]
pub use seam::Faults;
pub use seam::{Act, Seam};

use super::OpenError;
use crate::store::error::StoreError;

/// Held by the one process that has the directory.
pub(super) const LOCK: &str = "lock";
/// The daemon's own key.
pub(super) const SEAL_KEY: &str = "seal.key";
/// What [`Folder::replace`] makes of it on the way.
const SEAL_KEY_NEW: &str = "seal.key.new";
/// sled.
pub(super) const STORE: &str = "store";
/// Where earlier versions have put snapshots of sled's that they took for damaged.
const DAMAGED_SNAPSHOTS: &str = "store.damaged-snapshots";
/// Content of uploaded files, by id.
pub(super) const FILES: &str = "files";
/// Content of upload parts, by id.
pub(super) const PARTS: &str = "parts";
/// How far the store was durable.
pub(super) const MARK: &str = "mark";
pub(super) const MARK_NEW: &str = "mark.new";
/// What is being written.
pub(super) const SPOOL: &str = "spool";
/// What was found and no record names.
pub(super) const LOST_FOUND: &str = "lost+found";
/// The same, where the file system has a folder of that name for itself.
pub(super) const LOST_FOUND_TOO: &str = "lost+found.batchd";
/// Data directories of `batchd run`, one for each input.
pub const RUNS: &str = "run";
/// All that one process makes in a data directory of its own.
const OURS: [&str; 11] = [DAMAGED_SNAPSHOTS, FILES, PARTS, SPOOL, LOST_FOUND, LOST_FOUND_TOO, SEAL_KEY, SEAL_KEY_NEW, MARK, MARK_NEW, LOCK];

/// A data directory that no other process has, before anything in it was looked at.
#[derive(Debug)]
pub(super) struct Locked {
    root: Folder,
    lock: DataFile,
}

/// A data directory that is only looked at, and that no daemon has meanwhile.
#[derive(Debug)]
pub(super) struct Guest {
    root: Folder,
    _lock: Option<DataFile>,
}

impl Guest {
    /// Takes the directory at `path`. Nothing in it is changed, the lock file apart, which its owner makes if there is
    /// none; for anybody else, or where nothing can be written, it is then not taken.
    ///
    /// # Errors
    /// When another process has it, there is none, or it cannot be read.
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
    /// Takes the directory at `path`, which is made if there is none. Only its own permissions and the
    /// lock are touched.
    ///
    /// # Errors
    /// When another process has it, or it is not such that it can be trusted.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        Self::take_through(path, Seam::default())
    }

    /// [`Self::take`], where operations fail as told.
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

    /// Opens the folders for content, which are made if there are none.
    ///
    /// # Errors
    /// When one of them is something else, belongs to somebody else, or cannot be made.
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

    /// What is being written.
    pub fn spool(&self) -> &Folder {
        &self.spool
    }
}

/// The folder of a database of the store; there may be several while one takes the place of another.
pub(super) fn database(generation: u64) -> String {
    if generation == 0 { STORE.to_owned() } else { format!("{STORE}-{generation}") }
}

/// Which database has a folder of that name.
pub(super) fn generation(name: &std::ffi::OsStr) -> Option<u64> {
    let rest = name.to_str()?.strip_prefix(STORE)?;
    let generation = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
    (database(generation).as_str() == name).then_some(generation)
}

/// The name of the content of that id.
pub(super) fn content_name(id: u128) -> String {
    format!("{id:032x}")
}

/// The id of the content of that name, if it is one of ours.
pub(super) fn content_id(name: &std::ffi::OsStr) -> Option<u128> {
    let name = name.to_str()?;
    u128::from_str_radix(name, 16).ok().filter(|id| content_name(*id) == name)
}

/// Removes a data directory that no process has. Blocks.
///
/// # Errors
/// When a process has it, there is something in it that batchd did not make, or it cannot be removed.
pub fn discard(path: &Path) -> Result<(), OpenError> {
    let locked = Locked::take(path)?;
    for entry in locked.root.entries()? {
        if generation(&entry.name).is_some() {
            locked.root.remove_tree(&entry.name)?;
        }
    }
    // The lock last: what is left after a failure still has it.
    for name in OURS {
        locked.root.remove_tree(name)?;
    }
    Ok(std::fs::remove_dir(path).map_err(|error| StoreError::io("removing", path, &error))?)
}
