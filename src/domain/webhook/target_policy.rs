//! Which servers may be called that a client names: receivers of webhooks, and sources of recordings.
//! A client could name a server that only this machine can reach: the metadata service of a cloud, or
//! a database without a password.
//!
//! The check is made at each connection, on the addresses that the name resolves to at that moment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::domain::authority::{self, AuthorityFault};

/// Which servers may be called. Receivers are called by `https`, except as said here; sources by `http`
/// as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Targets {
    /// Public addresses only, by `https`.
    Public,
    /// Public addresses by `https`, and every address of this machine, also by `http`. It is for a
    /// daemon that only its own machine can reach, whose user tests a receiver.
    PublicAndLoopback,
    /// Every address.
    Any,
}

/// Why a server may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwanted {
    #[error("must be an absolute `https` URL")]
    NotHttps,
    #[error("must be an absolute `http` or `https` URL")]
    NotHttp,
    #[error("must not hold a user name or a password")]
    Credentials,
    /// Its host or its port does not exist.
    #[error(transparent)]
    Authority(#[from] AuthorityFault),
    #[error("must not lead to an address that only this machine or its network can reach")]
    Private,
}

impl Targets {
    /// Checks what the URL of a receiver itself says.
    ///
    /// # Errors
    /// When the URL may not be called, whatever its name resolves to.
    pub fn check(self, url: &Uri) -> Result<(), Unwanted> {
        let authority = url.authority().ok_or(Unwanted::NotHttps)?;
        if authority.as_str().contains('@') {
            return Err(Unwanted::Credentials);
        }
        let address = literal(url);
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if self == Self::Any => {}
            Some("http") if self == Self::PublicAndLoopback && leads_home(url) => {}
            Some(_) | None => return Err(Unwanted::NotHttps),
        }
        authority::check(authority)?;
        match address.is_none_or(|address| self.allows(address)) {
            true => Ok(()),
            false => Err(Unwanted::Private),
        }
    }

    /// Checks what the URL of a source itself says. What is read there is no secret of ours, so `http`
    /// will do.
    ///
    /// # Errors
    /// When the URL may not be called, whatever its name resolves to.
    pub fn check_source(self, url: &Uri) -> Result<(), Unwanted> {
        let authority = url.authority().ok_or(Unwanted::NotHttp)?;
        if !matches!(url.scheme_str(), Some("http" | "https")) {
            return Err(Unwanted::NotHttp);
        }
        if authority.as_str().contains('@') {
            return Err(Unwanted::Credentials);
        }
        authority::check(authority)?;
        match literal(url).is_none_or(|address| self.allows(address)) {
            true => Ok(()),
            false => Err(Unwanted::Private),
        }
    }

    /// Whether an address may be called.
    pub fn allows(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Any => true,
            Self::PublicAndLoopback => address.is_loopback() || is_public(address),
            Self::Public => is_public(address),
        }
    }
}

/// The address that a URL names in place of a host name.
fn literal(url: &Uri) -> Option<IpAddr> {
    let host = url.host()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether a URL names this machine.
fn leads_home(url: &Uri) -> bool {
    let name = url.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || literal(url).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Addresses that are reachable from everywhere (IANA's registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        // Shared between carriers and their customers, protocol assignments, benchmarks, old
        // relays.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Global unicast, except documentation ranges and addresses that embed an IPv4 address, which
    // is checked itself.
    match segments {
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // Teredo, ORCHID and other protocols.
        [0x2001, 0..=0x01ff, ..] => false,
        [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(embedded(high, low)),
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_everybody_reaches_is_public() {
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1", "::ffff:8.8.8.8"]
        {
            assert!(Targets::Public.allows(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.2.1",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "2001::1",
        ] {
            assert!(!Targets::Public.allows(address.parse().unwrap()), "{address}");
            assert!(Targets::Any.allows(address.parse().unwrap()), "{address}");
        }
        assert!(Targets::PublicAndLoopback.allows("127.0.0.2".parse().unwrap()));
        assert!(!Targets::PublicAndLoopback.allows("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_a_url_says_by_itself() {
        let check = |targets: Targets, url: &str| targets.check(&url.parse().unwrap());
        for url in ["http://a.test/", "http://1.1.1.1/", "ftp://a.test/"] {
            assert_eq!(check(Targets::Public, url), Err(Unwanted::NotHttps), "{url}");
        }
        assert_eq!(check(Targets::Public, "https://user:word@a.test/"), Err(Unwanted::Credentials));
        for url in ["https://127.0.0.1/", "https://[::1]:8/", "https://169.254.169.254/latest"] {
            assert_eq!(check(Targets::Public, url), Err(Unwanted::Private), "{url}");
        }
        assert_eq!(check(Targets::Public, "https://a.test:8443/hook?x=1"), Ok(()));
        for targets in [Targets::Public, Targets::PublicAndLoopback, Targets::Any] {
            for (url, fault) in [
                ("https://a.test:65536/", AuthorityFault::Port),
                ("https://a.test:0/", AuthorityFault::Port),
                ("https://[a.test]/", AuthorityFault::Brackets),
                ("https://[127.0.0.1]/", AuthorityFault::Brackets),
            ] {
                assert_eq!(check(targets, url), Err(Unwanted::Authority(fault)), "{url}");
                assert_eq!(targets.check_source(&url.parse().unwrap()), Err(Unwanted::Authority(fault)), "{url}");
            }
        }
        for url in ["http://127.0.0.1:3000/", "http://localhost:1/", "https://localhost/"] {
            assert_eq!(check(Targets::PublicAndLoopback, url), Ok(()), "{url}");
        }
        assert_eq!(check(Targets::PublicAndLoopback, "http://a.test/"), Err(Unwanted::NotHttps));
        assert_eq!(check(Targets::Any, "http://10.0.0.1/"), Ok(()));
        let source = |targets: Targets, url: &str| targets.check_source(&url.parse().unwrap());
        assert_eq!(source(Targets::Public, "http://a.test/b.mp3"), Ok(()));
        assert_eq!(source(Targets::Public, "ftp://a.test/b.mp3"), Err(Unwanted::NotHttp));
        assert_eq!(source(Targets::Any, "/b.mp3"), Err(Unwanted::NotHttp));
        assert_eq!(source(Targets::Any, "http://user:word@a.test/"), Err(Unwanted::Credentials));
        for url in ["http://127.0.0.1/", "https://[::1]:8/", "http://169.254.169.254/latest"] {
            assert_eq!(source(Targets::Public, url), Err(Unwanted::Private), "{url}");
        }
        assert_eq!(source(Targets::PublicAndLoopback, "http://127.0.0.1/"), Ok(()));
    }
}
