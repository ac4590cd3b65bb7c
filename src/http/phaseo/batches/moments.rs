//! When a batch changed last, and how this dialect writes times as texts.

use crate::domain::batch::{Batch, BatchState};
use crate::domain::time::Timestamp;

/// A timestamp as a text.
pub fn text(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// When a batch entered its present state.
pub fn updated(batch: &Batch) -> Timestamp {
    match &batch.state {
        BatchState::Validating => batch.spec.created_at,
        BatchState::InProgress { since } | BatchState::Finalizing { since, .. } | BatchState::Cancelling { since, .. } => *since,
        BatchState::Failed { at }
        | BatchState::Completed { at, .. }
        | BatchState::Expired { at, .. }
        | BatchState::Cancelled { at, .. } => *at,
    }
}
