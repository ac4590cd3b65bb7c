//! What a run reads next, and where the rows go that were read.
//!
//! Invariant: what a load takes from a run comes back to it, as ready rows or for a later read.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::row::{Due, RowRef};
use super::window::{Load, Room, Scan, Window, WindowSize};
use super::{Run, RunPlace};
use crate::executor::lane::LaneIndex;

/// New rows are not read while this many wait for another attempt: a lane that fails every row must
/// not turn the whole batch into waiting rows.
const MAX_WAITING: usize = 4_096;
/// The most rows that are remembered for a later read because their own lane has enough rows, at 16
/// bytes each. Beyond that, the lanes of a batch wait for each other.
const MAX_DEFERRED: usize = 4 << 20;
/// The smallest part of a window that a lane gets, in rows.
const LEAST_ROWS: usize = 16;
/// Rows of a lane that are read for another attempt as soon as they are due, in addition to its part of
/// the window: a lane that fails them all takes them one by one.
const AGAIN_ROWS: usize = 16;

impl Run {
    /// The next load, if any: rows that are due at once, others when half of a lane's part of the window
    /// is gone.
    pub fn begin_load(&mut self, now: Instant, window: WindowSize) -> Option<Load> {
        if self.place != RunPlace::Active || self.loading || !self.is_dispatchable() {
            return None;
        }
        self.sort_due(now);
        let mut room = self.room(window);
        // Most looks at a run find that nothing is wanted.
        if !room.is_empty() && room.values().all(|rows| *rows == 0) && self.queues.values().all(|queue| queue.due.is_empty()) {
            return None;
        }
        let mut load = Load { window, ..Load::default() };
        for (lane, queue) in &mut self.queues {
            let Some(rows) = room.get_mut(lane) else { continue };
            let again = if queue.bytes() <= window.bytes { AGAIN_ROWS.saturating_sub(queue.again()) } else { 0 };
            let taken = queue.due.len().min(again.max(*rows));
            load.due.extend(queue.due.drain(..taken));
            *rows = rows.saturating_sub(taken);
        }
        let mut hungry = Room::default();
        for (model, deferred) in (0..).zip(&mut self.deferred) {
            let ways = &self.source.ways;
            while let Some(row) = deferred.front().copied() {
                // The first of equals: the cheapest.
                let best = ways.shared(model).rev().max_by_key(|(_, lane)| room.get(lane));
                let Some((route, rows)) = best.and_then(|(route, lane)| Some((route, room.get_mut(&lane).filter(|rows| **rows > 0)?)))
                else {
                    break;
                };
                *rows -= 1;
                deferred.pop_front();
                load.deferred.push((row, route));
            }
            hungry.0.push(ways.shared(model).filter_map(|(route, lane)| Some((route, *room.get(&lane)?))).collect());
        }
        let may_scan = self.waiting.len() < MAX_WAITING && self.put_aside() < MAX_DEFERRED && hungry.is_left();
        load.scan = self.cursor.filter(|_| may_scan).map(|from| Scan { from, room: hungry });
        if load.is_empty() {
            return None;
        }
        self.loading = true;
        Some(load)
    }

    /// How many rows each lane can take: none while more than half of its part of the window is
    /// left. Lanes that share rows by their beginnings are filled together.
    fn room(&self, window: WindowSize) -> BTreeMap<LaneIndex, usize> {
        let mut room: BTreeMap<LaneIndex, usize> = self.source.ways.shared_lanes().flatten().map(|lane| (lane, 0)).collect();
        room.extend(self.queues.iter().filter(|(_, queue)| !queue.due.is_empty()).map(|(lane, _)| (*lane, 0)));
        let lanes = room.len().max(1);
        let (most, bytes) = ((window.rows / lanes).max(LEAST_ROWS), window.bytes / lanes);
        let held = |lane: LaneIndex| self.queues.get(&lane).map_or((0, 0), |queue| (queue.len(), queue.bytes()));
        for (lane, rows) in &mut room {
            let (there, held) = held(*lane);
            *rows = if there <= most / 2 && held <= bytes / 2 { most - there } else { 0 };
        }
        let left = |lane| Some(held(lane)).filter(|(_, held)| *held < bytes).map_or(0, |(there, _)| most.saturating_sub(there));
        fill_together(&mut room, self.source.ways.sharing_by_prefix(), left);
        room
    }

    /// Puts due rows in line for their lanes.
    fn sort_due(&mut self, now: Instant) {
        while self.waiting.peek().is_some_and(|row| row.0.due <= now) {
            let Some(Due(mut row)) = self.waiting.pop() else { break };
            row.route = self.source.ways.current_or_primary(row.route);
            match self.source.ways.lane(row.route) {
                Some(lane) => self.queues.entry(lane).or_default().due.push_back(row),
                None => self.blocked.push(row),
            }
        }
    }

    /// Takes the result of a load.
    pub fn loaded(&mut self, window: Window, now: Instant) {
        self.loading = false;
        self.recorded += window.closed;
        if self.stop.is_some() {
            return;
        }
        if let Some(next) = window.next {
            self.cursor = next;
        }
        self.defer(window.deferred);
        self.waiting.extend(window.unread.into_iter().map(Due));
        let outdated = !Arc::ptr_eq(&window.ways, &self.source.ways);
        for row in self.next_to_their_like(window.rows) {
            self.measured = (self.measured.0 + 1, self.measured.1 + row.body.len() as u64);
            let same = !outdated || self.source.ways.is_unchanged(&window.ways, row.route);
            let Some(lane) = self.source.ways.lane(row.route).filter(|_| same) else {
                // The body was made for another provider; the row is read again for its present
                // one.
                self.waiting.push(Due(row.wait_until(now)));
                continue;
            };
            self.queues.entry(lane).or_default().push(row);
        }
    }

    /// Takes back a failed load, so that it may be tried again.
    pub fn load_failed(&mut self, load: Load) {
        self.loading = false;
        if self.stop.is_none() {
            self.waiting.extend(load.due.into_iter().map(Due));
            self.defer(load.deferred.into_iter().map(|(row, _)| row).collect());
        }
    }

    /// Remembers rows by their place, for a later read.
    pub(super) fn defer(&mut self, rows: Vec<RowRef>) {
        for row in rows {
            if let Some(deferred) = self.deferred.get_mut(usize::from(row.model)) {
                deferred.push_back(row);
            }
        }
    }
}

/// Gives the lanes of a group, of which one has room, all that they have `left`: each row is to go to the
/// lane that owns it.
fn fill_together(room: &mut BTreeMap<LaneIndex, usize>, groups: impl Iterator<Item = Vec<LaneIndex>>, left: impl Fn(LaneIndex) -> usize) {
    for lanes in groups {
        if lanes.iter().any(|lane| room.get(lane).is_some_and(|rows| *rows > 0)) {
            room.extend(lanes.into_iter().map(|lane| (lane, left(lane))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_share_rows_by_their_beginnings_are_filled_together() {
        let mut room = BTreeMap::from([(0, 50), (1, 0), (2, 0), (3, 0), (4, 60)]);
        fill_together(&mut room, [vec![0, 1], vec![2, 3]].into_iter(), |lane| 10 * (lane + 1));
        assert_eq!(room, BTreeMap::from([(0, 10), (1, 20), (2, 0), (3, 0), (4, 60)]));
    }
}
