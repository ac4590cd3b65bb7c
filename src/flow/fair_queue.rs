//! Whose row is next: divides a lane between clients, and between the batches of each client.
//!
//! Stride scheduling. Each batch is charged for the service that it gets, in inverse proportion to
//! its weight, and the batch with the lowest charge is next. A client's batches share what the
//! heaviest of them would get alone, so many batches get their owner no more than a single one
//! would. A batch that arrives, or comes back, starts level with the others: idle time earns no
//! credit.
//!
//! Pure. Invariant: a ready batch is served after a bounded number of turns of other batches,
//! whatever the weights.

use std::collections::BTreeSet;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Charge of one unit at weight 1.
const UNIT: u64 = 1 << 20;
/// The largest charge of one turn, in units: a single huge row must not block its batch for long.
const MAX_COST: u64 = 1 << 20;

/// The batches of a lane.
#[derive(Debug)]
pub struct FairQueue<K, O> {
    entries: FxHashMap<K, Member<O>>,
    /// The ready batches, the least charged first.
    order: BTreeSet<(u64, K)>,
    /// The charge of the batch that was served last.
    level: u64,
}

#[derive(Debug)]
struct Member<O> {
    owner: O,
    weight: u32,
    charged: u64,
    ready: bool,
    /// Numerator and denominator of the charge per unit: follows from all weights.
    share: (u64, u64),
}

impl<K: Copy + Ord + Hash, O: Copy + Eq> FairQueue<K, O> {
    /// Creates an empty queue.
    pub fn new() -> Self {
        Self { entries: FxHashMap::default(), order: BTreeSet::new(), level: 0 }
    }

    /// Whether no batch is ready.
    pub fn is_idle(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether the batch has work to do.
    pub fn is_ready(&self, key: K) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.ready)
    }

    /// Notes that a batch has work to do.
    pub fn ready(&mut self, key: K, owner: O, weight: u32) {
        let level = self.level;
        let weight = weight.max(1);
        let fresh = || Member { owner, weight, charged: level, ready: false, share: (1, u64::from(weight)) };
        let entry = self.entries.entry(key).or_insert_with(fresh);
        if entry.ready {
            return;
        }
        entry.ready = true;
        entry.weight = weight;
        entry.charged = entry.charged.max(level);
        self.order.insert((entry.charged, key));
        self.share_out(owner);
    }

    /// Changes the weight of a batch.
    pub fn weigh(&mut self, key: K, weight: u32) {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.weight != weight.max(1)) else { return };
        entry.weight = weight.max(1);
        let owner = entry.owner;
        self.share_out(owner);
    }

    /// The batch that is next.
    pub fn first(&self) -> Option<K> {
        self.order.first().map(|(_, key)| *key)
    }

    /// Charges a batch for service that costs so many units; `more` if the batch has more to do.
    pub fn charge(&mut self, key: K, cost: u64, more: bool) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.ready {
            self.order.remove(&(entry.charged, key));
            self.level = self.level.max(entry.charged);
        }
        let (numerator, denominator) = entry.share;
        let charge = (cost.clamp(1, MAX_COST) * UNIT).saturating_mul(numerator) / denominator;
        entry.charged = entry.charged.saturating_add(charge.max(1));
        entry.ready &= more;
        if entry.ready {
            self.order.insert((entry.charged, key));
        } else {
            let owner = entry.owner;
            self.share_out(owner);
        }
    }

    /// Notes that a batch has nothing to do for now.
    pub fn rest(&mut self, key: K) {
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.ready) {
            entry.ready = false;
            self.order.remove(&(entry.charged, key));
            let owner = entry.owner;
            self.share_out(owner);
        }
    }

    /// Removes a batch that has ended.
    pub fn forget(&mut self, key: K) {
        self.rest(key);
        self.entries.remove(&key);
        if self.entries.is_empty() {
            self.level = 0;
        }
    }

    /// Sets the shares of an owner's batches. A batch of weight w is charged like a batch of weight
    /// m * w / s, where m is the heaviest weight of its owner's batches and s the sum of their
    /// weights.
    fn share_out(&mut self, owner: O) {
        let of_owner = self.entries.values().filter(|entry| entry.ready && entry.owner == owner);
        let (sum, heaviest) =
            of_owner.fold((0, 1), |(sum, heaviest), entry| (sum + u64::from(entry.weight), u64::from(entry.weight).max(heaviest)));
        for entry in self.entries.values_mut().filter(|entry| entry.ready && entry.owner == owner) {
            entry.share = (sum, heaviest * u64::from(entry.weight));
        }
    }
}

impl<K: Copy + Ord + Hash, O: Copy + Eq> Default for FairQueue<K, O> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    /// The turns of each key among so many turns.
    fn turns(fair: &mut FairQueue<u32, u32>, count: u32) -> HashMap<u32, u32> {
        let mut turns = HashMap::new();
        for _ in 0..count {
            let Some(key) = fair.first() else { break };
            fair.charge(key, 1, true);
            *turns.entry(key).or_default() += 1;
        }
        turns
    }

    #[test]
    fn shares_follow_weights_and_owners_share_among_themselves() {
        let mut fair = FairQueue::new();
        // One owner with one batch, one with three, one of them heavier.
        for (key, owner, weight) in [(0, 7, 4), (1, 8, 4), (2, 8, 4), (3, 8, 16)] {
            fair.ready(key, owner, weight);
        }
        let turns = turns(&mut fair, 20_000);
        // The second owner counts 16 against 4, divided by 4, 4 and 16.
        let expected = [4_000, 2_666, 2_666, 10_667];
        for (key, expected) in (0..).zip(expected) {
            assert!(turns[&key].abs_diff(expected) <= 3, "{turns:?}");
        }
    }

    #[test]
    fn whoever_comes_late_starts_level() {
        let mut fair = FairQueue::new();
        fair.ready(0, 0, 4);
        turns(&mut fair, 1_000_000);
        fair.ready(1, 1, 4);
        let late = turns(&mut fair, 20);
        assert_eq!((late[&0], late[&1]), (10, 10));
        fair.rest(1);
        turns(&mut fair, 1_000);
        fair.ready(1, 1, 4);
        fair.weigh(1, 64);
        assert!(turns(&mut fair, 170)[&1] >= 159);
        fair.forget(0);
        fair.charge(1, 1, false);
        assert!(fair.is_idle() && fair.first().is_none());
    }

    #[test]
    fn costs_count_and_have_a_bound() {
        let mut fair = FairQueue::new();
        fair.ready(0, 0, 1);
        fair.ready(1, 1, 1);
        for _ in 0..1_000 {
            let key = fair.first().unwrap();
            fair.charge(key, if key == 0 { 9 } else { 1 }, true);
        }
        let charged = |fair: &FairQueue<u32, u32>, key| fair.entries[&key].charged;
        assert!(charged(&fair, 0).abs_diff(charged(&fair, 1)) <= 9 * UNIT, "{fair:?}");
        fair.charge(0, u64::MAX, true);
        assert!(charged(&fair, 0) <= charged(&fair, 1) + (MAX_COST + 9) * UNIT);
    }

    proptest! {
        #[test]
        fn nobody_who_is_ready_starves(weights in proptest::collection::vec((0u32..4, 1u32..=64), 1..20)) {
            let mut fair = FairQueue::new();
            for (key, (owner, weight)) in (0..).zip(&weights) {
                fair.ready(key, *owner, *weight);
            }
            let bound = u32::try_from(weights.len()).unwrap() * 64 * 20 + 64;
            let turns = turns(&mut fair, bound);
            prop_assert_eq!(turns.len(), weights.len());
        }
    }
}
