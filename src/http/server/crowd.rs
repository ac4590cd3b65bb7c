//! The connected clients: how many may connect, in all and from one address, and which connection
//! makes room when more want to.
//!
//! While all places are taken and a client waits, answers announce that their connection closes,
//! and one connection is closed: the longest silent of those on which no caller has shown that it
//! may call, or else the one that has rested longest. Silence counts from the last request or
//! answer, so that no byte that is not a request can put it off. A connection that has been silent
//! only for a moment stays open: its client may be sending at this moment, and would lose its
//! request.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::course::Course;
use crate::descriptors::Descriptors;

/// How long a connection is silent before it makes room for another.
const RESTED: Duration = Duration::from_secs(1);
/// How often the connections are scanned while a client waits.
const SCAN_INTERVAL: Duration = Duration::from_millis(100);
/// Connections of probes at a time. Their descriptors come from those that are kept back.
const PROBES: usize = 16;
/// How often it is logged that addresses have too many connections.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The connected clients of a listener, and the places for them.
pub struct Crowd {
    descriptors: Descriptors,
    places: Arc<Semaphore>,
    /// Whether a client waits for a place: if so, connections close with their next answer.
    waits: Arc<AtomicBool>,
    per_peer: PerPeer,
    connected: Mutex<Connected>,
    next: AtomicU64,
}

#[derive(Default)]
struct Connected {
    all: BTreeMap<u64, Connection>,
    of_peers: HashMap<Peer, usize>,
    /// When it was last logged that an address has too many.
    logged: Option<Instant>,
}

struct Connection {
    peer: Peer,
    course: Arc<Course>,
}

/// Where a connection comes from: an address, or, for IPv6, the network of 64 bits that one
/// subscriber gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Peer(IpAddr);

impl Peer {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            // Its network is no network of anybody's.
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Self(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }
}

/// The most connections of one address.
#[derive(Debug, Clone, Copy)]
struct PerPeer {
    others: usize,
    this_machine: usize,
}

/// One connected client, until it is dropped; its place is free then.
pub struct Member {
    crowd: Arc<Crowd>,
    number: u64,
    course: Arc<Course>,
    _place: OwnedSemaphorePermit,
}

impl Crowd {
    /// A crowd without clients, with as many places as `descriptors` grants to clients, of which one
    /// address may have `per_peer`; by default three quarters, and this machine all: a proxy in front
    /// of the daemon may be everybody's.
    pub fn of_clients(descriptors: &Descriptors, per_peer: Option<u32>) -> Arc<Self> {
        let most = descriptors.share().clients;
        let per_peer = match per_peer {
            Some(most) => PerPeer { others: most as usize, this_machine: most as usize },
            None => PerPeer { others: most.saturating_mul(3).div_ceil(4), this_machine: most },
        };
        Self::new(descriptors, descriptors.clients().clone(), descriptors.client_waits().clone(), per_peer)
    }

    /// A crowd of probes, who have a few places of their own.
    pub fn of_probes(descriptors: &Descriptors) -> Arc<Self> {
        Self::new(descriptors, Arc::new(Semaphore::new(PROBES)), Arc::default(), PerPeer { others: PROBES, this_machine: PROBES })
    }

    fn new(descriptors: &Descriptors, places: Arc<Semaphore>, waits: Arc<AtomicBool>, per_peer: PerPeer) -> Arc<Self> {
        let (descriptors, connected) = (descriptors.clone(), Mutex::default());
        Arc::new(Self { descriptors, places, waits, per_peer, connected, next: AtomicU64::new(0) })
    }

    /// The descriptors that the connections take.
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn lock(&self) -> MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for one more client; only one caller may wait at a time.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        struct Waits<'a>(&'a AtomicBool);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.waits.store(true, Ordering::Relaxed);
        let (_waits, since) = (Waits(&self.waits), Instant::now());
        let mut place = std::pin::pin!(self.places.clone().acquire_owned());
        loop {
            // Connections that are never silent for long must not keep a newcomer out either.
            let silence = RESTED.saturating_sub(since.elapsed());
            self.lock().make_room(None, silence);
            tokio::select! {
                place = place.as_mut() => return place.ok(),
                () = sleep_until(Instant::now() + SCAN_INTERVAL) => {}
            }
        }
    }

    /// Asks a connection to close, if one can.
    pub fn make_room(&self) {
        self.lock().make_room(None, RESTED);
    }

    /// Whether one more client may connect from this address. If the address has as many
    /// connections as it may, one of them makes room, if it can.
    pub fn admits(&self, address: IpAddr) -> bool {
        let (mut connected, peer) = (self.lock(), Peer::of(address));
        let most = if peer.0.is_loopback() { self.per_peer.this_machine } else { self.per_peer.others };
        // Whoever may have all places waits for one as everybody does.
        if most >= self.descriptors.share().clients || connected.of_peers.get(&peer).is_none_or(|count| *count < most) {
            return true;
        }
        let stay = connected.all.values().filter(|each| each.peer == peer && !each.course.is_leaving()).count();
        if stay < most || connected.make_room(Some(peer), RESTED) {
            return true;
        }
        let now = Instant::now();
        if connected.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_EVERY) {
            connected.logged = Some(now);
            tracing::warn!(
                peer = %address,
                most,
                "connections are refused: their address has as many as `max_connections_per_peer` allows, and all are in use"
            );
        }
        false
    }

    /// Adds a new connection, which has this place.
    pub fn join(self: &Arc<Self>, address: IpAddr, place: OwnedSemaphorePermit) -> Member {
        let (peer, course) = (Peer::of(address), Arc::new(Course::new(self.waits.clone())));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut connected = self.lock();
        connected.all.insert(number, Connection { peer, course: course.clone() });
        *connected.of_peers.entry(peer).or_default() += 1;
        drop(connected);
        Member { crowd: self.clone(), number, course, _place: place }
    }
}

impl Connected {
    /// Asks a connection to close, of this address if one is given, and returns whether there is
    /// one that can. Those on which nobody has shown that it may call go first, if they have been
    /// silent for so long.
    fn make_room(&self, peer: Option<Peer>, silence: Duration) -> bool {
        let now = Instant::now();
        let longest = |since: fn(&Course) -> Option<Instant>, least: Duration| {
            let all = self.all.values().filter(|each| peer.is_none_or(|peer| each.peer == peer));
            let silent = all.filter_map(|each| Some((since(&each.course)?, &each.course))).min_by_key(|(since, _)| *since);
            silent.filter(|(since, _)| *since + least <= now).map(|(_, course)| course)
        };
        let goes = longest(Course::stranger_since, silence).or_else(|| longest(Course::resting_since, RESTED));
        if let Some(course) = goes {
            course.leave();
        }
        goes.is_some()
    }
}

impl Member {
    /// The course of the connection's exchanges.
    pub fn course(&self) -> &Arc<Course> {
        &self.course
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut connected = self.crowd.lock();
        let Some(Connection { peer, .. }) = connected.all.remove(&self.number) else { return };
        if let Some(count) = connected.of_peers.get_mut(&peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                connected.of_peers.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn by_default_an_address_has_three_quarters_and_this_machine_all() {
        let descriptors = Descriptors::new(1 << 20, 8);
        let crowd = Crowd::of_clients(&descriptors, None);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut members = Vec::new();
        for place in 0..8 {
            let text = if place % 2 == 0 { "2001:db8::1" } else { "2001:db8::ffff:2" };
            assert_eq!(crowd.admits(address(text)), place < 6, "place {place}");
            // Whoever is admitted by its own bound may still wait for a place.
            if place < 6 {
                let taken = crowd.place().await.unwrap();
                members.push(crowd.join(address(text), taken));
            }
        }
        assert!(crowd.admits(address("2001:db8:0:1::1")) && crowd.admits(address("::ffff:192.0.2.1")));
        drop(members.pop());
        assert!(crowd.admits(address("2001:db8::3")), "one of its places is free");
        members.clear();
        for _ in 0..8 {
            assert!(crowd.admits(address("127.0.0.1")) && crowd.admits(address("::ffff:127.0.0.1")) && crowd.admits(address("::1")));
            let taken = crowd.place().await.unwrap();
            members.push(crowd.join(address("127.0.0.1"), taken));
        }
        assert!(crowd.admits(address("127.0.0.1")), "it waits, and is not refused");
    }
}
