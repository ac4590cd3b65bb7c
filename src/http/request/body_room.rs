//! The room for bodies that are held in memory as a whole: a bound on their total size.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::http::response::error::ApiError;

/// KiB of bodies that are being read or wait for their turn. A single body that is larger takes all
/// of it.
const HELD: u32 = 128 << 10;
/// How long a body waits for room.
const WAIT: Duration = Duration::from_secs(60);

/// The room for bodies that are held as a whole.
#[derive(Debug)]
pub struct BodyRoom(Semaphore);

impl Default for BodyRoom {
    fn default() -> Self {
        Self(Semaphore::new(HELD as usize))
    }
}

impl BodyRoom {
    /// Takes room for a body of so many bytes, once there is room. The body has it as long as the
    /// permit is kept.
    ///
    /// # Errors
    /// When no room becomes free for a while.
    pub async fn acquire(&self, bytes: u64) -> Result<SemaphorePermit<'_>, ApiError> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(HELD).saturating_add(1).min(HELD);
        let held = timeout(WAIT, self.0.acquire_many(kib)).await;
        let held = held.map_err(|_| ApiError::unavailable("the daemon has no room for another body at the moment; try again later"))?;
        held.map_err(ApiError::internal)
    }
}
