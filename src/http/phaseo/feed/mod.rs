//! What followers of a batch are told ([`crate::service::feed`]), over a WebSocket, as this dialect has it, and as
//! server-sent events, for the batches of every dialect.

mod socket;
mod sse;
mod subscribe;

use serde_json::{Value, json};

pub use self::socket::{lacks_upgrade, socket, upgrade_required};
pub use self::sse::events;
use crate::service::feed::watcher::Frame;

/// What is told if there is no such batch any more.
pub fn deleted(frame: &Frame) -> Value {
    json!({ "id": frame.id, "kind": "batch" })
}
