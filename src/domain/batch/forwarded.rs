//! Headers of the create that go along with the calls of its rows, to providers that list them.

use std::sync::Arc;

/// The most bytes of a value.
pub const MAX_VALUE: usize = 2 << 10;
/// The most headers that one provider lists.
pub const MOST: usize = 16;

/// Names that mean something between the daemon and a provider, or that hold a secret of the
/// client's.
const KEPT: [&str; 26] = [
    "accept",
    "accept-encoding",
    "anthropic-version",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-api-key",
    "x-client-request-id",
    "x-request-id",
];

/// Checks the name of a header that a provider lists, and returns it in lower case.
///
/// # Errors
/// The rule for the name, in words that follow "it".
pub fn check_name(text: &str) -> Result<String, &'static str> {
    let name = text.to_ascii_lowercase();
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err("must be the name of a header, such as `traceparent`");
    }
    if KEPT.contains(&name.as_str()) {
        return Err("is a header that the daemon sets itself, or that may hold a client's secret; it is not passed on");
    }
    Ok(name)
}

/// Headers by name, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded(Arc<[(String, String)]>);

impl Forwarded {
    /// Keeps these headers.
    pub fn new(headers: Vec<(String, String)>) -> Self {
        Self(headers.into())
    }

    /// Each header's name and value.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_listed() {
        assert_eq!(check_name("X-Team"), Ok("x-team".to_owned()));
        for bad in ["", "a b", "é", "Authorization", "cookie", "x-api-key", "content-length", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(KEPT.is_sorted());
    }
}
