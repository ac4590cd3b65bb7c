//! The header `Idempotency-Key`.

use axum::http::{HeaderMap, HeaderName};

use super::header_text;
use crate::http::response::error::ApiError;
pub use crate::http::response::error::KEY;

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
