//! Limits the quotes that are made at the same time. Each takes up to a second of a core, and a
//! multiple of its request's size in memory while it is made.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::service::ServiceError;

/// The most quotes that are made at the same time.
const TURNS: usize = 2;
/// The most quotes that are looked at at the same time. Each may be some megabytes, and several
/// times that once it is parsed.
const LOOKS: usize = 4;

/// Bounds the quotes that are made or looked at at the same time.
#[derive(Debug)]
pub struct QuoteTurns {
    turns: Arc<Semaphore>,
    looks: Semaphore,
}

impl Default for QuoteTurns {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(TURNS)), looks: Semaphore::new(LOOKS) }
    }
}

impl QuoteTurns {
    /// Permission to look at a quote, as long as the permit is kept.
    ///
    /// # Errors
    /// Never: the semaphore is not closed.
    pub async fn look(&self) -> Result<SemaphorePermit<'_>, ServiceError> {
        self.looks.acquire().await.map_err(ServiceError::internal)
    }

    /// A turn to make a quote, as long as the permit is kept.
    ///
    /// # Errors
    /// Never: the semaphore is not closed.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        self.turns.clone().acquire_owned().await.map_err(ServiceError::internal)
    }

    /// Runs slow work when its turn has come, on a thread of its own. The work continues, and keeps
    /// its turn, when the client goes away.
    ///
    /// # Errors
    /// Errors of `work`, or when `work` has panicked.
    pub async fn take<T, E>(&self, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ServiceError> + Send + 'static,
    {
        let (turn, span) = (self.turn().await?, tracing::Span::current());
        let work = move || {
            let _turn = turn;
            span.in_scope(work)
        };
        tokio::task::spawn_blocking(work).await.map_err(ServiceError::internal)?
    }
}
