//! The layers around every handler: request ids and log lines, access, and the rest of a body.

pub mod access_policy;
pub mod admission;
pub mod audit;
pub mod auth;
pub mod caller;
pub mod head_fault;
pub mod lease;
pub mod operator_keys;
pub mod request_body;
pub mod trace;
