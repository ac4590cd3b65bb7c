//! Bodies that are held in memory as a whole, within a bound on their total size.

use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::{announced_bytes, read_json};
use crate::http::layers::request_body::incomplete;
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// KiB of bodies that are being read or wait for their turn. A single body that is larger takes all
/// of it.
const HELD: u32 = 128 << 10;
/// The most members and elements of a create; each takes several times its bytes in memory.
pub const MAX_MEMBERS: usize = 2_000_000;
/// How long a body waits for room.
const WAIT: Duration = Duration::from_secs(60);
/// How long a body may take to arrive, plus a second for each `BYTES_PER_SECOND` bytes: meanwhile
/// it keeps room from others.
const ARRIVAL: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: u64 = 256 << 10;

/// The room for bodies that are held as a whole.
#[derive(Debug)]
pub struct BodyRoom(Semaphore);

impl Default for BodyRoom {
    fn default() -> Self {
        Self(Semaphore::new(HELD as usize))
    }
}

impl BodyRoom {
    /// Reads a JSON body once there is room for it. The body keeps its room as long as the caller
    /// keeps the permit: bodies are held as a whole until their turn comes.
    ///
    /// # Errors
    /// Errors of [`read_json`]; when no room becomes free for a while, or the body takes too long.
    pub async fn read(&self, request: Request, api: &Api, most: u64) -> Result<(SemaphorePermit<'_>, Bytes), ApiError> {
        let bytes = announced_bytes(request.headers()).unwrap_or(most).min(most);
        let kib = u32::try_from(bytes >> 10).unwrap_or(HELD).saturating_add(1).min(HELD);
        let held = timeout(WAIT, self.0.acquire_many(kib)).await;
        let held = held.map_err(|_| ApiError::unavailable("the daemon has no room for another body at the moment; try again later"))?;
        let limit = ARRIVAL + Duration::from_secs(bytes / BYTES_PER_SECOND);
        let read = timeout(limit, read_json(request, api, most)).await;
        let read = read.map_err(|_| incomplete(format!("the body took longer than {} seconds; nothing was kept", limit.as_secs())))?;
        Ok((held.map_err(ApiError::internal)?, read?))
    }
}
