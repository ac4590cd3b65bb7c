//! The HTTP API. The only module that names axum and hyper's server side.
//!
//! Handlers are thin: they read a request into `domain` values, ask the store or the executor, and
//! render the answer. What every request has in common (ids, access, limits, errors) is here; what
//! belongs to one dialect is in a module of its own, and `shared` decides where several have a path.
//!
//! Invariants others rely on:
//! * every response carries `x-request-id`, and every error the envelope of [`ApiError`];
//! * whatever a response shows is durable, because every store call waits for that;
//! * memory does not grow with the size of an upload or a download;
//! * work that must not be left half-done goes on when its client goes away.

mod access;
mod admin;
mod batchrouter;
mod body;
mod canonical;
mod connection;
mod crowd;
mod dialect;
mod error;
mod extract;
mod form;
mod gate;
mod keys;
mod lanes;
mod links;
mod metrics;
mod openai;
mod ops;
mod orgs;
mod phaseo;
mod range;
mod router;
mod routes;
mod serve;
mod shared;
mod state;
mod stream;
mod trace;
mod views;

#[cfg(test)]
mod tests;

pub use access::{Access, Origins};
pub use batchrouter::Quoting;
pub use error::ApiError;
pub use phaseo::feed::Feeds;
pub use phaseo::told_of_batches;
pub use router::router;
pub use serve::serve;
pub use state::{Accounts, Api, Limits, Probe, QuoteTerms};
pub use views::Views;
