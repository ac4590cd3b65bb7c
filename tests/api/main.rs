//! The HTTP API of the running daemon, over real sockets: one binary, one module per subject.

mod access;
mod answers;
mod audio;
mod batches;
mod damage;
mod dedup;
mod deletion;
mod descriptors;
mod endpoints;
mod errors;
mod files;
mod invalid_rows;
mod outages;
mod retry;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;
mod uploads;
mod upstream;
mod validation;
