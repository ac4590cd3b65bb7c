//! Facts about a provider: how it is reached, what it allows in a minute, and whether an operator holds it.

pub mod connection;
pub mod lane_hold;
pub mod rate_limits;
