//! What the product does, once, for every dialect, the command line and whoever comes next: quotes,
//! creating a batch once, retry, capacity, the feed of changes, organisations and keys, figures.
//!
//! Not here: requests, envelopes, words of a dialect. Whatever cannot be done is a [`ServiceError`], which
//! each dialect words by itself.
//!
//! Invariant: what a method here returns is durable, and a method that fails has kept nothing.

pub mod batches;
pub mod capacity;
mod error;
pub mod feed;
mod key_secret;
pub mod live_lanes;
pub mod metrics;
pub mod orgs;
pub mod quotes;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::error::{Issue, IssueCode, IssuePath, ItemsError, MAX_ISSUES, RetryError, ServiceError};
use self::quotes::turns::QuoteTurns;
use crate::catalog::Catalog;
use crate::domain::quote::constraints::TierTimes;
use crate::domain::time::Clock;
use crate::executor;
use crate::store::Store;

/// What the product does. Its parts are there for whoever only reads.
pub struct Service {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub executor: executor::Handle,
    pub clock: Clock,
    pub limits: ServiceLimits,
    /// Bounds the quotes that are made at the same time.
    pub turns: QuoteTurns,
    /// Cancelled when the daemon begins to stop: from then on nothing new is created.
    pub draining: CancellationToken,
    /// Work that goes on when its client goes away; the daemon waits for it before it closes the store.
    pub tasks: TaskTracker,
}

/// What rows, files and quotes may be.
#[derive(Debug, Clone)]
pub struct ServiceLimits {
    /// Bytes of one row.
    pub max_line_bytes: usize,
    /// Bytes of the disk that nothing uploaded may use.
    pub min_free_bytes: u64,
    pub quotes: QuoteTerms,
}

/// What quotes may be, and how long they hold.
#[derive(Debug, Clone)]
pub struct QuoteTerms {
    /// Items in one request.
    pub max_items: usize,
    /// Bytes of the body of one request.
    pub max_body_bytes: u64,
    /// How long the prices of a quote hold.
    pub validity: Duration,
    pub tiers: TierTimes,
    /// What is charged besides what providers charge, in percent of that.
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
    /// [`ServiceError::Draining`] when it does.
    pub fn check_open(&self) -> Result<(), ServiceError> {
        if self.draining.is_cancelled() { Err(ServiceError::Draining) } else { Ok(()) }
    }

    /// Refuses to take `bytes` bytes that would eat into the room that the store needs.
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

    /// A secret as it is kept.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub fn seal(&self, secret: &str) -> Result<Vec<u8>, ServiceError> {
        self.store.seal().seal(secret.as_bytes()).ok_or_else(|| ServiceError::internal("a secret could not be sealed"))
    }

    /// Runs `work` to its end even if whoever waits for it goes away meanwhile: a batch that is stored but not
    /// handed to the executor would wait for the next start of the daemon.
    ///
    /// # Errors
    /// When `work` has panicked.
    pub async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, ServiceError> {
        self.tasks.spawn(work.in_current_span()).await.map_err(ServiceError::internal)
    }
}
