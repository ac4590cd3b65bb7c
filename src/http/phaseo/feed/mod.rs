//! The feed for followers of a batch ([`crate::service::feed`]): over a WebSocket, as in this
//! dialect, and as server-sent events, for the batches of every dialect.

mod socket;
mod sse;
mod subscribe;

use serde_json::{Value, json};

pub use self::socket::{lacks_upgrade, socket, upgrade_required};
pub use self::sse::events;
use crate::service::feed::watcher::Frame;

/// The data of the message that the batch no longer exists.
pub fn deleted(frame: &Frame) -> Value {
    json!({ "id": frame.id, "kind": "batch" })
}
