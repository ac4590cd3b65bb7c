//! Giving space back: when most of the log is no longer in use, the store moves to a fresh
//! database.
//!
//! sled reuses the space of removed entries only in whole segments. A single small long-lived entry
//! keeps its segment, and the log never shrinks. So the entries are copied ([`super::copier`]), and
//! the mark then names the copy as the current database. That is one durable step: before it the
//! old database is whole, after it the new one is.

#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use rustix::fs::FileType;
use tokio::sync::mpsc::WeakSender;
use tokio::time::Instant;

use super::backup::BackupAnswer;
use super::copier::{Job, Mirror, remove};
use super::dir::{DataFile, Folder, database, generation as generation_of};
use super::sum::Sum;
use super::writer::{Op, Writer};
use super::writes::Writes;
use crate::store::error::StoreError;

/// Free space that a copy needs, in multiples of the bytes that it holds.
const ROOM: u64 = 3;
/// Factor by which a log must have grown since the last compaction before the next one.
const GROWTH: u64 = 2;
/// The pause after a compaction that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(600);

/// When to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compact {
    /// Compact when less than this share of the log is in use, in percent; 0 is never.
    pub below_percent: u32,
    /// Compact only from this size of the log on, in bytes.
    pub from_bytes: u64,
    /// Free space that must remain on the disk, in bytes.
    pub min_free_bytes: u64,
}

impl Default for Compact {
    fn default() -> Self {
        Self { below_percent: 40, from_bytes: 64 << 20, min_free_bytes: 0 }
    }
}

/// How large the store is, for monitoring.
#[derive(Debug, Default)]
pub struct Space {
    /// Bytes of the log.
    log: AtomicU64,
    /// Bytes of keys and values in the log.
    used: AtomicU64,
    compactions: AtomicU64,
    is_compacting: AtomicBool,
}

impl Space {
    /// Bytes of the store's log on disk.
    pub fn log_bytes(&self) -> u64 {
        self.log.load(Ordering::Relaxed)
    }

    /// Bytes of keys and values in the log.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Compactions since the start.
    pub fn compactions(&self) -> u64 {
        self.compactions.load(Ordering::Relaxed)
    }

    /// Whether a compaction is running.
    pub fn is_compacting(&self) -> bool {
        self.is_compacting.load(Ordering::Relaxed)
    }
}

/// Decides when to compact.
#[derive(Debug)]
pub(super) struct Compaction {
    pub when: Compact,
    pub space: Arc<Space>,
    root: Folder,
    /// Bytes of the log after the last compaction.
    after_last: u64,
    not_before: Option<Instant>,
}

impl Compaction {
    pub fn new(when: Compact, root: &Folder) -> Self {
        Self { when, space: Arc::default(), root: root.clone(), after_last: 0, not_before: None }
    }

    /// Whether a compaction is due, given the log as it is.
    pub fn is_due(&self, log: &DataFile, sum: &Sum) -> bool {
        let Ok(bytes) = log.bytes() else { return false };
        self.space.log.store(bytes, Ordering::Relaxed);
        self.space.used.store(sum.bytes, Ordering::Relaxed);
        let is_due = bytes >= self.when.from_bytes
            && sum.bytes.saturating_mul(100) < bytes.saturating_mul(self.when.below_percent.into())
            && bytes >= self.after_last.saturating_mul(GROWTH);
        is_due && self.not_before.is_none_or(|at| Instant::now() >= at) && self.has_room(sum)
    }

    fn has_room(&self, sum: &Sum) -> bool {
        self.root.free_bytes().is_ok_and(|free| free >= sum.bytes.saturating_mul(ROOM).saturating_add(self.when.min_free_bytes))
    }

    pub fn began(&self, sum: &Sum) {
        self.space.is_compacting.store(true, Ordering::Relaxed);
        tracing::info!(log_bytes = self.space.log_bytes(), used_bytes = sum.bytes, "compacting the store");
    }

    /// Notes that a compaction has ended: with a log of so many bytes, or without success.
    pub fn ended(&mut self, bytes: Option<u64>) {
        self.space.is_compacting.store(false, Ordering::Relaxed);
        match bytes {
            Some(bytes) => {
                let before = self.space.log.swap(bytes, Ordering::Relaxed);
                self.space.compactions.fetch_add(1, Ordering::Relaxed);
                self.after_last = bytes;
                tracing::info!(before_bytes = before, after_bytes = bytes, "the store was compacted");
            }
            None => self.not_before = Some(Instant::now() + AFTER_FAILURE),
        }
    }
}

/// Copies of the store that are being made: one at most.
#[derive(Debug)]
pub(super) struct Copies {
    pub mirror: Option<Mirror>,
    /// Where the answer goes, if the copy is for a backup.
    pub wanted: Option<SyncSender<BackupAnswer>>,
    pub compaction: Compaction,
    pub queue: WeakSender<Op>,
    pub root: Folder,
    /// Which database is the current one.
    pub generation: u64,
    pub cache_bytes: u64,
}

impl Copies {
    /// The group in which changes are noted that a copy needs, too.
    pub fn group(&mut self) -> Option<&mut Writes> {
        self.mirror.as_mut().map(|mirror| &mut mirror.group)
    }

    /// Hands the durable changes over to the copier.
    pub fn hand_over(&mut self) {
        if self.mirror.as_mut().is_some_and(|mirror| !mirror.hand_over()) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.mirror = None;
        if self.wanted.take().is_none() {
            self.compaction.ended(None);
        }
    }

    fn start(&mut self, job: Job) {
        match Mirror::start(job) {
            Ok(mirror) => self.mirror = Some(mirror),
            Err(error) => {
                tracing::warn!(%error, "the store cannot be copied now");
                self.give_up();
            }
        }
    }
}

impl Writer {
    /// Begins a compaction if one is due.
    pub(super) fn consider_compaction(&mut self) {
        if self.copies.mirror.is_some() || !self.copies.compaction.is_due(&self.log, &self.sum) {
            return;
        }
        self.copies.compaction.began(&self.sum);
        let (root, old) = (self.copies.root.clone(), self.copies.generation);
        self.start_copy(root.clone(), database(old + 1), move || retire(&root, old));
    }

    fn start_copy(&mut self, root: Folder, name: String, then: impl FnOnce() + Send + 'static) {
        let (cache_bytes, queue) = (self.copies.cache_bytes, self.copies.queue.clone());
        let job = Job { source: self.tree.sled(), root, name, cache_bytes, sum: self.sum, queue, then: Box::new(then) };
        self.copies.start(job);
    }

    /// Begins a copy for a backup, unless another copy is being made.
    pub(super) fn copy_to(&mut self, (root, name): (Folder, String), answer: SyncSender<BackupAnswer>) {
        if self.copies.mirror.is_some() {
            // The backup may no longer wait for an answer.
            let _ = answer.send(None);
            return;
        }
        self.copies.wanted = Some(answer);
        self.start_copy(root, name, || {});
    }

    /// Moves to the copy if it is whole, or hands it to the backup that wanted it. Everything that
    /// was written before is durable in both databases.
    ///
    /// # Errors
    /// When it is unknown which of the two databases a start would open.
    pub(super) fn take_copy(&mut self) -> Result<(), StoreError> {
        let Some(mut mirror) = self.copies.mirror.take() else { return Ok(()) };
        let Some(copy) = mirror.finish(self.sum) else {
            self.copies.give_up();
            return Ok(());
        };
        if let Some(wanted) = self.copies.wanted.take() {
            let _ = wanted.send(Some((copy, self.sum)));
            mirror.taken();
            return Ok(());
        }
        self.mark.switch(self.copies.generation + 1, &self.sum)?;
        self.copies.generation += 1;
        self.copies.compaction.ended(copy.log.bytes().ok());
        self.tree.replace(copy.tree);
        self.log = copy.log;
        mirror.taken();
        Ok(())
    }
}

/// Removes a database that is no longer the current one. Readers that still use it can go on.
fn retire(root: &Folder, generation: u64) {
    let name = database(generation);
    remove(root, &name);
    if generation == 0
        && let Err(error) = leave_note(root, &name)
    {
        tracing::warn!(%error, "no note could be left where the store was");
    }
}

/// The note left where the first database was, so that an older batchd does not begin a new
/// database there.
const NOTE: &str = "The store has moved to a folder beside this file; `mark` says to which. Older versions of batchd cannot open it.\n";

fn leave_note(root: &Folder, name: &str) -> Result<(), StoreError> {
    let written = root.create(name)?.write_all(NOTE.as_bytes());
    written.map_err(|error| StoreError::io("writing", &root.path_of(name), &error))
}

/// Removes databases that a kill left behind: unfinished copies, and a database that a copy has
/// replaced.
pub(super) fn remove_others(root: &Folder, current: u64) -> Result<(), StoreError> {
    for entry in root.entries()? {
        let other = generation_of(&entry.name).filter(|other| *other != current);
        if let Some(other) = other.filter(|_| entry.kind == FileType::Directory) {
            tracing::info!(folder = %root.path_of(&entry.name).display(), "removing a database of the store that is not in use");
            retire(root, other);
        }
    }
    Ok(())
}
