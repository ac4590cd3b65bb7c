//! What a salvage reports about things that it could not recover.

use std::fmt;

use super::super::check::ranges;
use super::Salvaged;
use crate::domain::id::{BatchId, FileId};

/// Something that was in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    Batch(BatchId),
    /// The results of these rows of a batch.
    Rows(BatchId, Vec<u32>),
    /// All results of a batch.
    Results(BatchId),
    File(FileId),
    /// Anything else, in words.
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

/// One note of a salvage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SalvageNote {
    /// A fault in the old directory.
    Fault(String),
    /// The thing is not in the new directory.
    Lost(Thing),
    /// The thing is there, but differs from what it was; the text says how.
    Changed(Thing, String),
    /// It is unknown whether the thing is in its last state; the text says why.
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

/// Passes notes on, and counts the losses.
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
