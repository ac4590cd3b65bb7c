//! Why rows of a batch wait: what a person who looks at it must know. A view of the moment; nothing
//! here is stored.

use std::sync::Arc;

use crate::domain::provider::denial::Denial;
use crate::domain::time::Timestamp;

/// Rows of a batch that wait for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `provider/model` of the provider, or the provider alone for models that the catalog does not
    /// know; `None` if it is not a lane that they wait for.
    pub lane: Option<Arc<str>>,
    pub reason: WaitReason,
    /// Since when the reason holds, to the second, as far as it is known.
    pub since: Option<Timestamp>,
    /// Unfinished rows of the batch that it holds for.
    pub rows: u64,
    /// What the provider said, or why it cannot be reached. May name the operator's servers.
    pub said: Option<Arc<str>>,
}

/// Why rows wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// The provider refuses every request; it is tried once a minute.
    Denied(Denial),
    /// No connection to the provider can be made.
    Unreachable,
    /// Calls fail, and none succeeds.
    Failing,
    /// The provider asked for a pause.
    RateLimited,
    /// More calls of others wait in the server than its `max_waiting`.
    ServerBusy,
    /// An operator, or the catalog, has paused the lane.
    Paused,
    /// An operator has drained the lane, and there is no other.
    Drained,
    /// No provider serves the model any more, or its key is missing.
    NoProvider,
    /// Too many batches run already.
    Queued,
    /// The disk is nearly full.
    DiskFull,
}

impl WaitReason {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.code(),
            Self::Unreachable => "unreachable",
            Self::Failing => "failing",
            Self::RateLimited => "rate_limited",
            Self::ServerBusy => "server_busy",
            Self::Paused => "paused",
            Self::Drained => "drained",
            Self::NoProvider => "no_provider",
            Self::Queued => "queued",
            Self::DiskFull => "disk_full",
        }
    }

    /// The reason for a person, as the end of "rows wait: ".
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Denied(Denial::Key) => "the provider refuses the key",
            Self::Denied(Denial::Access) => "the provider denies access",
            Self::Denied(Denial::Credit) => "the account has no credit left",
            Self::Denied(Denial::Account) => "the account is closed",
            Self::Denied(Denial::Model) => "the provider does not have the model",
            Self::Denied(Denial::Path) => "the server does not have the endpoint",
            Self::Unreachable => "the server cannot be reached",
            Self::Failing => "every call fails",
            Self::RateLimited => "the provider asked for a pause",
            Self::ServerBusy => "others use the server, and enough calls wait there",
            Self::Paused => "the lane is paused",
            Self::Drained => "the lane is drained",
            Self::NoProvider => "no provider serves the model at present",
            Self::Queued => "other batches run first",
            Self::DiskFull => "the disk is nearly full",
        }
    }

    /// What has to be done before the rows go on; `None` if time alone may help.
    pub const fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Denied(denial) => Some(denial.remedy()),
            Self::Paused | Self::Drained => Some("resume the lane"),
            Self::NoProvider => Some("configure a provider that serves it"),
            Self::DiskFull => Some("free some space"),
            Self::Unreachable | Self::Failing | Self::RateLimited | Self::ServerBusy | Self::Queued => None,
        }
    }
}
