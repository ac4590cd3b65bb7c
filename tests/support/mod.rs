//! What the integration tests share: the real daemon in a temporary directory, a blocking HTTP
//! client, a scriptable upstream, row builders, bounded waiting.
//!
//! Everything panics with the daemon's log at hand: a test that hangs or fails must explain itself.

pub mod api;
pub mod client;
pub mod daemon;
pub mod http;
pub mod rows;
pub mod seeds;
pub mod upstream;
pub mod wait;
