//! Bodies that are held in memory as a whole, within the bound of [`BodyRoom`].
//!
//! What has arrived counts, not what is announced: until a body is complete it takes no room. Its
//! beginning is in memory, the rest on disk.
//!
//! [`BodyRoom`]: super::body_room::BodyRoom

use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use tokio::time::timeout;

use super::body_room::HeldRoom;
use super::spooling::{Arrived, NotTaken, Spooling};
use super::{announced_bytes, check_json, too_large};
use crate::domain::batch::priority::Owner;
use crate::domain::error::Code;
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// The most members and elements of a create; each takes several times its bytes in memory.
pub const MAX_MEMBERS: usize = 2_000_000;
/// How long a body may take to arrive, plus a second for each `BYTES_PER_SECOND` bytes.
const ARRIVAL: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: u64 = 256 << 10;
/// Bytes of an incomplete body in memory: a body that is no larger needs no disk.
const IN_MEMORY: usize = 64 << 10;

/// Reads a JSON body, and takes room for it once it is complete. The body keeps its room as long as
/// the caller keeps that: bodies are held as a whole until their turn comes.
///
/// # Errors
/// When the body is not JSON by its content type, is too long, is cut or takes too long; when no room
/// becomes free for a while, or the disk is full.
pub async fn read_held(request: Request, api: &Api, owner: Owner, most: u64) -> Result<(HeldRoom, Bytes), ApiError> {
    check_json(request.headers())?;
    let bytes = announced_bytes(request.headers()).unwrap_or(most);
    if bytes > most {
        return Err(too_large(most));
    }
    let limit = ARRIVAL + Duration::from_secs(bytes / BYTES_PER_SECOND);
    let late = |_| ApiError::incomplete(format!("the body took longer than {} seconds; nothing was kept", limit.as_secs()));
    let arrived = timeout(limit, arrive(request, api, owner, most)).await.map_err(late)?;
    let arrived = arrived.map_err(|fault| fault.or_too_many(|| too_large(most)))?;
    let held = api.bodies.acquire(owner, arrived.bytes()).await?;
    match arrived.bytes() {
        0 => Err(ApiError::new(Code::InvalidJson, "the body is empty; it must be a JSON object")),
        _ => Ok((held, arrived.into_bytes().await?)),
    }
}

async fn arrive(request: Request, api: &Api, owner: Owner, most: u64) -> Result<Arrived, NotTaken> {
    let mut spooling = Spooling::new(api, owner, most, IN_MEMORY);
    spooling.take(request).await?;
    spooling.arrived().await
}
