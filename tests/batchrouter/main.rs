//! The BatchRouter dialect of the running daemon, over real sockets, sentence by sentence as its
//! documents and observed answers state it. One module per subject.

mod account;
mod client;
mod lanes;
mod lifecycle;
mod spending;
mod submit;
mod supply;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;
mod webhooks;
mod wire;
mod workflows;
