//! The product's operations, once for every dialect, the command line and any later front end:
//! quotes, creating a batch once, retry, capacity, the feed of changes, organisations and keys,
//! metrics.
//!
//! Not here: requests, envelopes, the words of a dialect. Every failure is a [`ServiceError`],
//! which each dialect words itself.
//!
//! Invariant: the result of a method here is durable, and a method that fails has kept nothing.

pub mod batches;
pub mod capacity;
mod closing;
mod error;
pub mod feed;
pub mod key_secret;
pub mod live_lanes;
pub mod metrics;
pub mod orgs;
pub mod quotas;
pub mod quotes;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::error::{Issue, IssueCode, IssuePath, ItemsError, MAX_ISSUES, RetryError, ServiceError};
use self::quotas::RequestCounts;
use self::quotes::turns::QuoteTurns;
use crate::catalog::Catalog;
use crate::domain::quote::constraints::TierTimes;
use crate::domain::time::Clock;
use crate::executor;
use crate::store::Store;

/// The product's operations. Its parts are accessible to callers that only read.
pub struct Service {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub executor: executor::Handle,
    pub clock: Clock,
    pub limits: ServiceLimits,
    /// Bounds the quotes that are made at the same time.
    pub turns: QuoteTurns,
    /// Counts the requests of those who have a quota for them.
    pub requests: RequestCounts,
    /// Counts the times that made keys ceased to be accepted before their expiry.
    pub key_changes: watch::Sender<u64>,
    /// Cancelled when the daemon begins to stop: from then on nothing new is created.
    pub draining: CancellationToken,
    /// Work that continues when its client goes away. The daemon waits for this work before it
    /// closes the store.
    pub tasks: TaskTracker,
}

/// Limits of rows, files and quotes.
#[derive(Debug, Clone)]
pub struct ServiceLimits {
    /// Bytes of one row.
    pub max_line_bytes: usize,
    /// Bytes of the disk that uploads must leave free.
    pub min_free_bytes: u64,
    pub quotes: QuoteTerms,
}

/// Limits of quotes, and how long quotes hold.
#[derive(Debug, Clone)]
pub struct QuoteTerms {
    /// Items in one request.
    pub max_items: usize,
    /// Bytes of the body of one request.
    pub max_body_bytes: u64,
    /// How long the prices of a quote hold.
    pub validity: Duration,
    pub tiers: TierTimes,
    /// The fee on top of the providers' charges, in percent of those.
    pub fee: Decimal,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self { max_line_bytes: 16 << 20, min_free_bytes: 512 << 20, quotes: QuoteTerms::default() }
    }
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

impl Service {
    /// Refuses to create anything while the daemon stops.
    ///
    /// # Errors
    /// [`ServiceError::Draining`] when the daemon is stopping.
    pub fn check_open(&self) -> Result<(), ServiceError> {
        if self.draining.is_cancelled() { Err(ServiceError::Draining) } else { Ok(()) }
    }

    /// Refuses to take `bytes` bytes if they would eat into the room that the store needs.
    ///
    /// # Errors
    /// [`ServiceError::NoRoom`] when the disk is too full.
    pub fn check_room(&self, bytes: u64) -> Result<(), ServiceError> {
        let (free, reserve) = (self.store.free_bytes()?, self.limits.min_free_bytes);
        if free >= reserve.saturating_add(bytes) {
            return Ok(());
        }
        tracing::warn!(free, reserve, bytes, "refused a request because the disk is nearly full");
        Err(ServiceError::NoRoom)
    }

    /// Encrypts a secret in the form in which it is kept.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub fn seal(&self, secret: &str) -> Result<Vec<u8>, ServiceError> {
        self.store.seal().seal(secret.as_bytes()).ok_or_else(|| ServiceError::internal("a secret could not be sealed"))
    }

    /// Runs `work` to its end even if its caller goes away meanwhile. A batch that is stored but
    /// not handed to the executor would otherwise wait for the next start of the daemon.
    ///
    /// # Errors
    /// When `work` has panicked.
    pub async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, ServiceError> {
        self.tasks.spawn(work.in_current_span()).await.map_err(ServiceError::internal)
    }
}
