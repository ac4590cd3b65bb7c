//! The state that every handler is given: the parts of the daemon that it uses, and the limits on
//! requests.
//!
//! Not here: any route, and any dialect.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::layers::access_policy::Access;
use super::request::body_room::BodyRoom;
use super::response::error::ApiError;
use super::response::read_ahead::ReadAhead;
use super::response::views::kept::Views;
use super::shares::files::FilePlaces;
use crate::descriptors::Descriptors;
use crate::domain::file::Purpose;
use crate::domain::org::ledger::Credits;
use crate::domain::webhook::endpoint::{ProbeRefusal, Probed, Receiver};
use crate::domain::webhook::target_policy::Targets;
use crate::service::Service;
use crate::service::feed::watcher::Feeds;

/// The state that the handlers share.
pub struct Api {
    pub service: Arc<Service>,
    pub limits: UploadLimits,
    /// File descriptors: how many are open, and how many may be.
    pub descriptors: Descriptors,
    pub access: Access,
    /// The views that were rendered of the catalog.
    pub views: Views,
    /// The URL at which clients reach the daemon, if it differs from where the daemon listens: the
    /// beginning of links.
    pub public_url: Option<String>,
    pub accounts: Accounts,
    /// Bounds the bodies that are held as a whole.
    pub bodies: BodyRoom,
    /// Places among the open files, for uploads and downloads.
    pub files: FilePlaces,
    /// Bounds what downloads have read and their clients have not taken.
    pub read_ahead: ReadAhead,
    /// Sends test messages to receivers.
    pub probe: Probe,
    /// The batches that at least one client follows.
    pub feeds: Feeds,
}

/// What clients may do with accounts.
#[derive(Debug, Clone, Copy)]
pub struct Accounts {
    /// Whether any caller may register an organisation.
    pub may_register: bool,
    /// What a newly registered organisation may spend.
    pub first_credits: Credits,
    /// Which receivers of messages clients may name.
    pub targets: Targets,
    /// Whether Phaseo's batches must name receivers that are managed separately, instead of URLs.
    pub managed_receivers: bool,
}

/// Sends one test message to a receiver.
pub type Probe = Arc<dyn Fn(Receiver) -> BoxFuture<'static, Result<Probed, ProbeRefusal>> + Send + Sync>;

impl Default for Accounts {
    /// The settings for a daemon that only its own machine can reach.
    fn default() -> Self {
        Self { may_register: true, first_credits: Credits::Unlimited, targets: Targets::PublicAndLoopback, managed_receivers: false }
    }
}

/// Limits on what clients may send, besides those of the service.
#[derive(Debug, Clone)]
pub struct UploadLimits {
    /// The most bytes of a file uploaded in one request.
    pub max_file_bytes: u64,
    /// The most bytes of a file uploaded in parts.
    pub max_upload_bytes: u64,
    /// The most bytes of one part.
    pub max_part_bytes: u64,
    /// When a batch file expires if its upload does not say; `None` keeps it.
    pub file_retention: Option<Duration>,
    /// The longest wait for the next piece of a request's body.
    pub body_idle: Duration,
}

impl UploadLimits {
    /// How long a file of this purpose is kept if its upload does not say; `None` keeps it.
    pub fn retention(&self, purpose: Purpose) -> Option<Duration> {
        self.file_retention.filter(|_| purpose == Purpose::Batch)
    }
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            max_file_bytes: 1 << 30,
            max_upload_bytes: 8 << 30,
            max_part_bytes: 64 << 20,
            file_retention: None,
            body_idle: Duration::from_secs(60),
        }
    }
}

impl Api {
    /// See [`Service::seal`].
    pub(super) fn seal(&self, secret: &str) -> Result<Vec<u8>, ApiError> {
        Ok(self.service.seal(secret)?)
    }

    /// See [`Service::check_open`].
    pub(super) fn check_open(&self) -> Result<(), ApiError> {
        Ok(self.service.check_open()?)
    }

    /// See [`Service::check_room`].
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), ApiError> {
        Ok(self.service.check_room(bytes)?)
    }

    /// See [`Service::to_the_end`]: hyper drops a handler whose connection closes.
    pub(super) async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, ApiError> {
        Ok(self.service.to_the_end(work).await?)
    }
}
