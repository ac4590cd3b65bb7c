//! Limits on messages that are sent at the same time: which message may be sent now, tests among
//! them. A slow receiver must not hold up the others.
//!
//! Invariant: as long as a place is left, an organisation that has none gets one. An organisation
//! never takes more than a part of what is left, so that a flood, even of several organisations,
//! leaves places for those that come later.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::id::{EventId, OrgId};
use crate::domain::webhook::delivery::Route;
use crate::domain::webhook::endpoint::ProbeRefusal;
use crate::store::DeliveryChoice;

/// The most messages at a time: in total, of one organisation, to one host, and of one
/// organisation to one host. Tests count.
const AT_ONCE: usize = 64;
const OF_ORG: usize = 16;
const TO_HOST: usize = 24;
const OF_ORG_TO_HOST: usize = 8;
/// The most tests of one organisation at a time.
const TESTS_OF_ORG: usize = 4;
/// Places of an organisation, and of it at a host, that only tests get: who looks for the fault of
/// a receiver must not have to wait for the messages that this receiver holds up.
const KEPT_FOR_TESTS: usize = 2;
/// An organisation that has a place takes another only while it has less than this part of those
/// that are left.
const PART: usize = 3;

/// The places that messages under way take.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    events: HashSet<EventId>,
    orgs: HashMap<OrgId, usize>,
    hosts: HashMap<u128, usize>,
    routes: HashMap<Route, usize>,
    tests: HashMap<OrgId, usize>,
}

/// The place of one message. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    route: Route,
    /// `None` for a test.
    event: Option<EventId>,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a message of the queue, if it is not being sent already.
    pub fn for_message(self: &Arc<Self>, event: EventId, route: Route) -> DeliveryChoice<Place> {
        let mut taken = self.taken();
        let own = count(&taken.orgs, &route.org);
        if own >= OF_ORG - KEPT_FOR_TESTS || !has_share(own, AT_ONCE.saturating_sub(taken.all)) {
            return DeliveryChoice::Enough;
        }
        let (host, both) = (count(&taken.hosts, &route.host), count(&taken.routes, &route));
        if both >= OF_ORG_TO_HOST - KEPT_FOR_TESTS || !has_share(both, TO_HOST.saturating_sub(host)) || !taken.events.insert(event) {
            return DeliveryChoice::Pass;
        }
        taken.add(route);
        DeliveryChoice::Take(Place { places: self.clone(), route, event: Some(event) })
    }

    /// A place for a test message.
    ///
    /// # Errors
    /// When there is none.
    pub fn for_test(self: &Arc<Self>, route: Route) -> Result<Place, ProbeRefusal> {
        let mut taken = self.taken();
        let tests = count(&taken.tests, &route.org);
        let (own, host, both) = (count(&taken.orgs, &route.org), count(&taken.hosts, &route.host), count(&taken.routes, &route));
        if tests >= TESTS_OF_ORG || own >= OF_ORG || both >= OF_ORG_TO_HOST {
            return Err(ProbeRefusal::OfOrg);
        }
        if !has_share(tests, AT_ONCE.saturating_sub(taken.all)) {
            return Err(ProbeRefusal::OfAll);
        }
        if !has_share(tests, TO_HOST.saturating_sub(host)) {
            return Err(ProbeRefusal::OfHost);
        }
        taken.add(route);
        *taken.tests.entry(route.org).or_default() += 1;
        Ok(Place { places: self.clone(), route, event: None })
    }
}

impl Taken {
    fn add(&mut self, route: Route) {
        self.all += 1;
        *self.orgs.entry(route.org).or_default() += 1;
        *self.hosts.entry(route.host).or_default() += 1;
        *self.routes.entry(route).or_default() += 1;
    }
}

/// Whether one more place goes to someone who has `own` places, where `left` are left.
const fn has_share(own: usize, left: usize) -> bool {
    left > 0 && (own == 0 || own < left / PART)
}

fn count<K: Hash + Eq>(counts: &HashMap<K, usize>, of: &K) -> usize {
    counts.get(of).copied().unwrap_or(0)
}

/// Counts one less; forgets what counts nothing, so that the memory does not grow.
fn release<K: Hash + Eq>(counts: &mut HashMap<K, usize>, of: &K) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (route, mut taken) = (self.route, self.places.taken());
        taken.all -= 1;
        release(&mut taken.orgs, &route.org);
        release(&mut taken.hosts, &route.host);
        release(&mut taken.routes, &route);
        match self.event {
            Some(event) => _ = taken.events.remove(&event),
            None => release(&mut taken.tests, &route.org),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: u128, org: u128) -> Route {
        Route { host, org: OrgId::from_u128(org) }
    }

    /// Tries to send a message for each of `events`; returns the places that it got.
    fn flood(places: &Arc<Places>, events: std::ops::Range<u128>, route: impl Fn(u128) -> Route) -> Vec<Place> {
        let taken = events.map(|event| places.for_message(EventId::from_u128(event), route(event)));
        taken.filter_map(|choice| if let DeliveryChoice::Take(place) = choice { Some(place) } else { None }).collect()
    }

    #[test]
    fn neither_a_host_nor_an_organisation_takes_every_place() {
        let places = Arc::new(Places::default());
        let to_one = flood(&places, 0..1_000, |_| route(1, 1));
        assert_eq!(to_one.len(), OF_ORG_TO_HOST - KEPT_FOR_TESTS);
        let again = places.for_message(EventId::from_u128(1_000), route(1, 1));
        assert!(matches!(again, DeliveryChoice::Pass), "others of the organisation go to other hosts");
        let to_many = flood(&places, 1_000..2_000, |event| route(event, 1));
        assert_eq!(to_one.len() + to_many.len(), OF_ORG - KEPT_FOR_TESTS);
        assert!(matches!(places.for_message(EventId::from_u128(2_000), route(2, 1)), DeliveryChoice::Enough));
        let other = places.for_message(EventId::from_u128(2_000), route(1, 2));
        assert!(matches!(other, DeliveryChoice::Take(_)), "the host has room for others");
        assert!(matches!(places.for_message(EventId::from_u128(2_000), route(1, 2)), DeliveryChoice::Pass), "each message once");
        let same_host = flood(&places, 3_000..4_000, |event| route(1, event));
        assert_eq!(to_one.len() + 1 + same_host.len(), TO_HOST);
        let others = flood(&places, 4_000..5_000, |event| route(event, event));
        assert_eq!(OF_ORG - KEPT_FOR_TESTS + 1 + same_host.len() + others.len(), AT_ONCE);
    }

    #[test]
    fn floods_of_several_organisations_leave_places_for_a_newcomer() {
        for (several, to_host) in [(1, true), (2, true), (4, true), (6, true), (1, false), (4, false), (8, false), (12, false)] {
            let places = Arc::new(Places::default());
            let host = |event: u128| if to_host { 1 } else { event };
            let floods: Vec<_> =
                (1..=several).map(|org| flood(&places, org * 1_000..(org + 1) * 1_000, |event| route(host(event), org))).collect();
            assert!(floods.iter().all(|places| !places.is_empty()));
            let newcomer = places.for_message(EventId::from_u128(1), route(1, 99));
            assert!(matches!(newcomer, DeliveryChoice::Take(_)), "{several} organisations, one host: {to_host}");
        }
    }

    #[test]
    fn tests_count_in_every_limit_and_have_places_of_their_own() {
        let places = Arc::new(Places::default());
        let tests = |org: u128, host: u128| (0..1_000).map_while(|_| places.for_test(route(host, org)).ok()).collect::<Vec<_>>();
        let alone = tests(1, 1);
        assert_eq!((alone.len(), places.for_test(route(2, 1)).err()), (TESTS_OF_ORG, Some(ProbeRefusal::OfOrg)));
        // The messages of the organisation have the rest of its places.
        let messages = flood(&places, 0..1_000, |event| route(event % 4, 1));
        assert_eq!(alone.len() + messages.len(), OF_ORG - KEPT_FOR_TESTS);
        drop((alone, messages));
        // Whatever a flood of messages takes, its organisation can still test the receiver.
        let messages = flood(&places, 0..1_000, |_| route(1, 1));
        let among = tests(1, 1);
        assert_eq!((messages.len() + among.len(), among.len()), (OF_ORG_TO_HOST, KEPT_FOR_TESTS));
        let messages: Vec<_> = [messages, flood(&places, 1_000..2_000, |event| route(event, 1))].into_iter().flatten().collect();
        assert_eq!(messages.len() + among.len(), OF_ORG - KEPT_FOR_TESTS);
        // Tests of others take neither the last place of all nor the last one of a host at will.
        let others: Vec<_> = (2..100).flat_map(|org| tests(org, 1)).collect();
        assert_eq!(messages.iter().filter(|place| place.route.host == 1).count() + among.len() + others.len(), TO_HOST);
        assert_eq!(places.for_test(route(1, 200)).err(), Some(ProbeRefusal::OfHost));
        let rest: Vec<_> = (300..400).flat_map(|org| tests(org, org)).collect();
        assert_eq!(messages.len() + among.len() + others.len() + rest.len(), AT_ONCE);
        assert_eq!(places.for_test(route(500, 500)).err(), Some(ProbeRefusal::OfAll));
        drop((messages, among, others, rest));
        let taken = places.taken();
        assert_eq!((taken.all, taken.events.len(), taken.orgs.len(), taken.hosts.len()), (0, 0, 0, 0));
        assert_eq!((taken.routes.len(), taken.tests.len()), (0, 0), "nothing is kept of what has ended");
    }
}
