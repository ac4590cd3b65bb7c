//! What quotes may take at the same time: each is up to a second of a core, and a multiple of its request while
//! it is made.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::service::ServiceError;

/// Quotes that are made at the same time.
const TURNS: usize = 2;
/// Quotes that are looked at, at the same time: each may be some megabytes, and several times that once it
/// is taken apart.
const LOOKS: usize = 4;

/// Bounds the quotes that are made, and looked at, at the same time.
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
    /// Leave to look at a quote, as long as the permit is kept.
    ///
    /// # Errors
    /// Never: the semaphore is not closed.
    pub async fn look(&self) -> Result<SemaphorePermit<'_>, ServiceError> {
        self.looks.acquire().await.map_err(ServiceError::internal)
    }

    /// A turn, as long as the permit is kept.
    ///
    /// # Errors
    /// Never: the semaphore is not closed.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        self.turns.clone().acquire_owned().await.map_err(ServiceError::internal)
    }

    /// Does what takes time when its turn has come, on a thread of its own. Goes on when the client goes away,
    /// and so does its turn.
    ///
    /// # Errors
    /// Those of `work`, or when it has panicked.
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
