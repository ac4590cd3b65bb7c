//! Managed receivers of messages (Phaseo's webhook endpoints). Batches name a receiver by its id;
//! its URL and secret may change in the meantime.

use super::Webhook;
use crate::domain::batch::phaseo::Phase;
use crate::domain::id::{OrgId, ReceiverId};
use crate::domain::time::Timestamp;

/// A receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    pub id: ReceiverId,
    pub org: OrgId,
    /// A name for people.
    pub name: String,
    pub webhook: Webhook,
    pub status: ReceiverStatus,
    /// Names of the events that the receiver wants, as its client gave them. Names of events that
    /// do not concern batches are kept and have no effect here.
    pub events: Vec<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

crate::domain::vocabulary::wire_enum! {
    /// Whether a receiver gets any messages.
    ReceiverStatus {
        Active = "active",
        Disabled = "disabled",
        /// Deleted for good. The record is kept so that it can be looked at.
        Deleted = "deleted",
    }
}

impl Receiver {
    /// Events that a new receiver gets if its create names none (Phaseo's documents).
    pub const DEFAULT_EVENTS: [&str; 6] =
        ["video.completed", "video.failed", "video.cancelled", "batch.completed", "batch.failed", "batch.cancelled"];

    /// The phases of a batch that the receiver wants messages about; the default phases if it names
    /// none.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases: Vec<_> = self.events.iter().filter_map(|name| Phase::of_event(name)).collect();
        phases.sort_unstable();
        phases.dedup();
        if phases.is_empty() { Phase::DEFAULT.to_vec() } else { phases }
    }
}

/// The result of a test message to a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The event's id on the wire.
    pub event: String,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub preview: Option<String>,
    /// Why the receiver did not accept the message; `None` if it did.
    pub error: Option<String>,
}

/// Why a test message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeRefusal {
    #[error("as many messages of the workspace are being sent as may be sent at a time; try again when one has ended")]
    OfOrg,
    #[error("as many messages are being sent to the host of `url` as may be sent at a time; try again when one has ended")]
    OfHost,
    #[error("as many messages are being sent as may be sent at a time; try again when one has ended")]
    OfAll,
}
