//! Receivers of messages that are managed by themselves (Phaseo's webhook endpoints): batches name them by
//! their id, and their URL and secret may change meanwhile.

use super::Webhook;
use crate::domain::batch::phaseo::Phase;
use crate::domain::id::{OrgId, ReceiverId};
use crate::domain::time::Timestamp;

/// A receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    pub id: ReceiverId,
    pub org: OrgId,
    /// For people.
    pub name: String,
    pub webhook: Webhook,
    pub status: ReceiverStatus,
    /// Names of the events that it wants, as it was told them; those of other things than batches are kept, and
    /// mean nothing here.
    pub events: Vec<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

crate::domain::vocabulary::wire_enum! {
    /// Whether a receiver is told anything.
    ReceiverStatus {
        Active = "active",
        Disabled = "disabled",
        /// For good; it is kept to be looked at.
        Deleted = "deleted",
    }
}

impl Receiver {
    /// Events that a new one wants if it does not say (its documents).
    pub const DEFAULT_EVENTS: [&str; 6] =
        ["video.completed", "video.failed", "video.cancelled", "batch.completed", "batch.failed", "batch.cancelled"];

    /// The phases of a batch that it wants to be told of; the usual ones if it names none.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases: Vec<_> = self.events.iter().filter_map(|name| Phase::of_event(name)).collect();
        phases.sort_unstable();
        phases.dedup();
        if phases.is_empty() { Phase::DEFAULT.to_vec() } else { phases }
    }
}

/// What became of a message that tried a receiver out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// Its id on the wire.
    pub event: String,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub preview: Option<String>,
    /// Why it was not taken; `None` if it was.
    pub error: Option<String>,
}
