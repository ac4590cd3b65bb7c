//! Batches and files as the salvage has read them, before they are made to fit each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::batch::{BatchSpec, BatchState, Progress};
use crate::domain::file::File;
use crate::domain::id::{BatchId, FileId};

/// A batch as the salvage read it.
pub(super) struct SalvagedBatch {
    pub id: BatchId,
    pub spec: BatchSpec,
    pub state: BatchState,
    pub ended: Option<Progress>,
    /// Number of rows in its plan.
    pub plan: Option<u32>,
}

/// The files that batches need or make.
pub(super) struct SalvagedFiles {
    /// Records to be written.
    pub known: BTreeMap<FileId, File>,
    /// Content without a record.
    pub content: BTreeSet<FileId>,
    /// Content that is still needed, although its file was deleted.
    pub needed: BTreeSet<FileId>,
    /// Views over results, by their batch.
    pub views: BTreeMap<BatchId, Vec<FileId>>,
}
