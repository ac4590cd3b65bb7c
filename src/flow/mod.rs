//! How fast work may go out, and whose turn it is: the algorithms of pacing.
//!
//! How much a lane bears: calls at a time ([`Limiter`]), stated rates ([`Pace`]), rates found out
//! ([`Throttle`]), what is left by the provider's own word ([`Quota`]), and whether its circuit is closed
//! ([`Breaker`]). Whose row is next ([`Fair`]).
//!
//! Pure: no clock is read, nothing is sent, nothing is stored. They know neither catalog nor prices.

pub mod adaptive_rate;
pub mod circuit_breaker;
pub mod concurrency_limiter;
pub mod fair_queue;
pub mod rate_limiter;
pub mod rate_window;
pub mod remaining_quota;
mod step_trial;

pub use adaptive_rate::Throttle;
pub use circuit_breaker::Breaker;
pub use concurrency_limiter::Limiter;
pub use fair_queue::Fair;
pub use rate_limiter::Pace;
pub use remaining_quota::Quota;
