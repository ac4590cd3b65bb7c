//! The one owner of run state: takes events in one order, moves batches, starts attempts.
//!
//! Nothing here waits for anything but the next event. What takes time (reading, calling, writing)
//! runs in tasks that report back. An event changes the state; [`Dispatcher::pump`] then starts
//! whatever has become possible.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempt::{Attempt, Context, Ended};
use super::finish::Finish;
use super::handle::{CancelError, Command};
use super::input::{Cursor, Source, Window};
use super::lane::Lanes;
use super::prepare::{Prepare, Prepared, cancel_stored, routes, source};
use super::row::{ReadyRow, WaitingRow};
use super::run::{LaneIndex, Run, Stop};
use super::{Parts, Settings};
use crate::domain::batch::{BatchEvent, BatchSpec, BatchState};
use crate::domain::id::BatchId;
use crate::domain::plan::Plan;
use crate::domain::time::until;
use crate::store::{LiveBatch, Recovered, StoreError};

/// What the tasks report.
#[derive(Debug)]
pub(super) enum Event {
    Prepared {
        batch: BatchId,
        prepared: Prepared,
    },
    Loaded {
        batch: BatchId,
        result: Result<Window, StoreError>,
    },
    Reloaded {
        batch: BatchId,
        result: Result<(Vec<ReadyRow>, u32), (StoreError, Vec<WaitingRow>)>,
    },
    Ended {
        batch: BatchId,
        lane: LaneIndex,
        ended: Ended,
    },
    Finished {
        batch: BatchId,
        result: Result<(), StoreError>,
    },
    /// A batch that did not run has been dealt with; look at it again.
    Retake(BatchId),
}

/// A reply to a client who wants a batch cancelled.
type CancelReply = oneshot::Sender<Result<BatchState, CancelError>>;

/// What is being done to a batch that does not run. Whoever does it may write its state; nobody
/// else does meanwhile.
enum Busy {
    /// Validated or recovered; the token stops it. Cancellations wait for its end.
    Preparing { stop: CancellationToken, cancels: Vec<CancelReply> },
    /// A client's cancellation is being written.
    Cancelling,
    /// Being ended.
    Finishing,
    /// Waiting to be tried again.
    Pausing,
}

/// Events taken in one go before the lanes are looked at again.
const EVENTS_AT_ONCE: usize = 256;
/// Batches prepared at the same time.
const PREPARING: usize = 2;
/// How often free space and the clock are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long rows in flight of a cancelled batch may still take.
const CANCEL_GRACE: Duration = Duration::from_secs(30);
/// Wait before something that failed for the moment is tried again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Dispatcher {
    parts: Parts,
    settings: Settings,
    lanes: Lanes,
    runs: HashMap<BatchId, Run>,
    busy: HashMap<BatchId, Busy>,
    /// Batches that wait for a place among the running ones.
    backlog: VecDeque<BatchId>,
    /// Runs that an event may have made idle or able to load.
    touched: HashSet<BatchId>,
    tasks: TaskTracker,
    events: mpsc::UnboundedSender<Event>,
    /// Batches that are prepared at the same time; each may read a large file.
    preparing: Arc<Semaphore>,
    in_flight: u32,
    /// Results handed to the store by attempts, since it was opened.
    recorded: u64,
    disk_is_full: bool,
    draining: bool,
}

impl Dispatcher {
    pub(super) fn new(parts: Parts, settings: Settings, recovered: Recovered, events: mpsc::UnboundedSender<Event>) -> Self {
        let lanes = Lanes::new(parts.open.clone());
        Self {
            parts,
            settings,
            lanes,
            runs: HashMap::new(),
            busy: HashMap::new(),
            backlog: recovered.batches.into(),
            touched: HashSet::new(),
            tasks: TaskTracker::new(),
            events,
            preparing: Arc::new(Semaphore::new(PREPARING)),
            in_flight: 0,
            recorded: 0,
            disk_is_full: false,
            draining: false,
        }
    }

    /// Runs until drained: after `drain`, until nothing is in flight; after `abort`, no further.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::UnboundedReceiver<Event>,
        drain: CancellationToken,
        abort: CancellationToken,
    ) {
        let mut durable = self.parts.store.durable_rows();
        let mut catalog = self.parts.catalog.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch_of_events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            if self.draining && self.in_flight == 0 && self.busy.is_empty() {
                return;
            }
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = abort.cancelled() => return,
                () = drain.cancelled(), if !self.draining => self.drain(),
                Some(command) = commands.recv() => self.command(command),
                count = events.recv_many(&mut batch_of_events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for event in batch_of_events.drain(..) {
                        self.event(event);
                    }
                }
                Ok(()) = durable.changed() => {}
                Ok(()) = catalog.changed() => self.catalog_changed(),
                _ = tick.tick() => self.tick(),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.pump(*durable.borrow_and_update());
        }
    }

    fn drain(&mut self) {
        tracing::info!(in_flight = self.in_flight, "draining: no further row is dispatched");
        self.draining = true;
        // Validation starts over at the next start; what is being finished goes on there, too.
        for busy in self.busy.values() {
            if let Busy::Preparing { stop, .. } = busy {
                stop.cancel();
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Take(id) => self.take(id),
            Command::Cancel(id, reply) => self.cancel(id, reply),
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Prepared { batch, prepared } => self.prepared(batch, prepared),
            Event::Loaded { batch, result } => self.loaded(batch, result),
            Event::Reloaded { batch, result } => self.reloaded(batch, result),
            Event::Ended { batch, lane, ended } => self.ended(batch, lane, ended),
            Event::Finished { batch, result } => self.finished(batch, result),
            Event::Retake(id) => {
                self.busy.remove(&id);
                self.take(id);
            }
        }
    }

    /// Begins with a batch, unless it is under way already.
    fn take(&mut self, id: BatchId) {
        if self.draining || self.runs.contains_key(&id) || self.busy.contains_key(&id) || self.backlog.contains(&id) {
            return;
        }
        self.backlog.push_back(id);
    }

    fn prepare(&mut self, id: BatchId) {
        let stop = CancellationToken::new();
        let prepare = Prepare {
            store: self.parts.store.clone(),
            catalog: self.parts.catalog.clone(),
            clock: self.parts.clock.clone(),
            limits: self.settings.input,
            stop: stop.clone(),
        };
        self.busy.insert(id, Busy::Preparing { stop, cancels: Vec::new() });
        let (events, permits) = (self.events.clone(), self.preparing.clone());
        self.tasks.spawn(async move {
            // Closed never: the semaphore lives as long as this task.
            let _permit = permits.acquire_owned().await;
            let prepared = prepare.run(id).await;
            let _ = events.send(Event::Prepared { batch: id, prepared });
        });
    }

    fn prepared(&mut self, id: BatchId, prepared: Prepared) {
        let cancels = match self.busy.remove(&id) {
            Some(Busy::Preparing { cancels, .. }) => cancels,
            Some(Busy::Cancelling | Busy::Finishing | Busy::Pausing) | None => Vec::new(),
        };
        match prepared {
            Prepared::Run { spec, state, plan, live } => self.start(spec, state, plan, live),
            Prepared::Finish { spec, state, live } => {
                let (store, limits) = (&self.parts.store, self.settings.input);
                let source = live.map(|live| source(store, &spec, &Plan::default(), live, Arc::from([]), limits));
                self.finish(Arc::new(spec), state, source);
            }
            Prepared::Nothing => {}
            Prepared::Failed(error) => {
                tracing::error!(batch = %id, %error, "a batch could not be prepared; trying again");
                self.retake_later(id);
            }
        }
        for reply in cancels {
            self.cancel(id, reply);
        }
    }

    fn start(&mut self, spec: BatchSpec, state: BatchState, plan: Plan, live: Arc<LiveBatch>) {
        let id = spec.id;
        let routes = routes(id, &plan, &self.parts.catalog.current(), &mut self.lanes);
        let source = source(&self.parts.store, &spec, &plan, live, routes, self.settings.input);
        let left = until(self.parts.clock.now(), spec.deadline());
        self.runs.insert(id, Run::new(spec, state, plan, source, Instant::now() + left));
        self.touched.insert(id);
    }

    fn retake_later(&mut self, id: BatchId) {
        self.busy.insert(id, Busy::Pausing);
        let events = self.events.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(PAUSE).await;
            // The dispatcher has gone only if the daemon stops.
            let _ = events.send(Event::Retake(id));
        });
    }

    fn loaded(&mut self, batch: BatchId, result: Result<Window, StoreError>) {
        let Some(run) = self.runs.get_mut(&batch) else { return };
        match result {
            Ok(window) => {
                let lanes = run.loaded(window);
                self.enter_rotation(batch, lanes);
                self.touched.insert(batch);
            }
            Err(error) => {
                tracing::error!(%batch, %error, "rows could not be read; trying again");
                run.load_failed(Vec::new());
            }
        }
    }

    fn reloaded(&mut self, batch: BatchId, result: Result<(Vec<ReadyRow>, u32), (StoreError, Vec<WaitingRow>)>) {
        let Some(run) = self.runs.get_mut(&batch) else { return };
        match result {
            Ok((rows, stranded)) => {
                let lanes = run.reloaded(rows, stranded);
                self.enter_rotation(batch, lanes);
                self.touched.insert(batch);
            }
            Err((error, waiting)) => {
                tracing::error!(%batch, %error, "rows could not be read again; trying again");
                run.load_failed(waiting);
            }
        }
    }

    fn enter_rotation(&mut self, batch: BatchId, lanes: Vec<LaneIndex>) {
        for lane in lanes {
            if let Some(lane) = self.lanes.get(lane)
                && !lane.rotation.contains(&batch)
            {
                lane.rotation.push_back(batch);
            }
        }
    }

    fn ended(&mut self, batch: BatchId, lane: LaneIndex, ended: Ended) {
        let now = Instant::now();
        self.in_flight -= 1;
        let failure = match &ended {
            Ended::Recorded { failure } => Some(*failure),
            Ended::Again { class, .. } | Ended::Parked { class } => Some(Some(*class)),
            Ended::Aborted | Ended::StoreGone => None,
        };
        if let Some(lane) = self.lanes.get(lane) {
            lane.in_flight -= 1;
            if let Some(failure) = failure {
                lane.learn(failure, now);
            }
        }
        if matches!(ended, Ended::Recorded { .. }) {
            self.recorded += 1;
        }
        let Some(run) = self.runs.get_mut(&batch) else { return };
        run.in_flight -= 1;
        match ended {
            Ended::Recorded { .. } | Ended::StoreGone => {}
            Ended::Again { row, wait, .. } => {
                let ReadyRow { at, history, tally, last, .. } = row;
                run.wait(WaitingRow { at, due: now + wait, history, tally, last });
            }
            // An abandoned row is picked up again by the rewind of an idle run.
            Ended::Aborted => {}
            Ended::Parked { .. } => run.parked += 1,
        }
        self.touched.insert(batch);
    }

    fn finished(&mut self, batch: BatchId, result: Result<(), StoreError>) {
        self.busy.remove(&batch);
        if let Err(error) = result {
            tracing::error!(%batch, %error, "a batch could not be ended; trying again");
            self.retake_later(batch);
        }
    }

    fn cancel(&mut self, id: BatchId, reply: CancelReply) {
        if let Some(run) = self.runs.get_mut(&id) {
            match run.state.apply(BatchEvent::CancelRequested, self.parts.clock.now()) {
                Ok(state) => {
                    run.state = state;
                    run.halt(Stop::Cancelled);
                    self.abort_after_grace(id);
                    self.touched.insert(id);
                    self.persist(id, state, reply);
                }
                Err(conflict) => drop(reply.send(Err(CancelError::TooLate(conflict.state)))),
            }
            return;
        }
        match self.busy.get_mut(&id) {
            Some(Busy::Preparing { stop, cancels }) => {
                stop.cancel();
                cancels.push(reply);
            }
            // It is too late or happening already; the state on disk says which.
            Some(Busy::Finishing | Busy::Cancelling | Busy::Pausing) => self.cancel_stored(id, reply, false),
            None => {
                self.backlog.retain(|waiting| *waiting != id);
                self.busy.insert(id, Busy::Cancelling);
                self.cancel_stored(id, reply, true);
            }
        }
    }

    fn cancel_stored(&self, id: BatchId, reply: CancelReply, retake: bool) {
        let (store, clock, events) = (self.parts.store.clone(), self.parts.clock.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let answer = cancel_stored(&store, &clock, id).await;
            if retake {
                let _ = events.send(Event::Retake(id));
            }
            drop(reply.send(answer));
        });
    }

    fn persist(&self, id: BatchId, state: BatchState, reply: CancelReply) {
        let store = self.parts.store.clone();
        self.tasks.spawn(async move {
            let answer = store.batch_moved(id, state).await.map(|()| state).map_err(CancelError::from);
            drop(reply.send(answer));
        });
    }

    fn abort_after_grace(&self, id: BatchId) {
        let Some(abort) = self.runs.get(&id).map(|run| run.abort.clone()) else { return };
        self.tasks.spawn(async move {
            tokio::time::sleep(CANCEL_GRACE).await;
            abort.cancel();
        });
    }

    fn catalog_changed(&mut self) {
        for (id, run) in &mut self.runs {
            run.reroute = run.stranded() > 0;
            self.touched.insert(*id);
        }
    }

    fn tick(&mut self) {
        let full = match self.parts.store.free_bytes() {
            Ok(free) => free < self.settings.min_free_bytes,
            Err(error) => {
                tracing::warn!(%error, "free space is not known");
                false
            }
        };
        if full != self.disk_is_full {
            let limit = self.settings.min_free_bytes;
            if full {
                tracing::error!(limit, "the disk is nearly full: no row is dispatched until there is more free space");
            } else {
                tracing::info!("there is free space again: rows are dispatched");
            }
            self.disk_is_full = full;
        }
        // By the wall clock: it is what the client was told, and it may have been set meanwhile.
        let now = self.parts.clock.now();
        let expired = self.runs.iter().filter(|(_, run)| run.stop.is_none() && run.spec.deadline() <= now).map(|(id, _)| *id);
        for id in expired.collect::<Vec<_>>() {
            if let Some(run) = self.runs.get_mut(&id) {
                run.halt(Stop::Expired);
                run.abort.cancel();
            }
            self.touched.insert(id);
        }
        // Whatever a lost wake-up or a failed load left behind is looked at once a second.
        self.touched.extend(self.runs.keys().copied());
    }

    /// Starts all that has become possible.
    fn pump(&mut self, durable: u64) {
        if self.draining {
            return;
        }
        let now = Instant::now();
        while self.runs.len() + self.busy.len() < self.settings.max_running {
            let Some(id) = self.backlog.pop_front() else { break };
            self.prepare(id);
        }
        let due = self.runs.iter().filter(|(_, run)| run.next_due().is_some_and(|due| due <= now));
        self.touched.extend(due.map(|(id, _)| *id));
        for id in std::mem::take(&mut self.touched) {
            self.settle_or_load(id, now, durable);
        }
        if !self.disk_is_full {
            self.dispatch(now, durable);
        }
    }

    fn settle_or_load(&mut self, id: BatchId, now: Instant, durable: u64) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if let Some((due, cursor)) = run.begin_load(now) {
            self.load(id, due, cursor);
            return;
        }
        if !run.is_idle() {
            return;
        }
        // Idle runs are looked at until the store has caught up with their last results.
        self.touched.insert(id);
        let unfinished = run.source.live.progress().unfinished();
        if run.stop.is_some() || unfinished == 0 {
            if let Some(run) = self.runs.remove(&id) {
                self.touched.remove(&id);
                self.end(run);
            }
        } else if durable >= self.recorded && (run.reroute || unfinished > run.parked + run.stranded()) {
            let routes = routes(id, &run.plan, &self.parts.catalog.current(), &mut self.lanes);
            run.rewind(routes);
        }
    }

    /// Begins to read rows: those that are due again, or else the next window.
    fn load(&self, batch: BatchId, due: Vec<WaitingRow>, cursor: Option<Cursor>) {
        let Some(source) = self.runs.get(&batch).map(|run| run.source.clone()) else { return };
        let events = self.events.clone();
        self.tasks.spawn_blocking(move || {
            let event = match cursor {
                Some(cursor) => Event::Loaded { batch, result: source.window(cursor) },
                None => Event::Reloaded { batch, result: source.again(due) },
            };
            let _ = events.send(event);
        });
    }

    fn dispatch(&mut self, now: Instant, durable: u64) {
        let undurable = u32::try_from(self.recorded.saturating_sub(durable)).unwrap_or(u32::MAX);
        let mut room = self.settings.in_flight_limit.saturating_sub(undurable).saturating_sub(self.in_flight);
        // One row for each lane in turn, so that no lane uses up the common limit.
        let mut served = true;
        while served && room > 0 {
            served = false;
            for lane in 0..self.lanes.len() {
                if room > 0 && self.dispatch_one(lane, now) {
                    room -= 1;
                    served = true;
                }
            }
        }
    }

    fn dispatch_one(&mut self, index: LaneIndex, now: Instant) -> bool {
        loop {
            let Some(lane) = self.lanes.get(index) else { return false };
            if !lane.has_room(now) {
                return false;
            }
            let Some(batch) = lane.rotation.pop_front() else { return false };
            let Some(run) = self.runs.get_mut(&batch) else { continue };
            let Some((row, more)) = run.next(index) else { continue };
            lane.in_flight += 1;
            if more {
                lane.rotation.push_back(batch);
            }
            let attempt = Attempt {
                context: Context { store: self.parts.store.clone(), clock: self.parts.clock.clone(), policy: self.settings.retry },
                spec: run.spec.clone(),
                provider: lane.provider.clone(),
                routes: run.source.routes.clone(),
                row,
                deadline: run.deadline,
                abort: run.abort.clone(),
            };
            self.touched.insert(batch);
            self.in_flight += 1;
            let events = self.events.clone();
            self.tasks.spawn(async move {
                let ended = attempt.run().await;
                let _ = events.send(Event::Ended { batch, lane: index, ended });
            });
            return true;
        }
    }

    /// Ends a run whose rows are all with the store.
    fn end(&mut self, run: Run) {
        let event = match run.stop {
            Some(Stop::Cancelled) => None,
            Some(Stop::Expired) => Some(BatchEvent::DeadlinePassed),
            None => Some(BatchEvent::RowsDone),
        };
        let state = match event.map(|event| run.state.apply(event, self.parts.clock.now())).transpose() {
            Ok(moved) => moved.unwrap_or(run.state),
            Err(conflict) => {
                tracing::error!(batch = %run.spec.id, %conflict, "a batch cannot be ended");
                return;
            }
        };
        self.finish(run.spec, state, Some(run.source));
    }

    fn finish(&mut self, spec: Arc<BatchSpec>, state: BatchState, source: Option<Source>) {
        let batch = spec.id;
        let finish = Finish { store: self.parts.store.clone(), clock: self.parts.clock.clone(), spec, state, source };
        self.busy.insert(batch, Busy::Finishing);
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let result = finish.run().await;
            let _ = events.send(Event::Finished { batch, result });
        });
    }

    fn next_wake(&mut self) -> Instant {
        let now = Instant::now();
        let due = self.runs.values().filter_map(Run::next_due).min();
        let release = self.lanes.next_release(now);
        let wake = [due, release].into_iter().flatten().min().unwrap_or(now + TICK);
        wake.max(now)
    }
}
