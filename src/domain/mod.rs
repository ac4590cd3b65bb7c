//! The vocabulary of the product: batches, rows, outcomes, files, prices, failures.
//!
//! Pure values and pure functions. No I/O, no async, no clock: callers that need the time pass it
//! in. Everything above (store, catalog, provider, executor, http) speaks in these types, so a
//! wrong id, a half-finished batch or a float holding money does not compile.
//!
//! Invariants others rely on:
//! * an id is parsed once at the edge and is a `Copy` 128-bit value from there on;
//! * [`batch::BatchState`] changes only through [`batch::BatchState::apply`], and terminal states
//!   absorb every event;
//! * a row has exactly one [`row::RowResult`], rendered to bytes by [`row::output`] alone.

pub mod audit;
pub mod authority;
pub mod batch;
pub mod dialect;
pub mod endpoint;
pub mod error;
pub mod file;
pub mod format;
pub mod id;
pub mod money;
pub mod org;
pub mod provider;
pub mod quote;
pub mod row;
pub mod suggest;
pub mod text;
pub mod time;
pub mod usage;
pub mod vocabulary;
pub mod webhook;
