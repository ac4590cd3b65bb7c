//! Runs batches: validates their input, dispatches their rows, retries, and ends them.
//!
//! The rest of the daemon holds a [`Handle`]. Behind it one task, the dispatcher, owns all run
//! state and is the only one that moves a batch from state to state; it learns of the world through
//! messages, and the world learns of it through the store.
//!
//! Invariants others rely on:
//! * what a handle's call returns is durable;
//! * rows dispatched whose results are not durable never exceed the in-flight limit, so that is the
//!   most upstream calls that a crash repeats;
//! * memory does not grow with the number of rows of a batch.

mod again;
mod handle;

#[cfg(test)]
pub use handle::Stub;
pub use handle::{CancelError, Gone, Handle, RetryError};
