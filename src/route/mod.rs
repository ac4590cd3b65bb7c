//! What may run where, how fast, whose turn it is, and what it would cost.
//!
//! Which provider serves a model is decided in the catalog's snapshot; here is what depends on the
//! moment or on the work. How much a lane bears: calls at a time ([`Limiter`]), stated rates
//! ([`Pace`]), rates found out ([`Throttle`]), what is left by the provider's own word ([`Quota`]), and
//! whether it is well at all ([`Breaker`]). Whose row is next ([`Fair`]). What an input file would
//! cost ([`estimate()`]). Which lanes serve the items of a quote, and why the others do not
//! ([`quote`]), and how many tokens they are ([`tokens`]). Pure: no clock is read, nothing is sent, nothing is stored.

pub mod bound;
pub mod breaker;
pub mod estimate;
pub mod fair;
pub mod limiter;
pub mod pace;
pub mod quota;
pub mod quote;
pub mod throttle;
pub mod tokens;
mod trial;
pub mod window;

pub use breaker::Breaker;
pub use estimate::{CostEstimate, EstimateError, EstimateLimits, estimate};
pub use fair::Fair;
pub use limiter::Limiter;
pub use pace::Pace;
pub use quota::Quota;
pub use throttle::Throttle;
