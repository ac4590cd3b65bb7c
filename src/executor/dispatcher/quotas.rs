//! The quota of calls in flight: a batch whose organisation has as many calls as it may have rests
//! on every lane until one of them has ended.
//!
//! Only rows that have to be tried alone go out in any case: they block their lane for everybody.
//! The operator's own organisation has no quota and is not counted.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Dispatcher, offer};
use crate::domain::id::{BatchId, OrgId};
use crate::domain::org::quotas::Limit;

/// Calls in flight of organisations other than the operator's.
#[derive(Debug, Default)]
pub(super) struct OrgCalls(FxHashMap<OrgId, Calls>);

#[derive(Debug, Default)]
struct Calls {
    in_flight: u32,
    /// Batches that wait for a call to end, in the order in which they came.
    waiting: VecDeque<BatchId>,
    queued: FxHashSet<BatchId>,
}

impl OrgCalls {
    pub fn started(&mut self, org: OrgId) {
        if org != OrgId::OPERATOR {
            self.0.entry(org).or_default().in_flight += 1;
        }
    }

    fn ended(&mut self, org: OrgId) {
        if let Some(calls) = self.0.get_mut(&org) {
            calls.in_flight = calls.in_flight.saturating_sub(1);
        }
    }

    fn wait(&mut self, org: OrgId, batch: BatchId) {
        let calls = self.0.entry(org).or_default();
        if calls.queued.insert(batch) {
            calls.waiting.push_back(batch);
        }
    }

    fn next_waiting(&mut self, org: OrgId) -> Option<BatchId> {
        let calls = self.0.get_mut(&org)?;
        let batch = calls.waiting.pop_front()?;
        calls.queued.remove(&batch);
        Some(batch)
    }

    /// Calls in flight of each organisation that has any.
    pub fn each(&self) -> impl Iterator<Item = (OrgId, u32)> {
        self.0.iter().filter(|(_, calls)| calls.in_flight > 0).map(|(org, calls)| (*org, calls.in_flight))
    }
}

impl Dispatcher {
    /// Whether a batch must wait because its organisation has as many calls as it may have. It is
    /// then woken when one has ended.
    pub(super) fn must_wait(&mut self, batch: BatchId, org: OrgId) -> bool {
        if org == OrgId::OPERATOR {
            return false;
        }
        let Some(most) = self.parts.store.quotas(org).get(Limit::Calls) else { return false };
        let is_full = self.calls.0.get(&org).map_or(0, |calls| u64::from(calls.in_flight)) >= most;
        if is_full {
            self.calls.wait(org, batch);
        }
        is_full
    }

    /// Takes note of the end of a call, and lets a batch go on that waited for that.
    pub(super) fn call_ended(&mut self, org: OrgId) {
        self.calls.ended(org);
        // One that has nothing left to do does not use up the turn of the next.
        while let Some(batch) = self.calls.next_waiting(org) {
            if self.make_ready(batch) {
                break;
            }
        }
    }

    /// Lets all batches try again that wait for calls to end: quotas may have changed, and not every
    /// batch that was woken had a row to send.
    pub(super) fn wake_waiting(&mut self) {
        let orgs: Vec<_> = self.calls.0.iter().filter(|(_, calls)| !calls.waiting.is_empty()).map(|(org, _)| *org).collect();
        for org in orgs {
            while let Some(batch) = self.calls.next_waiting(org) {
                self.make_ready(batch);
            }
        }
        self.calls.0.retain(|_, calls| calls.in_flight > 0);
    }

    /// Lets the ready rows of a batch have their turn on their lanes again. Returns whether there are
    /// any.
    fn make_ready(&mut self, batch: BatchId) -> bool {
        self.runs.get(&batch).is_some_and(|run| !run.control.paused && offer(&mut self.lanes, run))
    }
}
