//! Starting all that has become possible: preparing, loading, dispatching, ending.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Busy, CancelReply, Dispatcher, Event, Sent, TICK};
use crate::domain::batch::{BatchEvent, BatchSpec, BatchState};
use crate::domain::id::BatchId;
use crate::executor::attempt::{Attempt, Context};
use crate::executor::finish::Finish;
use crate::executor::input::Source;
use crate::executor::prepare::Prepare;
use crate::executor::run::{Idle, LaneIndex, Load, Run, Stop};
use crate::store::{StoreError, blocking};

impl Dispatcher {
    /// Looks at every run that something has happened to, then fills the lanes.
    pub(super) fn pump(&mut self, durable: u64) {
        if self.draining {
            return;
        }
        let now = Instant::now();
        let due = self.runs.iter().filter(|(_, run)| run.next_due().is_some_and(|due| due <= now));
        self.touched.extend(due.map(|(id, _)| *id));
        self.activate();
        for id in std::mem::take(&mut self.touched) {
            self.advance(id, now);
        }
        if !self.disk_is_full {
            self.dispatch(now, durable);
        }
    }

    /// Gives free places to the runs that wait for one, in order.
    fn activate(&mut self) {
        while self.active < self.settings.max_running {
            let Some(id) = self.queue.pop_front() else { break };
            if let Some(run) = self.runs.get_mut(&id)
                && !run.active
            {
                run.active = true;
                self.active += 1;
                self.touched.insert(id);
            }
        }
    }

    fn deactivate(&mut self, id: BatchId) {
        if let Some(run) = self.runs.get_mut(&id)
            && run.active
        {
            run.active = false;
            self.active -= 1;
        }
    }

    /// Loads what the run can take, or goes on with a run that has become idle.
    fn advance(&mut self, id: BatchId, now: Instant) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if let Some(load) = run.begin_load(now) {
            self.load(id, load);
            return;
        }
        match run.idle() {
            None => {}
            // Looked at again with the next commit.
            Some(Idle::Settling) => _ = self.touched.insert(id),
            Some(Idle::Over) => {
                self.deactivate(id);
                if let Some(run) = self.runs.remove(&id) {
                    self.end(run);
                }
            }
            Some(Idle::Again) => {
                run.rewind();
                self.deactivate(id);
                self.queue.push_back(id);
            }
            // It keeps no place from a run that has something to do.
            Some(Idle::Waiting) => self.deactivate(id),
        }
    }

    /// Prepares a batch; `cancels` came before that and are answered after it.
    pub(super) fn prepare(&mut self, id: BatchId, cancels: Vec<CancelReply>) {
        let stop = CancellationToken::new();
        if !cancels.is_empty() {
            stop.cancel();
        }
        let prepare = Prepare {
            store: self.parts.store.clone(),
            catalog: self.parts.catalog.clone(),
            clock: self.parts.clock.clone(),
            limits: self.settings.input,
            stop: stop.clone(),
        };
        self.busy.insert(id, Busy::Preparing { stop, cancels });
        let (events, permits) = (self.events.clone(), self.preparing.clone());
        self.tasks.spawn(async move {
            let prepared = prepare.run(id, permits).await;
            let _ = events.send(Event::Prepared { batch: id, prepared });
        });
    }

    fn load(&self, batch: BatchId, load: Load) {
        let Some(source) = self.runs.get(&batch).map(|run| run.source.clone()) else { return };
        let events = self.events.clone();
        self.tasks.spawn(async move {
            // A panic while reading must not leave the run waiting for this load for ever.
            let loaded = blocking(move || Ok(source.load(load))).await;
            let result = loaded.unwrap_or_else(|error: StoreError| Err((error, Vec::new())));
            let _ = events.send(Event::Loaded { batch, result });
        });
    }

    fn dispatch(&mut self, now: Instant, durable: u64) {
        let undurable = u32::try_from(self.recorded.saturating_sub(durable)).unwrap_or(u32::MAX);
        let mut room = self.settings.in_flight_limit.saturating_sub(undurable).saturating_sub(self.in_flight);
        let lanes = self.lanes.len();
        // One row for each lane in turn, and another lane first each time, so that none uses up the
        // common limit.
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
            if !self.lanes.has_room(index, now) {
                return false;
            }
            let Some(provider) = self.lanes.pool_of(index).map(|pool| pool.provider.clone()) else { return false };
            let Some(lane) = self.lanes.get(index) else { return false };
            let Some(batch) = lane.rotation.pop_front() else { return false };
            let Some(run) = self.runs.get_mut(&batch) else { continue };
            let Some((row, more)) = run.next(index) else { continue };
            if more {
                lane.rotation.push_back(batch);
            }
            let tokens = row.tokens();
            let epoch = self.lanes.start(index, now, tokens);
            let attempt = Attempt {
                context: Context { store: self.parts.store.clone(), clock: self.parts.clock.clone(), policy: self.settings.retry },
                spec: run.spec.clone(),
                provider,
                routes: run.source.routes.clone(),
                row,
                abort: run.abort.clone(),
            };
            self.touched.insert(batch);
            self.in_flight += 1;
            let events = self.events.clone();
            self.tasks.spawn(async move {
                let ended = attempt.run().await;
                let _ = events.send(Event::Ended { batch, lane: index, sent: Sent { tokens, epoch }, ended });
            });
            return true;
        }
    }

    /// Ends a run whose rows are all with the store, or that was stopped.
    fn end(&mut self, run: Run) {
        let event = match run.stop {
            Some(Stop::Cancelled) => None,
            Some(Stop::Expired) => Some(BatchEvent::DeadlinePassed),
            None => Some(BatchEvent::RowsDone),
        };
        match event.map(|event| run.state.apply(event, self.parts.clock.now())).transpose() {
            Ok(moved) => self.finish(run.spec, moved.unwrap_or(run.state), Some(run.source)),
            Err(conflict) => tracing::error!(batch = %run.spec.id, %conflict, "a batch cannot be ended"),
        }
    }

    pub(super) fn finish(&mut self, spec: Arc<BatchSpec>, state: BatchState, source: Option<Source>) {
        let batch = spec.id;
        let finish = Finish { store: self.parts.store.clone(), clock: self.parts.clock.clone(), spec, state, source };
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

    /// When to look again although nothing has happened.
    pub(super) fn next_wake(&self) -> Instant {
        let now = Instant::now();
        if self.draining {
            return now + TICK;
        }
        let due = self.runs.values().filter_map(Run::next_due).min();
        let release = self.lanes.next_release(now);
        let wake = [due, release].into_iter().flatten().min().unwrap_or(now + TICK);
        wake.max(now)
    }
}
