//! Bodies that are held in memory as a whole, within the bound of [`BodyRoom`].
//!
//! [`BodyRoom`]: super::body_room::BodyRoom

use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::{announced_bytes, read_json};
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// The most members and elements of a create; each takes several times its bytes in memory.
pub const MAX_MEMBERS: usize = 2_000_000;
/// How long a body may take to arrive, plus a second for each `BYTES_PER_SECOND` bytes: meanwhile
/// it keeps room from others.
const ARRIVAL: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: u64 = 256 << 10;

/// Reads a JSON body once there is room for it. The body keeps its room as long as the caller keeps
/// the permit: bodies are held as a whole until their turn comes.
///
/// # Errors
/// Errors of [`read_json`]; when no room becomes free for a while, or the body takes too long.
pub async fn read_held(request: Request, api: &Api, most: u64) -> Result<(SemaphorePermit<'_>, Bytes), ApiError> {
    let bytes = announced_bytes(request.headers()).unwrap_or(most).min(most);
    let held = api.bodies.acquire(bytes).await?;
    let limit = ARRIVAL + Duration::from_secs(bytes / BYTES_PER_SECOND);
    let read = timeout(limit, read_json(request, api, most)).await;
    let late = |_| ApiError::incomplete(format!("the body took longer than {} seconds; nothing was kept", limit.as_secs()));
    Ok((held, read.map_err(late)??))
}
