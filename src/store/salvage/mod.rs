//! Copies everything readable in a data directory into a new one, and reports what is lost.
//!
//! The readable records are copied first, then the content of files. Each batch is then made to fit
//! what is left of it, and the lists are rebuilt. The new directory is like one that a daemon has
//! closed.
//!
//! Invariants: nothing in the old directory changes except the lock file. The new directory is
//! complete, or a start refuses it: the entry that marks it as a store is written last. Nothing is
//! made up: a result that cannot be recovered is reported, and an error with a code of its own
//! stands in its place.

mod batches;
mod content;
mod copy;
mod files;
mod lists;
mod report;
mod rows;
mod salvaged;
#[cfg(test)]
pub(super) mod tests;

use std::path::Path;

use super::dir::{DataDir, Locked, Seam, database};
use super::format::FORMAT_KEY;
use super::mark::Mark;
use super::open_sled::open_sled;
use super::readable::{Readable, Unlookable};
use super::sum::Sum;
use super::tree::Tree;
use super::verify::SUMMED_FROM;
use super::writes::Writes;
use super::{migrate, writer};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;
use crate::store::verify::LOG;
pub use report::{SalvageNote, Thing};

/// sled's cache while it is written to, in bytes.
const CACHE: u64 = 32 << 20;
/// Keys in one write.
const WRITE: usize = 1_000;
/// Bytes that must be free in addition to those that are copied.
const RESERVE: u64 = 64 << 20;

/// What a salvage recovered and lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Salvaged {
    pub batches: u64,
    /// Rows with their results.
    pub rows: u64,
    /// Uploaded files, and files over results.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    pub lost_batches: u64,
    pub lost_rows: u64,
    pub lost_files: u64,
    /// Whether the store and its mark agree that the store was complete.
    pub was_whole: bool,
}

/// Why a salvage copied nothing, or less than it could have.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error(transparent)]
    Unlookable(#[from] Unlookable),
    #[error("{dir} is not empty; name a new directory")]
    NotEmpty { dir: String },
    #[error("{to} lies within {dir}; name a directory elsewhere")]
    Within { to: String, dir: String },
    #[error("{needed} bytes may be needed in {dir}, and {free} are free")]
    NoRoom { dir: String, needed: u64, free: u64 },
    #[error("{error}. {dir} is not complete; remove it before another attempt")]
    Incomplete { dir: String, error: String },
}

impl From<StoreError> for SalvageError {
    fn from(error: StoreError) -> Self {
        Self::Unlookable(error.into())
    }
}

/// Copies everything readable in `dir` to `to`, which must not exist or must be empty. `tell`
/// receives what is lost or uncertain. Blocks.
///
/// # Errors
/// When `dir` is in use or is no data directory, `to` is not empty, or a disk is full or fails.
pub fn salvage(dir: &Path, to: &Path, now: Timestamp, tell: &mut dyn FnMut(SalvageNote)) -> Result<Salvaged, SalvageError> {
    let readable = Readable::of(dir)?;
    let new = prepare(&readable, to)?;
    let done = report::SalvageReport { tell, done: Salvaged { was_whole: readable.is_whole, ..Salvaged::default() } };
    work(&readable, new, now, done).map_err(|error| SalvageError::Incomplete { dir: to.display().to_string(), error: error.to_string() })
}

/// Makes the new directory if there is room for the copy.
fn prepare(readable: &Readable, to: &Path) -> Result<Locked, SalvageError> {
    let shown = to.display().to_string();
    let from = readable.root().path();
    match std::fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
        Ok(false) => {}
        Ok(true) => return Err(SalvageError::NotEmpty { dir: shown }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::io("listing", to, &error).into()),
    }
    if is_within(to, from) {
        return Err(SalvageError::Within { to: shown, dir: from.display().to_string() });
    }
    let new = Locked::take(to).map_err(Unlookable::from)?;
    let needed = readable.bytes + content::size(readable.root())? + RESERVE;
    let free = new.root().free_bytes()?;
    if free < needed { Err(SalvageError::NoRoom { dir: shown, needed, free }) } else { Ok(new) }
}

/// Whether a path that may not exist yet lies within a directory.
fn is_within(path: &Path, dir: &Path) -> bool {
    let Ok(dir) = dir.canonicalize() else { return false };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok()).is_some_and(|real| real.starts_with(dir))
}

fn work(readable: &Readable, new: Locked, now: Timestamp, report: report::SalvageReport<'_>) -> Result<Salvaged, StoreError> {
    let to = new.furnish()?;
    let folder = to.root().folder(database(0))?;
    let tree = Tree::new(open_sled(&folder, CACHE)?, Default::default(), Seam::default());
    let out = Out { tree, sum: Sum::fresh(), writes: Writes::default() };
    let mut salvage = Salvage { to, now, out, report };
    salvage.work(readable)?;
    let Salvage { to, mut out, report, .. } = salvage;
    // Only this entry makes the directory a store.
    let format = readable.format.unwrap_or(migrate::CURRENT).max(SUMMED_FROM);
    out.writes.insert(FORMAT_KEY.to_vec(), &format.to_be_bytes());
    out.write()?;
    out.end(&to)?;
    Ok(report.done)
}

/// The new store, which the salvage writes to.
struct Out {
    tree: Tree,
    sum: Sum,
    writes: Writes,
}

impl Out {
    /// Writes the pending changes.
    fn write(&mut self) -> Result<(), StoreError> {
        let writes = std::mem::take(&mut self.writes);
        let values = writes.len();
        writes.apply(&self.tree, &mut self.sum, None)?;
        writer::collect_garbage(values);
        Ok(())
    }

    /// Writes the pending changes once there are at least `WRITE` of them.
    fn write_much(&mut self) -> Result<(), StoreError> {
        if self.writes.len() < WRITE { Ok(()) } else { self.write() }
    }

    /// Makes the whole store durable, and records that in the mark.
    fn end(self, to: &DataDir) -> Result<(), StoreError> {
        self.tree.flush()?;
        let folder = to.root().folder(database(0))?;
        folder.open(LOG)?.sync_all().map_err(|error| StoreError::io("flushing", &folder.path_of(LOG), &error))?;
        for folder in [to.files(), to.parts(), &folder, to.root()] {
            folder.sync()?;
        }
        drop(Mark::start(to.root(), 0, &self.sum)?);
        Ok(())
    }
}

struct Salvage<'a> {
    to: DataDir,
    now: Timestamp,
    out: Out,
    report: report::SalvageReport<'a>,
}

impl Salvage<'_> {
    fn work(&mut self, readable: &Readable) -> Result<(), StoreError> {
        for fault in &readable.faults {
            self.report.note(fault);
        }
        let mut copied = copy::copy(readable, &mut self.out, &mut self.report)?;
        content::copy(readable.root(), &self.to, &mut copied, &mut self.out, &mut self.report)?;
        self.make_batches_fit(&copied)?;
        self.make_lists(&copied)?;
        if readable.missing_writes > 0 {
            self.report.lost(Thing::Other(format!("{} writes to the store, of whatever they were", readable.missing_writes)));
        }
        match readable.expected.map(|expected| expected.saturating_sub(copied.entries)) {
            Some(0) => {}
            Some(missing) => self.report.lost(Thing::Other(format!("{missing} entries of the store; what is named is among them"))),
            None if readable.is_whole => {}
            None => self.report.lost(Thing::Other("entries of the store, an unknown number; what is named is among them".into())),
        }
        Ok(())
    }
}
