//! What a batch of Phaseo's has besides what other batches of items have: the words of its create that its
//! object repeats, and who is told of it.

use crate::domain::endpoint::Endpoint;
use crate::domain::id::{ReceiverId, RequestId};
use crate::domain::time::CompletionWindow;
use crate::domain::vocabulary::wire_enum;
use crate::domain::webhook::Webhook;

wire_enum! {
    /// Where the rows of a batch came from.
    InputMode {
        /// A file that was uploaded.
        File = "file",
        /// The create itself.
        Requests = "requests",
    }
}

wire_enum! {
    /// What somebody is told of a batch (Phaseo's phases).
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
    /// What is told if nobody has said what should be (its documentation of subscriptions).
    pub const DEFAULT: [Self; 5] = [Self::StatusChanged, Self::Completed, Self::Failed, Self::Cancelled, Self::Expired];

    /// The phase that an event is named for: `batch.completed`, `job.completed` or `completed`, in any case, also
    /// with one `l` in `cancelled`.
    pub fn of_event(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let phase = name.strip_prefix("batch.").or_else(|| name.strip_prefix("job.")).unwrap_or(&name);
        if phase == "canceled" { Some(Self::Cancelled) } else { Self::parse(phase) }
    }

    /// The type of its event on the wire.
    pub fn event(self) -> String {
        format!("batch.{self}")
    }
}

/// The words of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseoDetails {
    /// The request that created it.
    pub request: RequestId,
    /// What every row is for.
    pub endpoint: Endpoint,
    pub window: CompletionWindow,
    pub mode: InputMode,
    /// The client's own id for a group of batches.
    pub session: Option<String>,
    /// The provider that serves most of its rows by its quote.
    pub provider: String,
    pub subscription: Option<Subscription>,
}

/// Who is told of a batch, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub receiver: Receiver,
    /// As the create has them; empty to be told what the receiver wants to be told by itself.
    pub phases: Vec<Phase>,
}

/// Where it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// One that is managed by itself, and may change.
    Managed(ReceiverId),
    /// One that the create named; without a secret its messages are not signed.
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
