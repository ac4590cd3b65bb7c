//! Which callers may call: those with an API key, or, without keys, those on this machine that are
//! not a web page.
//!
//! A daemon on loopback without keys is still reachable by every page that the user's browser
//! opens: by a form or `fetch` to `http://127.0.0.1` (the `Origin` shows this), and by a name that
//! its owner points at 127.0.0.1 (the `Host` shows this). Both are refused unless the settings
//! allow them.
//!
//! Not here: the keys themselves ([`super::operator_keys`], and the store for clients' keys).

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::caller::Caller;
use super::operator_keys::OperatorKeys;
use crate::domain::error::Code;
use crate::domain::org::ApiKey;
use crate::domain::time::Timestamp;
use crate::http::access_class::AccessClass;
use crate::http::response::error::ApiError;

/// Which web pages may call, by their origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// None; no CORS header is ever sent.
    #[default]
    None,
    /// Every origin.
    Any,
    /// Only these origins, each as browsers send it, such as `https://tools.example`.
    Listed(Vec<String>),
}

impl Origins {
    /// The origins that the settings list; `*` among them stands for every origin.
    pub fn of(listed: Vec<String>) -> Self {
        match listed.as_slice() {
            [] => Self::None,
            some if some.iter().any(|origin| origin == "*") => Self::Any,
            some => Self::Listed(some.iter().map(|origin| as_sent(origin)).collect()),
        }
    }
}

/// An origin as browsers send it: in lower case, and without the default port of its scheme.
fn as_sent(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let implied = match origin.split_once("://") {
        Some(("http", _)) => ":80",
        Some(("https", _)) => ":443",
        Some(_) | None => return origin,
    };
    origin.strip_suffix(implied).map(ToOwned::to_owned).unwrap_or(origin)
}

/// The rule for which callers may call.
#[derive(Debug, Clone)]
pub struct Access {
    keys: Arc<OperatorKeys>,
    origins: Origins,
}

/// What a request says of its caller.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub now: Timestamp,
}

impl Access {
    /// A rule without keys: for a daemon that listens on loopback only.
    pub fn open() -> Self {
        Self::keys(&[])
    }

    /// A rule that requires one of these keys with each call; without any key this is
    /// [`Self::open`].
    pub fn keys(keys: &[SecretString]) -> Self {
        Self { keys: Arc::new(OperatorKeys::new(keys)), origins: Origins::None }
    }

    /// The operator's keys.
    pub fn operator_keys(&self) -> &Arc<OperatorKeys> {
        &self.keys
    }

    /// Allows calls from web pages of these origins.
    #[must_use]
    pub fn with_origins(self, origins: Origins) -> Self {
        Self { origins, ..self }
    }

    /// Which web pages may call.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Identifies the caller of a route of this class, if the caller may call. `known` finds a key
    /// that was made, by the SHA-256 of its secret.
    ///
    /// # Errors
    /// When the caller may not call.
    pub fn admit(&self, class: AccessClass, asked: Asked<'_>, known: impl Fn(&[u8; 32]) -> Option<ApiKey>) -> Result<Caller, ApiError> {
        let Asked { method, uri, headers, now } = asked;
        if !self.keys.are_required() {
            self.refuse_pages(uri, headers)?;
            // Any key will do if none is required, except a made key that is no longer valid.
            let digest = headers.get(AUTHORIZATION).and_then(bearer).map(|key| Sha256::digest(key).into());
            return match digest.and_then(|digest| Some((digest, known(&digest)?))) {
                Some((digest, key)) => Caller::with(&key, digest, class, method, now),
                None => Ok(Caller::operator([0; 32])),
            };
        }
        let Some(value) = headers.get(AUTHORIZATION) else {
            let message = "an API key is needed: send it as `Authorization: Bearer <key>`";
            return Err(ApiError::unauthorized(Code::MissingApiKey, message));
        };
        let Some(key) = bearer(value) else {
            let message = "the `Authorization` header must read `Bearer <key>`";
            return Err(ApiError::unauthorized(Code::InvalidApiKey, message));
        };
        let digest: [u8; 32] = Sha256::digest(key).into();
        if self.keys.have(&digest) {
            return Ok(Caller::operator(digest));
        }
        if let Some(key) = known(&digest) {
            return Caller::with(&key, digest, class, method, now);
        }
        Err(ApiError::unauthorized(Code::InvalidApiKey, "the API key is not one of those that this daemon knows"))
    }

    /// Refuses a web page that may not call, for a route that requires no key.
    pub(super) fn admit_keyless(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.keys.are_required() { Ok(()) } else { self.refuse_pages(uri, headers) }
    }

    fn refuse_pages(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let refused = |what: &str, value: &str, remedy: &str| {
            let value: String = value.chars().take(200).collect();
            let message = format!("{what} `{value}` is not allowed while the daemon asks for no API key; {remedy}");
            Err(ApiError::new(Code::OriginNotAllowed, message))
        };
        // A request without a `Host` does not come from a browser.
        let named = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        if let Some(host) = named.chain(uri.host()).find(|host| !is_loopback(without_port(host))) {
            return refused("the host", host, "call it as localhost, or set `api_keys_file`");
        }
        for origin in headers.get_all(ORIGIN) {
            let origin = origin.to_str().unwrap_or("?");
            if !self.allows(origin) {
                return refused("a page of the origin", origin, "add the origin to `cors_origins`, or set `api_keys_file`");
            }
        }
        Ok(())
    }

    fn allows(&self, origin: &str) -> bool {
        let local = origin.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some_and(is_loopback));
        local
            || match &self.origins {
                Origins::None => false,
                Origins::Any => true,
                Origins::Listed(origins) => origins.iter().any(|each| each == origin),
            }
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, key) = value.as_bytes().split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.trim_ascii().is_empty()).then(|| key.trim_ascii())
}

/// The host of a `Host` header, which may end in a port; an IPv6 address is in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        Some(_) | None => host,
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => address.to_canonical().is_loopback(),
        Ok(IpAddr::V4(address)) => address.is_loopback(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(access: &Access, headers: &[(&'static str, &str)]) -> bool {
        let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let (method, uri, now) = (&Method::GET, &Uri::from_static("/v1/batches"), Timestamp::UNIX_EPOCH);
        access.admit(AccessClass::Key, Asked { method, uri, headers: &map, now }, |_| None).is_ok()
    }

    #[test]
    fn only_names_of_this_machine_are_hosts_of_a_daemon_without_keys() {
        let open = Access::open();
        for host in
            ["localhost", "localhost:8080", "LOCALHOST.", "api.localhost:1", "127.0.0.1:80", "127.9.9.9", "[::1]:80", "[::ffff:127.0.0.1]"]
        {
            assert!(admitted(&open, &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "evillocalhost",
            "",
            "127.0.0.1.evil.example",
            "\u{e9}",
        ] {
            assert!(!admitted(&open, &[("host", host)]), "{host}");
        }
        assert!(admitted(&open, &[]));
        assert!(!admitted(&open, &[("host", "localhost"), ("host", "evil.example")]));
    }

    #[test]
    fn only_pages_of_this_machine_and_listed_ones_may_call() {
        let open = Access::open();
        assert!(admitted(&open, &[("host", "localhost"), ("origin", "http://localhost:3000")]));
        for origin in ["https://evil.example", "null", "http://localhost.evil.example", "localhost", ""] {
            assert!(!admitted(&open, &[("host", "localhost"), ("origin", origin)]), "{origin}");
        }
        let listed = Access::open().with_origins(Origins::of(vec!["https://tools.example".into()]));
        assert!(admitted(&listed, &[("origin", "https://tools.example")]));
        assert!(!admitted(&listed, &[("origin", "https://evil.example")]));
        assert!(admitted(&Access::open().with_origins(Origins::of(vec!["https://a.example".into(), "*".into()])), &[("origin", "null")]));
    }

    #[test]
    fn origins_are_listed_as_browsers_send_them() {
        let given = ["https://Tools.Example:443", "http://a.example:80", "https://b.example:80", "http://[::1]:80"];
        let sent = ["https://tools.example", "http://a.example", "https://b.example:80", "http://[::1]"];
        assert_eq!(Origins::of(given.map(String::from).to_vec()), Origins::Listed(sent.map(String::from).to_vec()));
    }

    #[test]
    fn with_keys_only_keys_count() {
        let keys = Access::keys(&["alpha".into(), "beta".into()]);
        assert!(admitted(&keys, &[("authorization", "Bearer beta"), ("host", "batch.example"), ("origin", "https://x.example")]));
        assert!(admitted(&keys, &[("authorization", "bearer  alpha ")]));
        for value in ["Bearer", "Bearer ", "Basic alpha", "alpha", "Bearer gamma", "Bearer alph", ""] {
            assert!(!admitted(&keys, &[("authorization", value)]), "{value}");
        }
        assert!(!admitted(&keys, &[]));
        assert!(!format!("{keys:?}").contains("alpha"));
    }
}
