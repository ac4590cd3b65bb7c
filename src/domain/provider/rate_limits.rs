//! What remains of a provider's limits, as its responses report it.

use std::time::Duration;

/// What remains of one limit, as a response reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitLeft {
    /// The full limit, if the response reports it.
    pub limit: Option<u64>,
    pub remaining: u64,
    /// Time until the full limit is available again.
    pub reset: Duration,
}

/// What remains of the limits on requests and on tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimitStatus {
    pub requests: Option<RateLimitLeft>,
    pub tokens: Option<RateLimitLeft>,
}
