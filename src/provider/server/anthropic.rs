//! What Anthropic's API has of its own: the header of its key, and that of its version.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The header that a key goes in.
pub(super) fn key(key: &SecretString) -> (HeaderName, String) {
    (API_KEY, key.expose_secret().to_owned())
}

/// Adds the version of Messages that is spoken: Anthropic, "Versions". Servers that imitate them ignore it.
pub(super) fn add_version(headers: &mut HeaderMap) {
    headers.insert(VERSION, HeaderValue::from_static("2023-06-01"));
}
