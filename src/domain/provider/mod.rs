//! Facts about a provider: how to reach it, its limits per minute, what it says about its load, and
//! whether an operator holds it.

pub mod connection;
pub mod lane_hold;
pub mod rate_limits;
pub mod server_hints;
