//! What a provider says, with an answer, is left of its limits.

use std::time::Duration;

/// What is left of one limit, as an answer says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitLeft {
    /// How much there is at most, if it is said.
    pub limit: Option<u64>,
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset: Duration,
}

/// What is left of the limits on requests and on tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimitStatus {
    pub requests: Option<RateLimitLeft>,
    pub tokens: Option<RateLimitLeft>,
}
