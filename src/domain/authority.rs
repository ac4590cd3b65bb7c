//! The part of a URL that names a server, `user:password@host:port`: what is legal in it, and how
//! a text that may hold one is shown without its password.
//!
//! `http::Uri` takes every number as a port and every name in brackets; a connection would then be
//! tried to another port than the one that was written, or to a name that was never checked.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::uri::Authority;

/// Takes the place of a user name and a password.
const REDACTED: &str = "[redacted]";

/// What is wrong with the name of a server. The words follow the name of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityFault {
    #[error("must name a host")]
    Host,
    #[error("must have a port from 1 to 65535, or none")]
    Port,
    #[error("must have nothing but an IPv6 address in brackets, such as `[2001:db8::1]`; write a host name without them")]
    Brackets,
}

/// Checks host and port.
///
/// # Errors
/// When a connection could not be made to what is written there.
pub fn check(authority: &Authority) -> Result<(), AuthorityFault> {
    let host = authority.host();
    if host.is_empty() {
        return Err(AuthorityFault::Host);
    }
    if let Some(inner) = host.strip_prefix('[')
        && inner.strip_suffix(']').is_none_or(|address| address.parse::<Ipv6Addr>().is_err())
    {
        return Err(AuthorityFault::Brackets);
    }
    let behind_user = authority.as_str().rsplit('@').next().unwrap_or_default();
    match behind_user.get(host.len()..).and_then(|rest| rest.strip_prefix(':')) {
        // `u16` would take a sign.
        Some(port) if !port.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(port.parse::<u16>(), Ok(1..)) => {
            Err(AuthorityFault::Port)
        }
        Some(_) | None => Ok(()),
    }
}

/// The text with the user name and password of each URL in it replaced. Too much is replaced rather
/// than too little: a password may hold `/` although it should not, and a scheme may be missing.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let ends_url = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
    let shown: String = text.split_inclusive(ends_url).map(without_password).collect();
    if shown == text { Cow::Borrowed(text) } else { Cow::Owned(shown) }
}

/// The same of a text that holds one URL at most.
fn without_password(text: &str) -> Cow<'_, str> {
    let Some((before, behind)) = text.rsplit_once('@') else { return Cow::Borrowed(text) };
    let user_at = match before.find("://") {
        Some(scheme) => scheme + "://".len(),
        // Without a scheme, only a colon tells a password from, say, a path.
        None if before.contains(':') => before.rfind('=').map_or(0, |at| at + 1),
        None => return Cow::Borrowed(text),
    };
    Cow::Owned(format!("{}{REDACTED}@{behind}", &before[..user_at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_a_host_or_an_address_and_a_port_that_exists() {
        let checked = |text: &str| check(&text.parse().unwrap());
        for good in ["a.test", "a_b.test:1", "a.test:65535", "10.0.0.1:80", "[::1]", "[2001:db8::1]:443", "user:word@a.test:80"] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in ["a.test:0", "a.test:65536", "a.test:99999999999", "a.test:", "[::1]:70000", "user:word@a.test:65536"] {
            assert_eq!(checked(bad), Err(AuthorityFault::Port), "{bad}");
        }
        for bad in ["[name]", "[a.test]:443", "[127.0.0.1]", "[]"] {
            assert_eq!(checked(bad), Err(AuthorityFault::Brackets), "{bad}");
        }
        assert_eq!(checked(":80"), Err(AuthorityFault::Host));
    }

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("https://user:word@a.test/v1", "https://[redacted]@a.test/v1"),
            ("http://key@a.test", "http://[redacted]@a.test"),
            ("HTTP://u:a/b@c@a.test:80", "HTTP://[redacted]@a.test:80"),
            ("gpt@home=http://u:p@a.test", "gpt@home=http://[redacted]@a.test"),
            ("user:word@a.test:8000", "[redacted]@a.test:8000"),
            ("model=user:word@a.test", "model=[redacted]@a.test"),
            ("[\"http://u:p@a.test\", \"http://b.test\"]", "[\"http://[redacted]@a.test\", \"http://b.test\"]"),
            ("http://a.test,http://u:p@b.test", "http://a.test,http://[redacted]@b.test"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
        for text in ["", "http://a.test:80/v1", "/home/ada@work/data", "info,batchd=debug"] {
            assert!(matches!(without_passwords(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
