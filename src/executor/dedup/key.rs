//! The key under which a row's answer is shared: what the row asks.

use crate::domain::batch::dedup::RequestDigest;

/// What a row asks, and the moment at which the store was searched for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupKey {
    pub request: RequestDigest,
    pub at: Moment,
}

/// Counts how often answers have become durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(super) u64);
