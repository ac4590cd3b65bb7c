//! The vocabulary of the product: batches, rows, outcomes, files, prices, failures.
//!
//! Pure values and pure functions. No I/O, no async, no clock: whoever needs the time passes it
//! in. Everything above (store, catalog, provider, executor, http) speaks in these types, so a
//! wrong id, a half-finished batch or a float holding money does not compile.
//!
//! Invariants others rely on:
//! * an id is parsed once at the edge and is a `Copy` 128-bit value from there on;
//! * [`batch::BatchState`] changes only through [`batch::BatchState::apply`], and terminal states
//!   absorb every event;
//! * a row has exactly one [`row::RowResult`], rendered to bytes by [`output`] alone.

pub mod allowance;
pub mod batch;
pub mod connection;
pub mod conversation;
pub mod dedup;
pub mod delivery;
pub mod dialect;
pub mod endpoint;
pub mod error;
pub mod file;
pub mod gateway;
pub mod id;
pub mod item;
pub mod lane;
pub mod ledger;
pub mod lines;
pub mod metadata;
pub mod money;
pub mod nearest;
pub mod observed;
pub mod org;
pub mod output;
pub mod plan;
pub mod prefix;
pub mod problem;
pub mod quote;
pub mod receipt;
pub mod receiver;
pub mod request;
pub mod retry;
pub mod routing;
pub mod row;
pub mod share;
pub mod target;
pub mod telling;
pub mod text;
pub mod time;
pub mod upload;
pub mod usage;
pub mod webhook;
pub mod words;
