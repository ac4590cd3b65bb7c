//! What may run where, how fast, and what it would cost.
//!
//! Which provider serves a model is decided in the catalog's snapshot; here is what depends on the
//! moment or on the work: how many calls a lane bears now ([`Limiter`], [`Pace`]) and what an input
//! file would cost ([`estimate()`]). Pure: no clock is read, nothing is sent, nothing is stored.

pub mod estimate;
pub mod limiter;
pub mod pace;

pub use estimate::{CostEstimate, EstimateError, EstimateLimits, estimate};
pub use limiter::Limiter;
pub use pace::Pace;
