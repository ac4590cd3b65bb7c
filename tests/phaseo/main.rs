//! The Phaseo dialect of the running daemon, over real sockets. One module per subject.

mod client;
mod feed;
mod lifecycle;
mod messages;
mod servers;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;
mod validation;
mod webhooks;
