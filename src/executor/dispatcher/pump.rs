//! Starts everything that has become possible: preparing, loading, dispatching, ending.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Busy, Dispatcher, Event, TICK, offer};
use crate::domain::batch::{BatchEvent, BatchSpec, BatchState};
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::executor::attempt::Attempt;
use crate::executor::dedup::answer_cache::AnswerCache;
use crate::executor::finish::Finish;
use crate::executor::lane::LaneIndex;
use crate::executor::lane::calls::Slot;
use crate::executor::lane::provider::CallMeans;
use crate::executor::run::reader::Source;
use crate::executor::run::row::{LeftRow, ReadyRow};
use crate::executor::run::window::{Load, Unread, WindowSize};
use crate::executor::run::{Run, RunPlace, RunStatus, Stop};
use crate::store::blocking;
use crate::store::error::StoreError;

/// Limits on the ready rows of all running batches, and on the bytes of their bodies.
const ALL_ROWS: usize = 64 << 10;
const ALL_BYTES: usize = 64 << 20;

impl Dispatcher {
    /// Looks at every run that an event has touched, then fills the lanes.
    pub(super) fn pump(&mut self, durable: u64) {
        if self.draining {
            return;
        }
        let now = Instant::now();
        self.wake_due_runs(now);
        self.settle_shared();
        self.touched.extend(self.settling.drain());
        loop {
            self.activate();
            let touched: Vec<_> = self.touched.drain().collect();
            if touched.is_empty() {
                break;
            }
            for id in touched {
                self.advance(id, now);
            }
        }
        if !self.disk_is_full {
            self.dispatch(now, durable);
        }
    }

    /// Touches the runs that have rows due by now.
    fn wake_due_runs(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.alarms.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.alarms.pop();
            if let Some(run) = self.runs.get_mut(&id).filter(|run| run.alarm == Some(at)) {
                run.alarm = None;
                self.touched.insert(id);
            }
        }
    }

    /// How much of each running batch may be in memory: the more batches, the less of each.
    fn window(&self) -> WindowSize {
        let part = |all: usize, least: usize, most: usize| (all / self.places.held().max(1)).clamp(least, most);
        WindowSize { rows: part(ALL_ROWS, 16, 1_024), bytes: part(ALL_BYTES, 64 << 10, 2 << 20) }
    }

    /// Loads what the run can take, or moves on a run that has become idle.
    fn advance(&mut self, id: BatchId, now: Instant) {
        let window = self.window();
        let Some(run) = self.runs.get_mut(&id) else { return };
        if run.place == RunPlace::Inactive && run.can_go_on() {
            self.queue(id);
            return;
        }
        let lanes = &self.lanes;
        // Rows that have moved to another lane are read again for it.
        let load = run.begin_load(now, window).or_else(|| {
            let moved = run.even_out(now, |lane| lanes.slot(lane, now).is_some());
            moved.then(|| run.begin_load(now, window)).flatten()
        });
        if let Some(load) = load {
            self.load(id, load);
            return;
        }
        match run.idle() {
            None => self.set_alarm(id),
            // The run is looked at again with the next commit.
            Some(RunStatus::AwaitingDurability) => _ = self.settling.insert(id),
            Some(RunStatus::Finished) => {
                self.deactivate(id);
                if let Some(run) = self.runs.remove(&id) {
                    run.lanes().for_each(|lane| self.lanes.forget(lane, id));
                    self.end(run);
                }
            }
            Some(RunStatus::Restart) => {
                run.rewind();
                self.deactivate(id);
                self.touched.insert(id);
            }
            // A blocked run must not keep a place from a run that has work to do.
            Some(RunStatus::Blocked) => self.deactivate(id),
        }
    }

    /// Wakes the dispatcher when the run's next row is due.
    fn set_alarm(&mut self, id: BatchId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if let Some(due) = run.next_due()
            && run.alarm.is_none_or(|earlier| due < earlier)
        {
            run.alarm = Some(due);
            self.alarms.push(Reverse((due, id)));
        }
    }

    /// Gives quarantined rows back to their batches, or to one of them. They come again by
    /// themselves unless their batch has been stopped.
    pub(super) fn take_back_quarantined(&mut self, only: Option<BatchId>) {
        let now = Instant::now();
        for (batch, row) in self.lanes.take_quarantined(only) {
            if let Some(run) = self.runs.get_mut(&batch) {
                run.in_flight -= 1;
                let most = row.most.as_deref().copied();
                run.wait(row.wait_until(now));
                if let Some(most) = most {
                    self.settle(batch, most, Usd::ZERO);
                }
                self.touched.insert(batch);
            }
        }
    }

    /// Takes over the latest instructions on how a batch should run.
    pub(super) fn controlled(&mut self, id: BatchId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if run.control == run.source.live.control() {
            return;
        }
        run.control = run.source.live.control();
        tracing::info!(batch = %id, priority = %run.control.priority, paused = run.control.paused, "the batch runs in another way");
        let weight = run.weight();
        for lane in run.lanes() {
            self.lanes.weigh(lane, id, weight);
        }
        if run.control.paused {
            for lane in run.ready_lanes() {
                if let Some(lane) = self.lanes.get(lane) {
                    lane.fair.rest(id);
                }
            }
        } else {
            offer(&mut self.lanes, run);
        }
        self.take_back_quarantined(Some(id));
        self.rank_anew(id);
        self.touched.insert(id);
    }

    fn load(&self, batch: BatchId, load: Load) {
        let Some(mut source) = self.runs.get(&batch).map(|run| run.source.clone()) else { return };
        // Loading must not write to a full disk.
        let at = self.sharing.now();
        source.shared = source.shared.filter(|_| !self.disk_is_full).map(|shared| AnswerCache { at, ..shared });
        let events = self.events.clone();
        self.tasks.spawn(async move {
            // A panic while reading must not leave the run waiting for this load for ever.
            let loaded = blocking(move || Ok(source.load(load))).await;
            let result = loaded.unwrap_or_else(|error: StoreError| Err(Box::new(Unread { error, load: Load::default() })));
            let _ = events.send(Event::Loaded { batch, result });
        });
    }

    fn dispatch(&mut self, now: Instant, durable: u64) {
        let undurable = u32::try_from(self.recorded.saturating_sub(durable)).unwrap_or(u32::MAX);
        let mut room = self.settings.in_flight_limit.saturating_sub(undurable).saturating_sub(self.in_flight);
        let lanes = self.lanes.len();
        // One row for each lane in turn, starting with another lane each time, so that no lane uses
        // up the common limit.
        let mut fruitless = 0;
        while room > 0 && fruitless < lanes {
            let lane = self.first_lane % lanes;
            self.first_lane = lane + 1;
            if self.dispatch_one(lane, now) {
                room -= 1;
                fruitless = 0;
            } else {
                fruitless += 1;
            }
        }
    }

    fn dispatch_one(&mut self, index: LaneIndex, now: Instant) -> bool {
        loop {
            let Some(slot) = self.lanes.slot(index, now) else { return false };
            let Some(lane) = self.lanes.get(index) else { return false };
            if let Some((batch, row)) = lane.next_quarantined() {
                tracing::warn!(%batch, row = row.at.row.0, "its connection broke again and again; the row is tried with no other beside it");
                return self.send((index, slot), now, batch, row, true);
            }
            if lane.waits_for_quarantined() {
                return false;
            }
            let Some(batch) = lane.next() else { return false };
            let Some(org) = self.runs.get(&batch).map(|run| run.spec.org) else {
                lane.fair.forget(batch);
                continue;
            };
            if self.must_wait(batch, org) {
                let Some(lane) = self.lanes.get(index) else { return false };
                lane.fair.rest(batch);
                continue;
            }
            let Some(run) = self.runs.get_mut(&batch) else { return false };
            let lanes = &self.lanes;
            let is_own = |family| lanes.is_own(index, slot, family, now);
            let Some((row, more)) = run.next(index, slot.pick, slot.has_own.then_some(&is_own)) else {
                let Some(lane) = self.lanes.get(index) else { return false };
                lane.fair.rest(batch);
                continue;
            };
            let Some(lane) = self.lanes.get(index) else { return false };
            let cost = lane.cost(row.tokens());
            self.touched.insert(batch);
            if !self.is_sent(batch, &row) {
                if !more && let Some(lane) = self.lanes.get(index) {
                    lane.fair.rest(batch);
                }
                continue;
            }
            let Some(row) = self.admit(batch, index, row) else { continue };
            let Some(lane) = self.lanes.get(index) else { return false };
            lane.fair.charge(batch, cost, more);
            if row.met.is_suspect_on(index) {
                lane.quarantined.push_back((batch, row));
                continue;
            }
            return self.send((index, slot), now, batch, row, false);
        }
    }

    /// Sends a row; `alone` if no other is in flight on its lane. Returns whether it went out.
    fn send(&mut self, (lane, slot): (LaneIndex, Slot), now: Instant, batch: BatchId, row: ReadyRow, alone: bool) -> bool {
        let Some(run) = self.runs.get(&batch) else { return false };
        let Some(CallMeans { provider, restarted }) = self.lanes.provider_of(lane, slot.server, now) else { return false };
        let Some(sent) = self.lanes.start(lane, slot.server, now, row.tokens()) else { return false };
        let (key, request) = (RowKey { batch, row: row.at.row }, row.asked.map(|asked| asked.request));
        if let Some(request) = request {
            self.sharing.leads(request, key);
        }
        let (most, org) = (row.most.clone(), run.spec.org);
        let attempt = Box::new(Attempt {
            context: self.context.clone(),
            spec: run.spec.clone(),
            provider,
            ways: run.source.ways.clone(),
            row,
            alone,
            restarted,
            abort: if self.lanes.is_local(lane) { run.abort_local.clone() } else { run.abort_hosted.clone() },
        });
        self.in_flight += 1;
        self.calls.started(org);
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let (ended, lesson) = attempt.run().await;
            let _ = events.send(Event::Ended { lane, row: key, org, request, sent, most, ended, lesson });
        });
        true
    }

    /// Ends a run whose rows are all with the store, or that was stopped.
    fn end(&mut self, mut run: Run) {
        let event = match run.stop {
            Some(Stop::Cancelled) => None,
            // The last rows may have been done when the deadline passed.
            Some(Stop::Expired) if run.source.live.progress().unfinished() > 0 => Some(BatchEvent::DeadlinePassed),
            Some(Stop::Expired) | None => Some(BatchEvent::RowsDone),
        };
        match event.map(|event| run.state.apply(event, self.parts.clock.now())).transpose() {
            Ok(moved) => {
                let left = run.take_left();
                self.finish(run.spec, moved.unwrap_or(run.state), Some(run.source), left);
            }
            Err(conflict) => tracing::error!(batch = %run.spec.id, %conflict, "a batch cannot be ended"),
        }
    }

    pub(super) fn finish(&mut self, spec: Arc<BatchSpec>, state: BatchState, source: Option<Source>, left: HashMap<RowIndex, LeftRow>) {
        let batch = spec.id;
        let finish = Finish { store: self.parts.store.clone(), clock: self.parts.clock.clone(), spec, state, source, left };
        self.busy.insert(batch, Busy::Finishing(state));
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let result = finish.run().await;
            let _ = events.send(Event::Finished { batch, result });
        });
    }

    pub(super) fn finished(&mut self, batch: BatchId, result: Result<(), StoreError>) {
        self.busy.remove(&batch);
        if let Err(error) = result {
            tracing::error!(%batch, %error, "a batch could not be ended; trying again");
            self.retake_later(batch);
        }
    }

    /// When to look again if no event arrives.
    pub(super) fn next_wake(&self) -> Instant {
        let now = Instant::now();
        if self.draining {
            return now + TICK;
        }
        let due = self.alarms.peek().map(|Reverse((at, _))| *at);
        let release = self.lanes.next_release(now);
        let wake = [due, release].into_iter().flatten().min().unwrap_or(now + TICK);
        wake.max(now)
    }
}
