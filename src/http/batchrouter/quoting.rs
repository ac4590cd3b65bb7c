//! What quotes may take at the same time: each is up to a second of a core, its body, and a multiple of
//! that while it is made.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::http::error::ApiError;

/// Quotes that are made at the same time.
const TURNS: usize = 2;
/// KiB of bodies that are read, or wait for their turn. One that is larger by itself has them all.
const HELD: u32 = 128 << 10;

/// Bounds the quotes that are made at the same time.
#[derive(Debug)]
pub struct Quoting {
    turns: Arc<Semaphore>,
    held: Semaphore,
}

impl Default for Quoting {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(TURNS)), held: Semaphore::new(HELD as usize) }
    }
}

impl Quoting {
    /// Room for a body of so many bytes, as long as the permit is kept.
    ///
    /// # Errors
    /// Never: nobody closes it.
    pub async fn hold(&self, bytes: u64) -> Result<SemaphorePermit<'_>, ApiError> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(HELD).saturating_add(1).min(HELD);
        self.held.acquire_many(kib).await.map_err(ApiError::internal)
    }

    /// A turn, as long as the permit is kept.
    ///
    /// # Errors
    /// Never: nobody closes it.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.turns.clone().acquire_owned().await.map_err(ApiError::internal)
    }
}
