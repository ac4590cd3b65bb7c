//! Facts about a provider: how to reach it, its limits per minute, why it refuses every request, and
//! whether an operator holds it.

pub mod connection;
pub mod denial;
pub mod lane_hold;
pub mod rate_limits;
