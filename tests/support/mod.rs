//! Code that the integration tests share: the real daemon in a temporary directory, a blocking HTTP
//! client, a scriptable upstream, row builders, bounded waiting.
//!
//! Every panic comes with the daemon's log: a test that hangs or fails must explain itself.

pub mod api;
pub mod client;
pub mod daemon;
pub mod http;
pub mod rows;
pub mod seeds;
pub mod upstream;
pub mod wait;
