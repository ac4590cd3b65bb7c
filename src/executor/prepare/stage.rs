//! How far a batch has come on its way to its first call, for display.
//!
//! Kept in memory only. Batches are prepared in the order in which they were created, so that
//! batches that were being routed when a daemon died are routed first when it comes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::domain::id::BatchId;

/// What is being done to a batch that is not validated yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// The batch was accepted; the executor has not taken it yet.
    #[default]
    Pending,
    /// The batch waits until others have been routed.
    Queued,
    /// The input is being read and lanes are being chosen.
    Routing,
}

/// The stages of batches that the executor has taken.
#[derive(Debug, Clone, Default)]
pub struct Stages(Arc<Mutex<HashMap<BatchId, Stage>>>);

impl Stages {
    fn lock(&self) -> MutexGuard<'_, HashMap<BatchId, Stage>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn of(&self, batch: BatchId) -> Stage {
        self.lock().get(&batch).copied().unwrap_or_default()
    }

    pub fn set(&self, batch: BatchId, stage: Stage) {
        self.lock().insert(batch, stage);
    }

    /// Removes a batch that runs or has ended.
    pub fn leave(&self, batch: BatchId) {
        self.lock().remove(&batch);
    }
}
