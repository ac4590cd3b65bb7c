//! What a salvage tells of what it could not bring back.

use std::fmt;

use super::super::check::ranges;
use super::Salvaged;
use crate::domain::id::{BatchId, FileId};

/// Something that was in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    Batch(BatchId),
    /// Rows of a batch whose results are meant.
    Rows(BatchId, Vec<u32>),
    /// All results of a batch.
    Results(BatchId),
    File(FileId),
    /// In words.
    Other(String),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(id) => write!(f, "batch {id}"),
            Self::Rows(id, rows) => write!(f, "batch {id}: results of rows {}", ranges(rows).join(", ")),
            Self::Results(id) => write!(f, "batch {id}: all of its results"),
            Self::File(id) => write!(f, "file {id}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// What a salvage tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SalvageNote {
    /// A fault of the old directory.
    Fault(String),
    /// It is not in the new directory.
    Lost(Thing),
    /// It is there, and another than it was.
    Changed(Thing, String),
    /// Whether it is as it was last cannot be told, and why.
    Unsure(Thing, &'static str),
}

impl fmt::Display for SalvageNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(what) => write!(f, "found: {what}"),
            Self::Lost(thing) => write!(f, "lost: {thing}"),
            Self::Changed(thing, how) => write!(f, "changed: {thing}: {how}"),
            Self::Unsure(thing, why) => write!(f, "unsure: {thing}: {why}"),
        }
    }
}

/// Where it is told, and counted.
pub(super) struct SalvageReport<'a> {
    pub tell: &'a mut dyn FnMut(SalvageNote),
    pub done: Salvaged,
}

impl SalvageReport<'_> {
    pub fn note(&mut self, fault: &str) {
        (self.tell)(SalvageNote::Fault(fault.to_owned()));
    }

    pub fn lost(&mut self, thing: Thing) {
        match &thing {
            Thing::Batch(_) => self.done.lost_batches += 1,
            Thing::Rows(_, rows) => self.done.lost_rows += rows.len() as u64,
            Thing::File(_) => self.done.lost_files += 1,
            Thing::Results(_) | Thing::Other(_) => {}
        }
        (self.tell)(SalvageNote::Lost(thing));
    }

    pub fn changed(&mut self, thing: Thing, how: impl Into<String>) {
        (self.tell)(SalvageNote::Changed(thing, how.into()));
    }

    pub fn unsure(&mut self, thing: Thing, why: &'static str) {
        (self.tell)(SalvageNote::Unsure(thing, why));
    }
}
