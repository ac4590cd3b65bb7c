//! What is around every handler: the id and the log line of a request, who may call, what is left of a body.

pub mod access_policy;
pub mod auth;
pub mod caller;
pub mod request_body;
pub mod trace;
