//! Copies all that can be read of a data directory into a new one, and tells what is lost.
//!
//! First the records, as they can be read; then the content of files; then each batch is made to fit what is left
//! of it, and the lists are made anew. The new directory is like one that a daemon has closed.
//!
//! Invariants: nothing in the old directory is changed, the lock file apart. The new one is complete, or a start
//! refuses it: what says that it is a store is written last. Nothing is made up: what cannot be brought back
//! is told, and stands in the place of a result with a code of its own.

mod batches;
mod content;
mod copy;
mod lists;
mod rows;
#[cfg(test)]
pub(super) mod tests;
mod told;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::check::CheckError;
use super::format::FORMAT_KEY;
use super::mark::Mark;
use super::open::{self, FILES, PARTS, SPOOL};
use super::readable::{self, Readable, Unlookable};
use super::sum::{Sum, TREE};
use super::verify::SUMMED_FROM;
use super::writes::Writes;
use super::{StoreError, migrate, spool, writer};
use crate::domain::time::Timestamp;
pub use told::{Thing, Told};

/// sled's cache while it is written to, in bytes.
const CACHE: u64 = 32 << 20;
/// Keys in one write.
const WRITE: usize = 1_000;
/// Bytes that must be free besides what is copied.
const RESERVE: u64 = 64 << 20;

/// What was brought back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Salvaged {
    pub batches: u64,
    /// Rows with their results.
    pub rows: u64,
    /// Uploaded ones, and those over results.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    pub lost_batches: u64,
    pub lost_rows: u64,
    pub lost_files: u64,
    /// Whether the store and its mark agree that nothing at all was missing in it.
    pub was_whole: bool,
}

/// Why nothing was copied, or not all that could be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SalvageError {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("{dir} is not empty; name a new directory")]
    NotEmpty { dir: String },
    #[error("{to} lies within {dir}; name a directory elsewhere")]
    Within { to: String, dir: String },
    #[error("{needed} bytes may be needed in {dir}, and {free} are free")]
    NoRoom { dir: String, needed: u64, free: u64 },
    #[error("{error}. {dir} is not complete; remove it before another attempt")]
    Incomplete { dir: String, error: String },
}

impl From<Unlookable> for SalvageError {
    fn from(error: Unlookable) -> Self {
        Self::Check(error.into())
    }
}

impl From<StoreError> for SalvageError {
    fn from(error: StoreError) -> Self {
        Self::Check(error.into())
    }
}

/// Copies what can be read of `dir` to `to`, which must not exist or be empty; `tell` is given what is lost or
/// not certain. Blocks.
///
/// # Errors
/// When `dir` is in use or none, `to` is not empty, or a disk is full or fails.
pub fn salvage(dir: &Path, to: &Path, now: Timestamp, tell: &mut dyn FnMut(Told)) -> Result<Salvaged, SalvageError> {
    let _lock = readable::lock(dir)?;
    let readable = Readable::of(dir)?;
    prepare(&readable, to)?;
    let mut work = || -> Result<Salvaged, StoreError> {
        for folder in [FILES, PARTS, SPOOL] {
            open::create(&to.join(folder))?;
        }
        let _lock_of_new = readable::lock(to).map_err(|error| StoreError::Broken(error.to_string()))?;
        let folder = to.join(open::folder(0));
        open::create(&folder)?;
        let tree = open::open_sled(&folder, CACHE)?.open_tree(TREE)?;
        let mut salvage = Salvage {
            to: to.to_path_buf(),
            now,
            out: Out { tree, sum: Sum::fresh(), writes: Writes::default() },
            told: told::Telling { tell, done: Salvaged { was_whole: readable.is_whole, ..Salvaged::default() } },
        };
        salvage.work(&readable)?;
        let Salvage { mut out, told, .. } = salvage;
        // Only now is it a store.
        let format = readable.format.unwrap_or(migrate::CURRENT).max(SUMMED_FROM);
        out.writes.insert(FORMAT_KEY.to_vec(), &format.to_be_bytes());
        out.write()?;
        out.end(to, &folder)?;
        Ok(told.done)
    };
    work().map_err(|error| SalvageError::Incomplete { dir: to.display().to_string(), error: error.to_string() })
}

/// Makes the new directory, if there is room.
fn prepare(readable: &Readable, to: &Path) -> Result<(), SalvageError> {
    let shown = to.display().to_string();
    match std::fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
        Ok(false) => {}
        Ok(true) => return Err(SalvageError::NotEmpty { dir: shown }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => open::create(to)?,
        Err(error) => return Err(StoreError::io("listing", to, &error).into()),
    }
    let real = |path: &Path| path.canonicalize().map_err(|error| StoreError::io("looking for", path, &error));
    if real(to)?.starts_with(real(&readable.dir)?) {
        let removed = std::fs::remove_dir(to).map_err(|error| StoreError::io("removing", to, &error));
        return removed.map_err(SalvageError::from).and(Err(SalvageError::Within { to: shown, dir: readable.dir.display().to_string() }));
    }
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(to, private).map_err(|error| StoreError::io("changing", to, &error))?;
    let needed = readable.bytes + content::size(&readable.dir)? + RESERVE;
    let stat = rustix::fs::statvfs(to).map_err(|errno| StoreError::io("asking for free space of", to, &errno.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed { Err(SalvageError::NoRoom { dir: shown, needed, free }) } else { Ok(()) }
}

/// The new store, to be written to.
struct Out {
    tree: sled::Tree,
    sum: Sum,
    writes: Writes,
}

impl Out {
    /// Writes what has gathered.
    fn write(&mut self) -> Result<(), StoreError> {
        let writes = std::mem::take(&mut self.writes);
        let values = writes.len();
        writes.apply(&self.tree, &mut self.sum)?;
        writer::collect_garbage(values);
        Ok(())
    }

    /// The same if much has gathered.
    fn write_much(&mut self) -> Result<(), StoreError> {
        if self.writes.len() < WRITE { Ok(()) } else { self.write() }
    }

    /// Makes all of it durable, and says so.
    fn end(self, to: &Path, folder: &Path) -> Result<(), StoreError> {
        self.tree.flush()?;
        let log = folder.join("db");
        std::fs::File::open(&log).and_then(|log| log.sync_all()).map_err(|error| StoreError::io("flushing", &log, &error))?;
        let folders = [FILES, PARTS, content::LOST_AND_FOUND].map(|name| to.join(name));
        for folder in folders.iter().filter(|folder| folder.exists()) {
            spool::sync_folder(folder)?;
        }
        spool::sync_folder(folder)?;
        spool::sync_folder(to)?;
        drop(Mark::start(to, 0, &self.sum)?);
        Ok(())
    }
}

struct Salvage<'a> {
    to: PathBuf,
    now: Timestamp,
    out: Out,
    told: told::Telling<'a>,
}

impl Salvage<'_> {
    fn work(&mut self, readable: &Readable) -> Result<(), StoreError> {
        for fault in &readable.faults {
            self.told.note(fault);
        }
        let mut copied = copy::copy(readable, &mut self.out, &mut self.told)?;
        content::copy(&readable.dir, &self.to, &mut copied, &mut self.out, &mut self.told)?;
        self.make_batches_fit(&copied)?;
        self.make_lists(&copied)?;
        if readable.missing_writes > 0 {
            self.told.lost(Thing::Other(format!("{} writes to the store, of whatever they were", readable.missing_writes)));
        }
        match readable.expected.map(|expected| expected.saturating_sub(copied.entries)) {
            Some(0) => {}
            Some(missing) => self.told.lost(Thing::Other(format!("{missing} entries of the store; what is named is among them"))),
            None if readable.is_whole => {}
            None => self.told.lost(Thing::Other("entries of the store, nobody knows how many; what is named is among them".into())),
        }
        Ok(())
    }
}
