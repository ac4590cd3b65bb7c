//! What is specific to Anthropic's API: the headers for its key and for its version.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The header that carries a key.
pub(super) fn key(key: &SecretString) -> (HeaderName, String) {
    (API_KEY, key.expose_secret().to_owned())
}

/// Adds the version of Messages in use: Anthropic, "Versions". Servers that imitate the API ignore
/// it.
pub(super) fn add_version(headers: &mut HeaderMap) {
    headers.insert(VERSION, HeaderValue::from_static("2023-06-01"));
}
