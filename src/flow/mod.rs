//! The algorithms of pacing: how fast work may go out, and whose turn it is.
//!
//! How much a lane takes: calls at a time ([`ConcurrencyLimiter`]), stated rates ([`RateLimiter`]),
//! rates found out ([`AdaptiveRate`]), what is left according to the provider ([`RemainingQuota`]),
//! pauses that it asks for ([`RequestedPause`]),
//! and whether its circuit is closed ([`CircuitBreaker`]). Whose failures those of a lane are:
//! [`FailureShares`]. Whose row is next: [`FairQueue`].
//!
//! Pure: no clock is read, nothing is sent, nothing is stored. The algorithms know neither catalog
//! nor prices.

pub mod adaptive_rate;
pub mod circuit_breaker;
pub mod concurrency_limiter;
pub mod failure_shares;
pub mod fair_queue;
mod goodput;
mod knee_search;
pub mod places;
pub mod rate_limiter;
pub mod rate_window;
pub mod remaining_quota;
pub mod requested_pause;
#[cfg(test)]
pub mod simulation;
pub mod well_rate;

pub use adaptive_rate::AdaptiveRate;
pub use circuit_breaker::CircuitBreaker;
pub use concurrency_limiter::ConcurrencyLimiter;
pub use failure_shares::FailureShares;
pub use fair_queue::FairQueue;
pub use rate_limiter::RateLimiter;
pub use remaining_quota::RemainingQuota;
pub use requested_pause::RequestedPause;
