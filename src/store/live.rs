//! Unfinished batches in memory: the durable state of their rows, and nothing else.
//!
//! Invariant: only results that are on disk are ever visible here; the writer publishes a page
//! after the flush that made it durable. About 400 bytes for 1,024 rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::format::ROWS_PER_PAGE;
use super::record::page::Page;
use crate::domain::batch::Progress;
use crate::domain::batch::priority::Control;
use crate::domain::id::{BatchId, RowIndex};

/// One batch whose rows run.
#[derive(Debug)]
pub struct LiveBatch {
    inner: Mutex<Durable>,
}

#[derive(Debug)]
struct Durable {
    pages: Vec<Page>,
    progress: Progress,
    control: Control,
}

impl LiveBatch {
    pub(super) fn new(pages: Vec<Page>, control: Control) -> Self {
        let mut progress = Progress::default();
        for page in &pages {
            page.add_to(&mut progress);
        }
        Self { inner: Mutex::new(Durable { pages, progress, control }) }
    }

    fn lock(&self) -> MutexGuard<'_, Durable> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts and sums over the durable results.
    pub fn progress(&self) -> Progress {
        self.lock().progress
    }

    /// How the batch is to run, as last set.
    pub fn control(&self) -> Control {
        self.lock().control
    }

    pub(super) fn set_control(&self, control: Control) {
        self.lock().control = control;
    }

    /// The page with that number, as it is now.
    pub fn page(&self, number: u32) -> Option<Page> {
        self.lock().pages.get(number as usize).cloned()
    }

    /// Whether the result of a row is durable.
    pub fn is_done(&self, row: RowIndex) -> bool {
        self.lock().pages.get((row.0 / ROWS_PER_PAGE) as usize).is_some_and(|page| page.is_done(row.0 % ROWS_PER_PAGE))
    }

    /// All pages, as they are now.
    pub fn pages(&self) -> Vec<Page> {
        self.lock().pages.clone()
    }

    /// Replaces pages with newer ones that are durable.
    pub(super) fn publish(&self, newer: Vec<(u32, Page)>, added: &Progress) {
        let mut inner = self.lock();
        for (number, page) in newer {
            if let Some(slot) = inner.pages.get_mut(number as usize) {
                *slot = page;
            }
        }
        let progress = &mut inner.progress;
        progress.succeeded += added.succeeded;
        progress.failed += added.failed;
        progress.cancelled += added.cancelled;
        progress.output_bytes += added.output_bytes;
        progress.error_bytes += added.error_bytes;
        progress.usage += added.usage;
        progress.cost = progress.cost.plus(added.cost);
    }
}

/// The unfinished batches, by id.
#[derive(Debug, Clone, Default)]
pub(super) struct Lives(Arc<RwLock<HashMap<BatchId, Arc<LiveBatch>>>>);

impl Lives {
    pub fn get(&self, id: BatchId) -> Option<Arc<LiveBatch>> {
        self.0.read().unwrap_or_else(|p| p.into_inner()).get(&id).cloned()
    }

    pub fn insert(&self, id: BatchId, live: LiveBatch) {
        self.0.write().unwrap_or_else(|p| p.into_inner()).insert(id, Arc::new(live));
    }

    pub fn remove(&self, id: BatchId) {
        self.0.write().unwrap_or_else(|p| p.into_inner()).remove(&id);
    }
}
