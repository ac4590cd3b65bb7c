//! Which requests are in flight, and the rows that wait for the answer to an equal request instead
//! of asking again.
//!
//! A row leads while it is in flight and until its answer is durable, no longer. Whatever its
//! outcome (an answer, a failure, a cancelled batch), its attempt ends and its followers are read
//! again. They then find the answer in the store, or one of them leads in its place. A follower is
//! stored as a row's place, without its body.
//!
//! Not here: the answers. They are in the store, found by the digest of their request.

use std::collections::{HashMap, HashSet};

use crate::domain::batch::dedup::RequestDigest;
use crate::domain::id::{BatchId, RowKey};
use crate::executor::dedup::key::{DedupKey, Moment};
use crate::executor::run::row::RowRef;

/// How many requests are remembered as failed, and how many as lately answered. Beyond that, the
/// oldest are forgotten, and a few unnecessary calls are made.
const REMEMBERED: usize = 16 << 10;

/// A row that waits for the answer of another row.
pub type Follower = (BatchId, RowRef);

/// What happens to a row that could be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupDecision {
    /// The row is sent.
    Send,
    /// The row waits for the answer of another row.
    Follow,
    /// The request was answered after the row was read; reading the row again finds the answer.
    Read,
}

/// How an attempt at a request ended, as far as it matters to waiting rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// The request was answered, and the store has the answer.
    Answered,
    /// The request has failed for good. An equal one may well fail too, so no row waits for
    /// another.
    Failed,
    /// The request is made again later, or not at all.
    Open,
}

#[derive(Debug)]
struct Led {
    by: RowKey,
    /// The store has the answer, but it is not durable yet.
    answered: bool,
    followers: Vec<Follower>,
}

/// The requests in flight, by their digests.
#[derive(Debug, Default)]
pub struct SingleFlight {
    led: HashMap<RequestDigest, Led>,
    /// Requests whose answers are on their way to the disk.
    settling: Vec<RequestDigest>,
    /// Requests that have failed for good; rows with these requests do not wait for each other.
    loose: HashSet<RequestDigest>,
    now: Moment,
    /// When requests were answered: the current generation, and the one before.
    answered: [HashMap<RequestDigest, Moment>; 2],
}

impl SingleFlight {
    /// The current moment: answers that are durable by now are found in the store from here on.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Decides what a row does; the row becomes a follower if an equal request is in flight.
    pub fn turn(&mut self, asked: DedupKey, row: Follower) -> DedupDecision {
        if let Some(led) = self.led.get_mut(&asked.request) {
            led.followers.push(row);
            return DedupDecision::Follow;
        }
        let answered = self.answered.iter().find_map(|some| some.get(&asked.request));
        if answered.is_some_and(|at| *at > asked.at) { DedupDecision::Read } else { DedupDecision::Send }
    }

    /// Notes that a request is in flight; no effect if an equal one already is.
    pub fn leads(&mut self, request: RequestDigest, by: RowKey) {
        if !self.loose.contains(&request) {
            self.led.entry(request).or_insert(Led { by, answered: false, followers: Vec::new() });
        }
    }

    /// Ends an attempt. Returns the rows that must be read again now.
    pub fn ended(&mut self, request: RequestDigest, by: RowKey, outlook: Outlook) -> Vec<Follower> {
        match outlook {
            Outlook::Failed => {
                if self.loose.len() >= REMEMBERED {
                    self.loose.clear();
                }
                self.loose.insert(request);
            }
            Outlook::Answered => _ = self.loose.remove(&request),
            Outlook::Open => {}
        }
        match self.led.get_mut(&request).filter(|led| led.by == by) {
            Some(led) if outlook == Outlook::Answered => {
                led.answered = true;
                self.settling.push(request);
                Vec::new()
            }
            Some(_) => self.release(request),
            None => Vec::new(),
        }
    }

    /// Whether there are answers that were not durable at the last look.
    pub fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// Releases the followers of rows whose results are durable.
    pub fn settle(&mut self, is_durable: impl Fn(RowKey) -> bool) -> Vec<Follower> {
        let mut released = Vec::new();
        self.now.0 += 1;
        for request in std::mem::take(&mut self.settling) {
            match self.led.get(&request) {
                Some(led) if led.answered && !is_durable(led.by) => self.settling.push(request),
                Some(_) | None => {
                    released.append(&mut self.release(request));
                    self.remember(request);
                }
            }
        }
        released
    }

    fn remember(&mut self, request: RequestDigest) {
        if self.answered[0].len() >= REMEMBERED {
            self.answered.swap(0, 1);
            self.answered[0].clear();
        }
        self.answered[0].insert(request, self.now);
    }

    fn release(&mut self, request: RequestDigest) -> Vec<Follower> {
        self.led.remove(&request).map(|led| led.followers).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::RowIndex;
    use proptest::prelude::*;

    const BATCH: BatchId = BatchId::from_u128(1);

    fn key(row: u32) -> RowKey {
        RowKey { batch: BATCH, row: RowIndex(row) }
    }

    fn outlook() -> impl Strategy<Value = Outlook> {
        prop_oneof![Just(Outlook::Answered), Just(Outlook::Failed), Just(Outlook::Open)]
    }

    proptest! {
        /// Rows come, are sent or follow, and end in any order. Every follower is released once,
        /// and not before its leader has ended. Of the rows with the same request, one at a time is
        /// sent unless that request has failed before.
        #[test]
        fn every_follower_is_released_once(steps in proptest::collection::vec((0_u8..3, 0_u8..3, outlook()), 1..200)) {
            let mut sharing = SingleFlight::default();
            let mut flying: Vec<(RequestDigest, u32)> = Vec::new();
            let mut waiting: HashMap<u32, RequestDigest> = HashMap::new();
            let (mut failed, mut settling, mut answered) = (HashSet::new(), Vec::new(), HashSet::new());
            let mut next = 0;
            let take_back = |released: Vec<Follower>, waiting: &mut HashMap<u32, RequestDigest>| {
                for (_, row) in released {
                    assert!(waiting.remove(&row.row.0).is_some(), "row {} was not waiting", row.row.0);
                }
            };
            for (kind, request, outlook) in steps {
                let digest = RequestDigest([request; 16]);
                match kind {
                    0 | 1 => {
                        let at = RowRef { row: RowIndex(next), model: 0, offset: 0 };
                        let asked = DedupKey { request: digest, at: if kind == 0 { Moment(0) } else { sharing.now() } };
                        match sharing.turn(asked, (BATCH, at)) {
                            DedupDecision::Follow => _ = waiting.insert(next, digest),
                            DedupDecision::Read => prop_assert!(kind == 0 && answered.contains(&digest)),
                            DedupDecision::Send => {
                                prop_assert!(failed.contains(&digest) || flying.iter().all(|(other, _)| *other != digest));
                                prop_assert!(kind == 1 || !answered.contains(&digest));
                                sharing.leads(digest, key(next));
                                flying.push((digest, next));
                            }
                        }
                        next += 1;
                    }
                    _ if !flying.is_empty() => {
                        let (digest, row) = flying.remove(usize::from(request) % flying.len());
                        match outlook {
                            Outlook::Failed => _ = failed.insert(digest),
                            Outlook::Answered if sharing.led.get(&digest).is_some_and(|led| led.by == key(row)) => settling.push(digest),
                            Outlook::Answered | Outlook::Open => {}
                        }
                        take_back(sharing.ended(digest, key(row), outlook), &mut waiting);
                    }
                    _ => {
                        take_back(sharing.settle(|_| true), &mut waiting);
                        answered.extend(settling.drain(..));
                    }
                }
            }
            for (digest, row) in flying {
                take_back(sharing.ended(digest, key(row), Outlook::Open), &mut waiting);
            }
            take_back(sharing.settle(|_| false), &mut waiting);
            take_back(sharing.settle(|_| true), &mut waiting);
            prop_assert!(waiting.is_empty());
            prop_assert!(sharing.led.is_empty() && sharing.settling.is_empty());
        }
    }
}
