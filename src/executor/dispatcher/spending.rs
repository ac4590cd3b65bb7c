//! What rows may cost: held before a row is sent, settled when its call has ended.

use super::{Dispatcher, offer};
use crate::domain::id::{BatchId, RowKey};
use crate::domain::money::Usd;
use crate::executor::attempt::pack;
use crate::executor::lane::LaneIndex;
use crate::executor::run::Unaffordable;
use crate::executor::run::row::ReadyRow;

impl Dispatcher {
    /// Holds what a row may cost that is next on a lane. A row that the batch cannot pay ends; one
    /// that it may be able to pay once other calls have ended waits for these.
    pub(super) fn admit(&mut self, batch: BatchId, lane: LaneIndex, row: ReadyRow) -> Option<ReadyRow> {
        let run = self.runs.get_mut(&batch)?;
        match run.admit(lane, row) {
            Ok(row) => Some(row),
            Err(Unaffordable::Yet) => {
                if let Some(lane) = self.lanes.get(lane) {
                    lane.fair.rest(batch);
                }
                None
            }
            Err(Unaffordable::Ever(row, error)) => {
                let (key, request) = (RowKey { batch, row: row.at.row }, row.asked.map(|asked| asked.request));
                self.in_flight += 1;
                self.conclude(key, request, pack(row.end(key, error, self.parts.clock.now())));
                None
            }
        }
    }

    /// Ends a call of a batch for which `most` was held, and lets rows go on that waited for that.
    pub(super) fn settle(&mut self, batch: BatchId, most: Usd, cost: Usd) {
        let Some(run) = self.runs.get_mut(&batch) else { return };
        if !run.settle(most, cost) {
            return;
        }
        offer(&mut self.lanes, run);
    }
}
