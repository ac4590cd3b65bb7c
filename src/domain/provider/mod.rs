//! Facts about a provider: how to reach it, what is changed in its requests, its limits per minute, what
//! it says about its load, why it refuses every request, and whether an operator holds it.

pub mod body_edits;
pub mod connection;
pub mod denial;
pub mod lane_hold;
pub mod rate_limits;
pub mod server_hints;
