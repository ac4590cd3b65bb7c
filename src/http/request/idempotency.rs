//! The header `Idempotency-Key`, and what binds a key to a request.

use axum::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::{header_text, json_digest, not_json};
use crate::domain::id::OrgId;
use crate::http::response::error::ApiError;
pub use crate::http::response::error::KEY;
use crate::store::Idempotency;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY_CHARS: usize = 255;

/// Reads the `Idempotency-Key` of a request, if it has one.
///
/// # Errors
/// When the request has several, or one that is no valid key.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let invalid = || {
        let message = format!("`{KEY}` must have 1 to {MAX_KEY_CHARS} visible ASCII characters and be given once");
        Err(ApiError::invalid(KEY, message))
    };
    match headers.get_all(&IDEMPOTENCY_KEY).iter().count() {
        0 => return Ok(None),
        1 => {}
        _ => return invalid(),
    }
    match header_text(headers, &IDEMPOTENCY_KEY) {
        Some(key) if (1..=MAX_KEY_CHARS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(key)),
        Some(_) | None => invalid(),
    }
}

/// Binds a key of an organisation to the content of a body; the spelling of its JSON does not
/// matter. `route` tells routes and dialects apart. Stored keys depend on its bytes.
///
/// # Errors
/// When the body is not JSON.
pub fn bound_to_body(org: OrgId, route: &str, key: &str, body: &[u8]) -> Result<Idempotency, ApiError> {
    let scope = Sha256::new().chain_update(org.as_u128().to_be_bytes()).chain_update(route).chain_update(b"\0").chain_update(key);
    let request = json_digest::digest(body).map_err(|error| not_json(&error))?;
    Ok(Idempotency { key: scope.finalize().into(), request })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys live for 30 days, and so outlive an upgrade.
    #[test]
    fn a_key_is_stored_under_the_same_name_as_ever() {
        let org = OrgId::from_u128(7);
        let once = bound_to_body(org, "phaseo POST /v1/batches", "k", b"{\"a\": 1}").unwrap();
        let mut named = vec![0; 15];
        named.extend(b"\x07phaseo POST /v1/batches\0k");
        assert_eq!(once.key, <[u8; 32]>::from(Sha256::digest(named)));
        assert_eq!(once.request, bound_to_body(org, "", "", b"{\"a\":1}").unwrap().request);
    }
}
