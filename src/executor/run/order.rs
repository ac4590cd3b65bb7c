//! The order in which the rows of one load run: those that begin alike next to each other, where a
//! server of the operator's own can share its prefix cache between them.

use std::cmp::Reverse;

use super::Run;
use super::queue::Queue;
use super::row::ReadyRow;
use crate::domain::row::prefix;

impl Run {
    /// Sorts rows so that those that begin alike are next to each other, for each lane starting with
    /// the rows that have the most in common with the last one before them. Sorts only within one
    /// load, so that no row waits for long.
    pub(super) fn next_to_their_like(&self, mut rows: Vec<ReadyRow>) -> Vec<ReadyRow> {
        if rows.iter().all(|row| row.opening.is_none()) {
            return rows;
        }
        let lane = |row: &ReadyRow| self.source.ways.lane(row.route);
        rows.sort_by(|a, b| lane(a).cmp(&lane(b)).then_with(|| prefix::order(a.begins(), b.begins())));
        for of_lane in rows.chunk_by_mut(|a, b| lane(a) == lane(b)) {
            let queue = of_lane.first().and_then(&lane).and_then(|lane| self.queues.get(&lane));
            let Some(last) = queue.and_then(Queue::last) else { continue };
            let nearest = of_lane.iter().map(|row| prefix::common(row.begins(), last.begins()));
            let start = nearest.enumerate().max_by_key(|(index, common)| (*common, Reverse(*index)));
            of_lane.rotate_left(start.map_or(0, |(index, _)| index));
        }
        rows
    }
}
