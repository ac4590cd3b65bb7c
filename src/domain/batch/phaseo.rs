//! The additional parts of a Phaseo batch, compared with other batches of items: the fields of its
//! create that its object repeats, and the receiver of its messages.

use crate::domain::endpoint::Endpoint;
use crate::domain::id::{ReceiverId, RequestId};
use crate::domain::time::CompletionWindow;
use crate::domain::vocabulary::wire_enum;
use crate::domain::webhook::Webhook;

wire_enum! {
    /// Where the rows of a batch came from.
    InputMode {
        /// An uploaded file.
        File = "file",
        /// The create request itself.
        Requests = "requests",
    }
}

wire_enum! {
    /// The phases of a batch that a receiver can get messages about (Phaseo's phases).
    Phase {
        Created = "created",
        StatusChanged = "status_changed",
        Progress = "progress",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        Expired = "expired",
    }
}

impl Phase {
    /// The phases that are reported if the client names none (Phaseo's documentation of
    /// subscriptions).
    pub const DEFAULT: [Self; 5] = [Self::StatusChanged, Self::Completed, Self::Failed, Self::Cancelled, Self::Expired];

    /// The phase that an event name stands for: `batch.completed`, `job.completed` or `completed`,
    /// in any case, also with one `l` in `cancelled`.
    pub fn of_event(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let phase = name.strip_prefix("batch.").or_else(|| name.strip_prefix("job.")).unwrap_or(&name);
        if phase == "canceled" { Some(Self::Cancelled) } else { Self::parse(phase) }
    }

    /// The type of the phase's event on the wire.
    pub fn event(self) -> String {
        format!("batch.{self}")
    }
}

/// The fields of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseoDetails {
    /// The request that created the batch.
    pub request: RequestId,
    /// The endpoint of every row.
    pub endpoint: Endpoint,
    pub window: CompletionWindow,
    pub mode: InputMode,
    /// The client's own id for a group of batches.
    pub session: Option<String>,
    /// The provider that serves most rows of the batch, by its quote.
    pub provider: String,
    pub subscription: Option<Subscription>,
}

/// The receiver of messages about a batch, and their phases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub receiver: Receiver,
    /// The phases in the create; empty to use the phases that the receiver itself is set to get.
    pub phases: Vec<Phase>,
}

/// The destination of the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// A managed receiver, which may change.
    Managed(ReceiverId),
    /// A receiver that the create named. Without a secret its messages are not signed.
    Own(Webhook),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_in_several_ways() {
        for name in ["batch.cancelled", "job.canceled", "CANCELLED", " batch.Canceled "] {
            assert_eq!(Phase::of_event(name), Some(Phase::Cancelled), "{name}");
        }
        for name in ["video.completed", "batch.", "batch.done", ""] {
            assert_eq!(Phase::of_event(name), None, "{name}");
        }
        assert_eq!(Phase::StatusChanged.event(), "batch.status_changed");
    }
}
