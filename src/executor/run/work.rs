//! What is left of a run, and which lanes share it.

use tokio::time::Instant;

use super::queue::Queue;
use super::row::{BYTES_PER_TOKEN, Due, ReadyRow};
use super::{Run, RunPlace};
use crate::executor::lane::LaneIndex;
use crate::executor::lane::route::LaneRoute;

/// Assumed bytes of a body before any was read.
const UNMEASURED_BYTES: u64 = 1_024;

impl Run {
    /// For each lane that rows still go to: how many rows, and about how many tokens they are to
    /// read.
    pub fn backlog(&self) -> impl Iterator<Item = (LaneIndex, u64, u64)> + '_ {
        let (rows, bytes) = self.measured;
        let bytes_each = bytes.checked_div(rows).unwrap_or(UNMEASURED_BYTES);
        let models = self.by_model().zip(self.source.ways.shared_lanes());
        models.flat_map(move |((_, rows), lanes)| {
            // Where lanes share the rows, each is taken to do as many.
            let rows = rows.div_ceil(lanes.len().max(1) as u64);
            lanes.into_iter().map(move |lane| (lane, rows, rows.saturating_mul(bytes_each) / BYTES_PER_TOKEN))
        })
    }

    /// For each model, the lanes that share its rows, and how many of its rows are unfinished.
    pub fn work(&self) -> impl Iterator<Item = (Vec<LaneIndex>, u64)> + '_ {
        self.source.ways.shared_lanes().zip(self.by_model()).map(|(lanes, (_, rows))| (lanes, rows))
    }

    /// Gives a lane without rows half of those that are ready for another one, once there are no others
    /// to read; `has_room` tells whether a lane could send one now. Returns whether rows have moved.
    pub fn even_out(&mut self, now: Instant, has_room: impl Fn(LaneIndex) -> bool) -> bool {
        if self.cursor.is_some() || self.loading || !self.is_dispatchable() || self.place != RunPlace::Active {
            return false;
        }
        let ready = |lane: &LaneIndex| self.queues.get(lane).map_or(0, Queue::len);
        let ways = &self.source.ways;
        let is_idle = |lane: LaneIndex| self.queues.get(&lane).is_none_or(|queue| queue.is_empty() && queue.due.is_empty());
        let mut pairs = (0..).zip(&self.deferred).filter(|(_, deferred)| deferred.is_empty()).filter_map(|(model, _)| {
            // Most models have one lane, and nothing to even out.
            ways.shared(model).nth(1)?;
            let (to, _) = ways.shared(model).find(|(_, lane)| is_idle(*lane) && has_room(*lane))?;
            let (from, lane) = ways.shared(model).max_by_key(|(_, lane)| ready(lane)).filter(|(_, lane)| ready(lane) >= 2)?;
            Some((from, lane, to))
        });
        let Some((from, lane, to)) = pairs.next() else { return false };
        let Some(queue) = self.queues.get_mut(&lane) else { return false };
        let moved = queue.take_last(queue.len().div_ceil(2), |row| row.route == from);
        let is_moved = !moved.is_empty();
        self.waiting.extend(moved.into_iter().map(|row| Due(ReadyRow { route: to, ..row }.wait_until(now))));
        is_moved
    }

    /// For each model, the route of its fresh rows, and how many rows of it are unfinished: exact for
    /// a batch of one model, otherwise as they are in the input.
    pub fn by_model(&self) -> impl Iterator<Item = (Option<&LaneRoute>, u64)> + '_ {
        let (total, unfinished) = (u64::from(self.plan.rows.max(1)), self.unfinished());
        let entries = self.plan.models.iter().zip(self.source.ways.entries());
        entries.map(move |(model, route)| (route, (unfinished * u64::from(model.rows)).div_ceil(total)))
    }

    /// Rows that are still to be done: those in flight, if the run has been stopped.
    pub fn unfinished(&self) -> u64 {
        if self.stop.is_some() { self.in_flight.into() } else { self.source.live.progress().unfinished().into() }
    }
}
