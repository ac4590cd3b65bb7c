//! The pages of batches that are being read: readers of the same rows have them in memory but once,
//! however many readers there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::domain::id::BatchId;
use crate::store::record::page::Page;

/// The latest pages of each batch that has readers.
#[derive(Debug, Default)]
pub struct SharedPages(Mutex<HashMap<BatchId, Weak<[Page]>>>);

impl SharedPages {
    /// These pages, in the memory of an earlier reader if there is one with the same.
    pub fn share(&self, batch: BatchId, pages: Vec<Page>) -> Arc<[Page]> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(&batch).and_then(Weak::upgrade).filter(|same| **same == *pages) {
            return same;
        }
        known.retain(|_, pages| pages.strong_count() > 0);
        let pages: Arc<[Page]> = pages.into();
        known.insert(batch, Arc::downgrade(&pages));
        pages
    }
}
