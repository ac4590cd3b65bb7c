//! What every handler is given: the parts of the daemon that it asks, and the limits that it holds requests to.
//!
//! Not here: any route, and any dialect.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::batchrouter::Quoting;
use super::layers::auth::Access;
use super::phaseo::feed::Feeds;
use super::response::error::ApiError;
use super::response::views::Views;
use crate::catalog::Catalog;
use crate::descriptors::Descriptors;
use crate::domain::org::ledger::Credits;
use crate::domain::quote::constraints::TierTimes;
use crate::domain::time::Clock;
use crate::domain::webhook::endpoint::{Probed, Receiver};
use crate::domain::webhook::target_policy::Targets;
use crate::executor;
use crate::store::Store;

/// What the handlers need.
pub struct Api {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub executor: executor::Handle,
    pub clock: Clock,
    pub limits: Limits,
    /// What is open, and what may be.
    pub descriptors: Descriptors,
    pub access: Access,
    /// What was rendered of the catalog.
    pub views: Views,
    /// Where others reach the daemon, if that is not where it listens: the beginning of links.
    pub public_url: Option<String>,
    pub accounts: Accounts,
    /// Bounds the quotes that are made at the same time.
    pub quoting: Quoting,
    /// Tries receivers out.
    pub probe: Probe,
    /// The batches that somebody follows.
    pub feeds: Feeds,
    /// Cancelled when the daemon begins to stop: from then on nothing new is created.
    pub draining: CancellationToken,
    /// Work that goes on when its client goes away; the daemon waits for it before it closes the store.
    pub tasks: TaskTracker,
}

/// What clients may do with accounts.
#[derive(Debug, Clone, Copy)]
pub struct Accounts {
    /// Whoever may call may register an organisation.
    pub may_register: bool,
    /// What such a one may spend.
    pub first_credits: Credits,
    /// Which receivers of messages may be named.
    pub targets: Targets,
    /// Batches of Phaseo's name receivers that are managed by themselves, and no URLs.
    pub managed_receivers: bool,
}

/// Sends one message to a receiver, to try it out.
pub type Probe = Arc<dyn Fn(Receiver) -> BoxFuture<'static, Probed> + Send + Sync>;

impl Default for Accounts {
    /// As for a daemon that only its own machine can reach.
    fn default() -> Self {
        Self { may_register: true, first_credits: Credits::Unlimited, targets: Targets::PublicAndLoopback, managed_receivers: false }
    }
}

/// Limits of what clients may send.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a file uploaded in one request.
    pub max_file_bytes: u64,
    /// Bytes of a file uploaded in parts.
    pub max_upload_bytes: u64,
    /// Bytes of one part.
    pub max_part_bytes: u64,
    /// Bytes of one line that a cost estimate looks at: the limit of a row.
    pub max_line_bytes: usize,
    /// Room on the disk that nothing uploaded may use.
    pub min_free_bytes: u64,
    /// When a batch file goes away if its upload does not say; `None` keeps it.
    pub file_retention: Option<Duration>,
    /// How long the next piece of a request's body may take.
    pub body_idle: Duration,
    pub quotes: QuoteTerms,
}

/// What quotes may be, and how long they hold.
#[derive(Debug, Clone)]
pub struct QuoteTerms {
    /// Items in one request.
    pub max_items: usize,
    /// Bytes of the body of one request.
    pub max_body_bytes: u64,
    /// How long its prices hold.
    pub validity: Duration,
    pub tiers: TierTimes,
    /// What is charged besides what providers charge, in percent of that.
    pub fee: Decimal,
}

impl Default for QuoteTerms {
    fn default() -> Self {
        Self {
            max_items: 5_000,
            max_body_bytes: 20 << 20,
            validity: Duration::from_secs(600),
            tiers: TierTimes::default(),
            fee: Decimal::ZERO,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_bytes: 1 << 30,
            max_upload_bytes: 8 << 30,
            max_part_bytes: 64 << 20,
            max_line_bytes: 16 << 20,
            min_free_bytes: 512 << 20,
            file_retention: None,
            body_idle: Duration::from_secs(60),
            quotes: QuoteTerms::default(),
        }
    }
}

impl Api {
    /// A secret as it is kept.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub(super) fn seal(&self, secret: &str) -> Result<Vec<u8>, ApiError> {
        self.store.seal().seal(secret.as_bytes()).ok_or_else(|| ApiError::internal("a secret could not be sealed"))
    }

    /// Refuses to create anything while the daemon stops.
    ///
    /// # Errors
    /// When it does.
    pub(super) fn check_open(&self) -> Result<(), ApiError> {
        match self.draining.is_cancelled() {
            true => Err(ApiError::unavailable("the daemon is stopping and takes no new work; try again after it has restarted")),
            false => Ok(()),
        }
    }

    /// Runs `work` to its end even if the client goes away meanwhile: hyper drops a handler whose
    /// connection closes, and a batch that is stored but not handed to the executor would wait for
    /// the next start of the daemon.
    pub(super) async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, ApiError> {
        self.tasks.spawn(work.in_current_span()).await.map_err(ApiError::internal)
    }
}
