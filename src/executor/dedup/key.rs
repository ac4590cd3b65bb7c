//! What a row asks, as a key under which its answer is shared.

use crate::domain::batch::dedup::RequestDigest;

/// What a row asks, and the moment from which it was looked for an answer in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupKey {
    pub request: RequestDigest,
    pub at: Moment,
}

/// Counts how often answers have become durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(super) u64);
