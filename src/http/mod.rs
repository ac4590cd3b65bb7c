//! The HTTP API. The only module that names axum and hyper's server side.
//!
//! Handlers are thin: they read a request into `domain` values, ask the service, the store or the
//! executor, and render the answer. What every request has in common (ids, access, limits, errors)
//! is in `layers`, `request` and `response`; each dialect has a module of its own, and `v1` decides
//! where several dialects have one path.
//!
//! Invariants others rely on:
//! * every response carries `x-request-id`, and every error the envelope of [`ApiError`];
//! * whatever a response shows is durable, because every store call waits for that;
//! * memory does not grow with the size of an upload or a download;
//! * work that must not be left half-done goes on when its client goes away.

mod access_class;
mod admin;
mod batchrouter;
mod dialect;
#[doc(hidden)]
pub mod fuzz;
mod layers;
mod openai;
mod ops;
mod phaseo;
mod request;
mod response;
mod route_table;
mod router;
mod server;
mod shares;
mod state;
mod v1;

#[cfg(test)]
mod tests;

pub use layers::access_policy::{Access, Origins};
pub use layers::operator_keys::OperatorKeys;
pub use phaseo::{batch_message, told_of_batches};
pub use request::body_room::BodyRoom;
pub use response::error::ApiError;
pub use response::read_ahead::ReadAhead;
pub use response::views::kept::Views;
pub use router::{probes, router};
pub use server::crowd::Crowd;
pub use server::serve;
pub use shares::files::FilePlaces;
pub use state::{Accounts, Api, Probe, UploadLimits};
