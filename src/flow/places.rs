//! Who may run: divides a number of places among owners, and those of an owner among its batches.
//!
//! A batch *waits* for a place or *holds* one. An owner with fewer places comes first, whatever
//! waits for the others; among an owner's batches, the better rank comes first. A batch *sleeps*
//! while it could do nothing with a place: it gets one only while no other batch wants it, and is
//! the first to give one back.
//!
//! Pure. Invariant: no more places are held than there are, and none is free while a batch waits
//! that is awake.

use std::collections::BTreeSet;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// The places, the batches that hold them, and those that wait.
#[derive(Debug)]
pub struct Places<K, O, R> {
    most: usize,
    holding: usize,
    batches: FxHashMap<K, Entry<O, R>>,
    owners: FxHashMap<O, OfOwner<K, R>>,
    /// Owners with a batch that waits: those awake, then those that sleep. Fewest places first, then
    /// the owner that has waited longest for its turn.
    waiting: [BTreeSet<(usize, u64, O)>; 2],
    /// Owners with a batch that holds a place, by the number of their places: those with a batch
    /// that sleeps, and all.
    sleeping: BTreeSet<(usize, O)>,
    holders: BTreeSet<(usize, O)>,
    turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<O, R> {
    owner: O,
    rank: R,
    holds: bool,
    sleeps: bool,
}

/// The batches of an owner: those awake and those that sleep, the best rank first.
#[derive(Debug)]
struct OfOwner<K, R> {
    waiting: [BTreeSet<(R, K)>; 2],
    holding: [BTreeSet<(R, K)>; 2],
    /// When the owner got a place for the last time, in turns.
    turn: u64,
}

impl<K, R> Default for OfOwner<K, R> {
    fn default() -> Self {
        Self { waiting: Default::default(), holding: Default::default(), turn: 0 }
    }
}

impl<K, R> OfOwner<K, R> {
    fn places(&self) -> usize {
        self.holding.iter().map(BTreeSet::len).sum()
    }
}

impl<K: Copy + Ord + Hash, O: Copy + Ord + Hash, R: Copy + Ord> Places<K, O, R> {
    /// So many places, all free.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            holding: 0,
            batches: FxHashMap::default(),
            owners: FxHashMap::default(),
            waiting: Default::default(),
            sleeping: BTreeSet::new(),
            holders: BTreeSet::new(),
            turn: 0,
        }
    }

    /// Places that are held.
    pub const fn held(&self) -> usize {
        self.holding
    }

    /// Whether a batch waits for a place.
    pub fn waits(&self, key: K) -> bool {
        self.batches.get(&key).is_some_and(|entry| !entry.holds)
    }

    /// Lets a batch wait for a place, or gives a batch that waits or holds one another rank or sleep.
    /// The better rank is the smaller one.
    pub fn put(&mut self, key: K, owner: O, rank: R, sleeps: bool) {
        let before = self.batches.get(&key).copied();
        let entry = Entry { owner, rank, holds: before.is_some_and(|entry| entry.holds), sleeps };
        if before != Some(entry) {
            self.change(key, Some(entry));
        }
    }

    /// Forgets a batch, and frees its place.
    pub fn remove(&mut self, key: K) {
        self.change(key, None);
    }

    /// Gives a free place to the batch whose turn it is.
    pub fn give(&mut self) -> Option<K> {
        if self.holding >= self.most {
            return None;
        }
        let key = self.next(0).or_else(|| self.next(1))?;
        self.hold(key, true);
        Some(key)
    }

    /// Takes a place from a batch for one that has a better right to it; returns both, the one that
    /// lost its place first. A place is taken from a batch that sleeps, from an owner that has at
    /// least two places more, or from a batch of the same owner that `yields` to the other's rank.
    pub fn exchange(&mut self, yields: impl Fn(R, R) -> bool) -> Option<(K, K)> {
        if self.holding < self.most {
            return None;
        }
        let next = self.next(0)?;
        let of_next = *self.batches.get(&next)?;
        let places = self.owners.get(&of_next.owner).map_or(0, OfOwner::places);
        let sleeper = self.sleeping.last().and_then(|(_, owner)| self.owners.get(owner)?.holding[1].last());
        let richest = || self.holders.last().filter(|(most, owner)| *owner != of_next.owner && *most > places + 1);
        let of_richest = || self.owners.get(&richest()?.1)?.holding[0].last();
        let own = || self.owners.get(&of_next.owner)?.holding[0].last().filter(|(rank, _)| yields(*rank, of_next.rank));
        let (_, loser) = *sleeper.or_else(of_richest).or_else(own)?;
        self.hold(loser, false);
        self.hold(next, true);
        Some((loser, next))
    }

    /// The batch whose turn it is among those awake (0) or asleep (1).
    fn next(&self, kind: usize) -> Option<K> {
        let (.., owner) = self.waiting[kind].first()?;
        Some(self.owners.get(owner)?.waiting[kind].first()?.1)
    }

    fn hold(&mut self, key: K, holds: bool) {
        let Some(entry) = self.batches.get(&key).copied() else { return };
        if holds {
            self.turn += 1;
        }
        self.change(key, Some(Entry { holds, ..entry }));
    }

    fn change(&mut self, key: K, entry: Option<Entry<O, R>>) {
        let before = match entry {
            Some(entry) => self.batches.insert(key, entry),
            None => self.batches.remove(&key),
        };
        let place = |entry: &Entry<O, R>| (usize::from(entry.sleeps), (entry.rank, key));
        if let Some(before) = before {
            self.unlist(before.owner);
            let of = self.owners.entry(before.owner).or_default();
            let (kind, place) = place(&before);
            if before.holds {
                of.holding[kind].remove(&place)
            } else {
                of.waiting[kind].remove(&place)
            };
            self.list(before.owner);
        }
        if let Some(entry) = entry {
            self.unlist(entry.owner);
            let of = self.owners.entry(entry.owner).or_default();
            let (kind, place) = place(&entry);
            if entry.holds {
                of.holding[kind].insert(place)
            } else {
                of.waiting[kind].insert(place)
            };
            if entry.holds && before.is_none_or(|before| !before.holds) {
                of.turn = self.turn;
            }
            self.list(entry.owner);
        }
        self.holding += usize::from(entry.is_some_and(|entry| entry.holds));
        self.holding -= usize::from(before.is_some_and(|before| before.holds));
    }

    /// Takes an owner from the lists of owners, before it changes.
    fn unlist(&mut self, owner: O) {
        let Some(of) = self.owners.get(&owner) else { return };
        let places = of.places();
        for waiting in &mut self.waiting {
            waiting.remove(&(places, of.turn, owner));
        }
        self.sleeping.remove(&(places, owner));
        self.holders.remove(&(places, owner));
    }

    /// Puts an owner into the lists of owners, after it has changed.
    fn list(&mut self, owner: O) {
        let Some(of) = self.owners.get(&owner) else { return };
        let places = of.places();
        for (waiting, own) in self.waiting.iter_mut().zip(&of.waiting) {
            if !own.is_empty() {
                waiting.insert((places, of.turn, owner));
            }
        }
        if !of.holding[1].is_empty() {
            self.sleeping.insert((places, owner));
        }
        if places > 0 {
            self.holders.insert((places, owner));
        } else if of.waiting.iter().all(BTreeSet::is_empty) {
            self.owners.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives all places that can be given; batches of rank 0 come before all others of their owner.
    fn settle(places: &mut Places<u32, u32, u32>) -> usize {
        let mut moves = 0;
        while places.give().is_some() {}
        while places.exchange(|held, wanted| wanted == 0 && held > 0).is_some() {
            moves += 1;
            assert!(moves < 1_000, "places go back and forth");
        }
        moves
    }

    fn of_owner(places: &Places<u32, u32, u32>, owner: u32) -> Vec<u32> {
        let mut held: Vec<_> =
            places.batches.iter().filter(|(_, entry)| entry.owner == owner && entry.holds).map(|(key, _)| *key).collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn places_are_shared_by_owner_then_by_rank_and_sleepers_give_theirs_back() {
        let mut places = Places::new(4);
        (0..6).for_each(|key| places.put(key, 1, 10 + key, false));
        settle(&mut places);
        assert_eq!(of_owner(&places, 1), [0, 1, 2, 3]);
        // Another owner gets its half, the batches with the worst ranks go.
        (10..13).for_each(|key| places.put(key, 2, key, false));
        assert_eq!(settle(&mut places), 2);
        assert_eq!((of_owner(&places, 1), of_owner(&places, 2)), (vec![0, 1], vec![10, 11]));
        // One that is urgent takes the place of another of its owner.
        places.put(7, 1, 0, false);
        settle(&mut places);
        assert_eq!(of_owner(&places, 1), [0, 7]);
        // Those that sleep give way to whoever is awake, and get what is left.
        [0, 7].into_iter().for_each(|key| places.put(key, 1, key, true));
        (1..6).for_each(|key| places.remove(key));
        settle(&mut places);
        assert_eq!((of_owner(&places, 1), of_owner(&places, 2)), (vec![0], vec![10, 11, 12]));
        (10..13).for_each(|key| places.remove(key));
        settle(&mut places);
        assert_eq!(of_owner(&places, 1), [0, 7]);
        places.remove(0);
        places.remove(7);
        assert_eq!((places.held(), places.owners.len(), places.holders.len()), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn no_place_is_wasted_and_no_owner_is_shut_out(
            most in 1_usize..8, steps in proptest::collection::vec((0_u32..12, 0_u32..3, 0_u32..4, any::<bool>(), 0_u8..5), 1..80),
        ) {
            let mut places = Places::new(most);
            for (key, owner, rank, sleeps, remove) in steps {
                let owner = key % 3 + 3 * (owner / 3);
                if remove == 0 { places.remove(key) } else { places.put(key, owner, rank, sleeps) }
                settle(&mut places);
                let held = places.batches.values().filter(|entry| entry.holds).count();
                prop_assert_eq!(places.held(), held);
                prop_assert!(held <= most && held == most.min(places.batches.len()));
                let awake_waits = |owner: u32| places.batches.values().any(|entry| entry.owner == owner && !entry.holds && !entry.sleeps);
                let sleeper_holds = places.batches.values().any(|entry| entry.holds && entry.sleeps);
                for owner in 0..3 {
                    if awake_waits(owner) {
                        prop_assert!(!sleeper_holds, "a sleeper keeps a place");
                        let own = of_owner(&places, owner).len();
                        prop_assert!((0..3).all(|other| of_owner(&places, other).len() <= own + 1), "an owner has too many places");
                    }
                }
            }
        }
    }
}
