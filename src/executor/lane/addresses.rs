//! The names behind whose addresses there are servers of their own: what each name resolved to last,
//! and the servers that follow from it.
//!
//! A name with one address is one server, reached by its name. Once it has several, each is a server
//! with that address, and stays one when others leave. While a name cannot be resolved its last
//! addresses hold: an outage of the resolver stops no calls.
//!
//! Invariant: a name stands for at most [`MOST`] servers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::time::Instant;

use super::inquiry::Inquiry;
use crate::domain::provider::connection::{Connection, HostAddresses, ProviderKind, ServerConnection};
use crate::provider::Dispatch;

/// The most addresses of a name that are used.
pub const MOST: usize = 64;

/// A provider's id, and one of its base URLs.
pub type NameOf = (String, Uri);

/// What a name resolved to, or why it could not be resolved.
pub type Found = Result<Vec<IpAddr>, Arc<str>>;

/// What is known of a name.
struct Name {
    /// Looks the name up.
    asked: Arc<dyn Dispatch>,
    look_up: Inquiry,
    /// The addresses that are used, or, before there were several, that were found.
    addresses: Vec<IpAddr>,
    /// Each address is a server.
    is_spread: bool,
    /// The last look-up failed.
    is_lost: bool,
}

/// The names of all providers.
#[derive(Default)]
pub struct Names(HashMap<NameOf, Name>);

impl Names {
    /// The servers behind a connection to one: itself, or one for each address of its name.
    pub fn servers(&self, connection: &Connection) -> Vec<Connection> {
        let addresses = name_of(connection).and_then(|name| self.0.get(&name)).filter(|name| name.is_spread);
        match (addresses, &connection.kind) {
            (Some(name), ProviderKind::Server(server)) => {
                let at = |address: &IpAddr| ServerConnection { addresses: HostAddresses::One(*address), ..server.clone() };
                let at = |address| Connection { kind: ProviderKind::Server(at(address)), ..connection.clone() };
                name.addresses.iter().map(at).collect()
            }
            _ => vec![connection.clone()],
        }
    }

    /// Follows the name of a server that has been opened, if it has one that may have several addresses.
    pub fn follow(&mut self, connection: &Connection, server: &Arc<dyn Dispatch>) {
        let Some(name) = name_of(connection).filter(|name| !self.0.contains_key(name)) else { return };
        if server.addresses().is_some() {
            let asked = server.clone();
            self.0.insert(name, Name { asked, look_up: Inquiry::default(), addresses: Vec::new(), is_spread: false, is_lost: false });
        }
    }

    /// Forgets the names of other providers than these.
    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_kept(&name.0));
    }

    /// Forgets a provider's names but those of these servers.
    pub fn keep(&mut self, provider: &str, servers: &[Connection]) {
        let names: Vec<_> = servers.iter().filter_map(name_of).collect();
        self.0.retain(|name, _| name.0 != provider || names.contains(name));
    }

    /// The names to be looked up now: each at most once in `every`, or in `soon` if it `is_urgent`.
    pub fn begin(
        &mut self,
        now: Instant,
        (every, soon): (Duration, Duration),
        is_urgent: impl Fn(&NameOf) -> bool,
    ) -> Vec<(NameOf, Arc<dyn Dispatch>)> {
        let mut due = Vec::new();
        for (key, name) in &mut self.0 {
            if name.look_up.begin(now, if is_urgent(key) { soon } else { every }) {
                due.push((key.clone(), name.asked.clone()));
            }
        }
        due
    }

    /// Takes what a name resolved to. Returns whether its servers are others now.
    pub fn on_found(&mut self, key: &NameOf, found: Found) -> bool {
        let Some(name) = self.0.get_mut(key) else { return false };
        name.look_up.end();
        let host = key.1.host().unwrap_or_default();
        let found = match found {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => return name.lose(key, "it has no address"),
            Err(reason) => return name.lose(key, &reason),
        };
        let addresses = several(&found, &name.addresses);
        if addresses.is_empty() {
            return name.lose(key, "none of its addresses can be used");
        }
        name.is_lost = false;
        if addresses.len() < 2 && !name.is_spread {
            name.addresses = addresses;
            return false;
        }
        let is_same =
            name.is_spread && addresses.len() == name.addresses.len() && addresses.iter().all(|each| name.addresses.contains(each));
        if is_same {
            return false;
        }
        tracing::info!(provider = key.0, host, ?addresses, "each address of the host is a server");
        if addresses.len() == MOST && found.len() > MOST {
            tracing::warn!(provider = key.0, host, found = found.len(), most = MOST, "the host has more addresses than are used");
        }
        (name.addresses, name.is_spread) = (addresses, true);
        true
    }
}

impl Name {
    fn lose(&mut self, (provider, url): &NameOf, reason: &str) -> bool {
        if self.is_spread && !self.is_lost {
            tracing::warn!(provider, host = url.host(), reason, "the host cannot be looked up; its last addresses are used");
        }
        self.is_lost = true;
        false
    }
}

/// The name of a server whose addresses are servers, or may be.
pub fn name_of(connection: &Connection) -> Option<NameOf> {
    match &connection.kind {
        ProviderKind::Server(server) if server.addresses != HostAddresses::Any => Some((connection.id.clone(), server.base_url.clone())),
        ProviderKind::Server(_) | ProviderKind::Simulated { .. } => None,
    }
}

/// Of the addresses that were found, those that are servers of their own: of one family, because a
/// server with an address of each family is one server. Those known before come first, in their order.
fn several(found: &[IpAddr], known: &[IpAddr]) -> Vec<IpAddr> {
    // A link-local address means nothing without its interface.
    let usable = found.iter().filter(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()));
    let (mut v4, mut v6): (Vec<IpAddr>, Vec<IpAddr>) = usable.partition(|address| address.is_ipv4());
    for family in [&mut v4, &mut v6] {
        family.sort_by_key(|address| (known.iter().position(|known| known == address).unwrap_or(MOST), *address));
        family.dedup();
    }
    // The family with more of them; of equals the one in use, else the one that the resolver prefers.
    let first = known.first().or(found.first()).is_some_and(IpAddr::is_ipv4);
    let mut addresses = if (v4.len(), first) > (v6.len(), !first) { v4 } else { v6 };
    addresses.truncate(MOST);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_of_one_family_are_servers_and_those_known_keep_their_place() {
        for (found, known, expected) in [
            // One server with an address of each family.
            (&["10.0.0.1", "fd00::1"][..], &[][..], &["10.0.0.1"][..]),
            (&["fd00::1", "10.0.0.1"], &[], &["fd00::1"]),
            (&["fd00::1", "fd00::2", "10.0.0.2", "10.0.0.1"], &[], &["fd00::1", "fd00::2"]),
            (&["fd00::1", "fd00::2", "10.0.0.2", "10.0.0.1"], &["10.0.0.2"], &["10.0.0.2", "10.0.0.1"]),
            (&["fd00::1", "10.0.0.1", "10.0.0.2"], &["fd00::1"], &["10.0.0.1", "10.0.0.2"]),
            (&["10.0.0.3", "10.0.0.1", "10.0.0.3", "10.0.0.2"], &["10.0.0.2", "10.0.0.9"], &["10.0.0.2", "10.0.0.1", "10.0.0.3"]),
            (&["fe80::1", "fe80::2", "10.0.0.1"], &[], &["10.0.0.1"]),
            (&["fe80::1"], &[], &[]),
        ] {
            assert_eq!(several(&all(found), &all(known)), all(expected), "{found:?}, known {known:?}");
        }
    }

    #[test]
    fn of_too_many_addresses_those_in_use_stay() {
        let many: Vec<IpAddr> = (0..200).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let known = all(&["10.0.0.150", "10.0.0.199"]);
        let used = several(&many, &known);
        assert_eq!((used.len(), &used[..2]), (MOST, &known[..]));
    }
}
