//! Giving space back: when most of the log is no longer in use, the store moves to a fresh
//! database.
//!
//! sled reuses the space of removed entries only in whole segments. A single small long-lived entry
//! keeps its segment, and the log never shrinks. So the entries are copied ([`super::copier`]), and
//! the mark then names the copy as the current database. That is one durable step: before it the
//! old database is whole, after it the new one is.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::dir::{DataFile, Folder};
use super::sum::Sum;

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
