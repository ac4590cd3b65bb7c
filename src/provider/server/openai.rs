//! OpenAI's API, the hosted one and the many that imitate it: where each format is posted, and how
//! a key is sent.

use http::header::{AUTHORIZATION, HeaderName};
use secrecy::{ExposeSecret, SecretString};

use crate::domain::format::wire::WireFormat;

/// Where the server lists its models.
pub(super) const MODELS: &str = "/v1/models";

/// The path of a format. Servers that imitate OpenAI's API also have Anthropic's Messages there.
pub(super) fn path(format: WireFormat) -> &'static str {
    format.endpoint().path()
}

/// The header that carries a key.
pub(super) fn key(key: &SecretString) -> (HeaderName, String) {
    (AUTHORIZATION, format!("Bearer {}", key.expose_secret()))
}
