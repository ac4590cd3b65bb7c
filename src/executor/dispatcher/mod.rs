//! The single owner of run state: takes events in one order, moves batches, starts attempts.
//!
//! The dispatcher waits only for the next event. Slow work (reading, calling, writing) runs in
//! tasks that report back. An event changes the state; `pump` then starts whatever has become
//! possible.

mod cancel;
mod deadlines;
mod dedup;
mod event;
mod failed;
mod hints;
mod places;
mod probe;
mod pump;
mod quotas;
mod resolve;
mod spending;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use self::event::Event;
use self::places::{PreparingPlaces, RunPlaces};
use self::quotas::OrgCalls;
use super::attempt::attachments::Attachments;
use super::attempt::recordings::Recordings;
use super::attempt::{AttemptContext, Ended};
use super::dedup::single_flight::SingleFlight;
use super::handle::{CancelError, Command};
use super::lane::Lanes;
use super::lane::status;
use super::lane::status::{SharedLaneStatuses, Whole};
use super::lane::waiting::Moments;
use super::prepare::listed::ServerLists;
use super::prepare::stage::{Stage, Stages};
use super::prepare::{Prepared, source};
use super::run::Run;
use super::run::reader::Source;
use super::run::window::{Unread, Window};
use super::{Parts, Settings};
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::Owner;
use crate::domain::batch::{BatchSpec, BatchState};
use crate::domain::id::BatchId;
use crate::domain::money::Usd;
use crate::domain::time::Timestamp;
use crate::executor::lane::LaneIndex;
use crate::flow::places::Places;
use crate::store::{LiveBatch, Recovered};

/// A reply to a client who cancels a batch.
type CancelReply = oneshot::Sender<Result<BatchState, CancelError>>;

/// The work in progress on a batch that does not run. The task that does this work may write the
/// batch's state; no other task does meanwhile.
enum Busy {
    /// The batch is being validated or recovered, or waits for another try at it; the token stops
    /// it. Cancellations wait for its end.
    Preparing { owner: Owner, stop: CancellationToken, cancels: Vec<CancelReply> },
    /// A client's cancellation is being written.
    Cancelling,
    /// The batch is being ended, from this state.
    Finishing(BatchState),
}

/// Events taken in one go before the lanes are looked at again.
const EVENTS_AT_ONCE: usize = 256;
/// Batches prepared at the same time; each may read a large file.
const PREPARING: usize = 4;
/// How often free space and the clock are checked.
const TICK: Duration = Duration::from_secs(1);
/// Delay before a temporary failure is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What other parts of the daemon may look at.
pub(super) struct SeenLanes {
    pub wall: SharedLaneStatuses,
    pub stages: Stages,
}

pub(super) struct Dispatcher {
    parts: Parts,
    settings: Settings,
    lanes: Lanes,
    /// What all attempts share.
    context: Arc<AttemptContext>,
    /// Requests that several rows make.
    sharing: SingleFlight,
    /// Rows that got the answer of another row, since the start.
    shared_rows: u64,
    /// The lane that is served first next time.
    first_lane: LaneIndex,
    runs: FxHashMap<BatchId, Run>,
    busy: HashMap<BatchId, Busy>,
    /// Runs that have a place, and those that wait for one.
    places: RunPlaces,
    /// Batches that are being prepared, and those that wait for that.
    preparing: PreparingPlaces,
    /// Runs that an event may have made idle or able to load.
    touched: FxHashSet<BatchId>,
    /// Runs whose last results are being made durable.
    settling: FxHashSet<BatchId>,
    /// When rows of runs are due, the earliest first. An entry is void unless its run names the
    /// same moment.
    alarms: BinaryHeap<Reverse<(Instant, BatchId)>>,
    /// Lanes that are avoided, as of the last look.
    avoided: Vec<LaneIndex>,
    tasks: TaskTracker,
    events: mpsc::UnboundedSender<Event>,
    seen: SeenLanes,
    lists: ServerLists,
    in_flight: u32,
    calls: OrgCalls,
    /// Results of attempts handed to the store, since it was opened.
    recorded: u64,
    disk_is_full: bool,
    draining: bool,
    moments: Moments,
}

impl Dispatcher {
    pub(super) fn new(
        parts: Parts,
        settings: Settings,
        recovered: Recovered,
        events: mpsc::UnboundedSender<Event>,
        seen: SeenLanes,
    ) -> Self {
        let lanes = Lanes::new(parts.open.clone(), settings.in_flight_limit, settings.hold_after);
        let moments = Moments::new(&parts.clock);
        let lists = ServerLists::new(parts.open.clone());
        let (store, clock) = (parts.store.clone(), parts.clock.clone());
        let context = AttemptContext {
            attachments: Attachments::new(store.clone(), clock.clone()),
            recordings: Recordings::new(store.clone(), clock.clone(), parts.fetcher.clone(), settings.recordings),
            policy: settings.retry,
            store,
            clock,
            beyond: AtomicU64::new(0),
        };
        let mut dispatcher = Self {
            context: Arc::new(context),
            parts,
            settings,
            lanes,
            sharing: SingleFlight::default(),
            shared_rows: 0,
            first_lane: 0,
            runs: FxHashMap::default(),
            busy: HashMap::new(),
            places: Places::new(settings.max_running),
            preparing: Places::new(PREPARING),
            touched: FxHashSet::default(),
            settling: FxHashSet::default(),
            alarms: BinaryHeap::new(),
            avoided: Vec::new(),
            tasks: TaskTracker::new(),
            events,
            seen,
            lists,
            in_flight: 0,
            calls: OrgCalls::default(),
            recorded: 0,
            disk_is_full: false,
            draining: false,
            moments,
        };
        let catalog = dispatcher.parts.catalog.current();
        dispatcher.lanes.open_local(&catalog);
        for id in recovered.batches {
            // Whose it is will be known when it is read; nobody else's waits for that yet.
            dispatcher.take(id, Owner::default());
        }
        dispatcher
    }

    /// Runs until drained: after `drain`, until no call is in flight; after `abort`, no further.
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
        let mut some_events = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(Instant::now()));
        while !(self.draining && self.in_flight == 0 && self.busy.is_empty()) {
            let wake = self.next_wake();
            // To ring early does no harm, and to set an alarm is a part of what a row costs.
            if wake < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = abort.cancelled() => return,
                () = drain.cancelled(), if !self.draining => self.drain(),
                Some(command) = commands.recv() => self.command(command),
                count = events.recv_many(&mut some_events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    let now = (Instant::now(), self.parts.clock.now());
                    for event in some_events.drain(..) {
                        self.event(event, now);
                    }
                }
                Ok(()) = durable.changed() => {}
                Ok(()) = catalog.changed() => self.world_changed(),
                _ = tick.tick() => self.tick(),
                () = alarm.as_mut() => {}
            }
            self.pump(*durable.borrow_and_update());
        }
    }

    fn drain(&mut self) {
        tracing::info!(in_flight = self.in_flight, "draining: no further row is dispatched");
        self.draining = true;
        self.publish();
        // Validation starts over at the next start; finishing also resumes there.
        let preparing = self.busy.iter().filter(|(_, busy)| matches!(busy, Busy::Preparing { .. }));
        let preparing: Vec<_> = preparing.map(|(id, _)| *id).collect();
        preparing.into_iter().for_each(|id| self.stop_preparing(id));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Take(id, owner) => self.take(id, owner),
            Command::Cancel(id, reply) => self.cancel(id, reply),
            Command::Controlled(id, done) => {
                self.controlled(id);
                // The caller that asked may have gone.
                let _ = done.send(());
            }
            Command::Held(done) => {
                self.world_changed();
                let _ = done.send(());
            }
        }
    }

    fn event(&mut self, event: Event, (now, wall): (Instant, Timestamp)) {
        match event {
            Event::Prepared { batch, prepared } => self.prepared(batch, *prepared),
            Event::Loaded { batch, result } => self.loaded(batch, result),
            Event::Ended { lane, row, org, request, sent, most, ended, lesson } => {
                self.call_ended(org);
                let was_sent = match &ended {
                    Ok(ended) => !matches!(ended, Ended::NotSent(_)),
                    Err(failed) => failed.was_sent(),
                };
                let judged = if was_sent {
                    self.lanes.end(lane, now, wall, &sent, lesson)
                } else {
                    self.lanes.refund(lane, now, &sent);
                    None
                };
                if let Some(most) = most {
                    self.settle(row.batch, *most, ended.as_ref().map_or(Usd::ZERO, Ended::cost));
                }
                match ended {
                    Err(failed) => self.failed(row, request, *failed, judged.as_ref()),
                    Ok(ended) => self.concluded(row, request, ended),
                }
                self.hasten();
            }
            Event::Concluded { row, request, ended } => self.concluded(row, request, ended),
            Event::Finished { batch, result } => self.finished(batch, result),
            Event::Probed(probed) => self.probed(probed),
            Event::Hinted(hinted) => self.hinted(&hinted),
            Event::Resolved(resolved) => self.resolved(resolved),
            Event::Retake(id) => self.retake(id),
        }
    }

    /// Starts work on a batch, unless it is under way already.
    fn take(&mut self, id: BatchId, owner: Owner) {
        if !self.draining && !self.runs.contains_key(&id) && !self.busy.contains_key(&id) {
            self.prepare(id, owner, Vec::new());
        }
    }

    /// Resumes a batch after a pause or a write; cancellations that came meanwhile keep waiting.
    fn retake(&mut self, id: BatchId) {
        let (owner, cancels) = match self.busy.remove(&id) {
            Some(Busy::Preparing { owner, cancels, .. }) => (owner, cancels),
            Some(Busy::Cancelling | Busy::Finishing(_)) | None => (Owner::default(), Vec::new()),
        };
        if !self.draining {
            self.prepare(id, owner, cancels);
        }
    }

    fn retake_later(&mut self, id: BatchId) {
        self.seen.stages.set(id, Stage::Queued);
        self.busy.insert(id, Busy::Preparing { owner: Owner::default(), stop: CancellationToken::new(), cancels: Vec::new() });
        let events = self.events.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(RETRY_DELAY).await;
            // The dispatcher is gone only if the daemon stops.
            let _ = events.send(Event::Retake(id));
        });
    }

    fn prepared(&mut self, id: BatchId, prepared: Prepared) {
        self.seen.stages.leave(id);
        self.preparing.remove(id);
        let cancels = match self.busy.remove(&id) {
            Some(Busy::Preparing { cancels, .. }) => cancels,
            Some(Busy::Cancelling | Busy::Finishing(_)) | None => Vec::new(),
        };
        match prepared {
            Prepared::Run { spec, state, plan, live, limit } => self.start(spec, state, plan, live, limit),
            Prepared::Finish { spec, state, live } => {
                let (store, clock, limits) = (&self.parts.store, &self.parts.clock, self.settings.input);
                let spec = Arc::new(spec);
                let source = live.map(|live| source(store, clock, spec.clone(), &Plan::default(), live, Arc::default(), limits));
                self.finish(spec, state, source, HashMap::new());
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
        if !self.draining {
            self.prepare_next();
        }
    }

    fn start(&mut self, spec: BatchSpec, state: BatchState, plan: Plan, live: Arc<LiveBatch>, limit: Option<Usd>) {
        let id = spec.id;
        let ways = self.build_routes(&plan);
        deadlines::log_waiting_models(id, &plan, &[], &ways);
        let shared = self.shared(&spec);
        let source =
            Source { shared, ..source(&self.parts.store, &self.parts.clock, Arc::new(spec), &plan, live, ways, self.settings.input) };
        self.runs.insert(id, Run::new(state, plan, source, limit));
        self.touched.insert(id);
    }

    fn loaded(&mut self, batch: BatchId, result: Result<Window, Box<Unread>>) {
        let Some(run) = self.runs.get_mut(&batch) else { return };
        match result {
            Ok(window) => {
                self.shared_rows += u64::from(window.shared);
                run.loaded(window, Instant::now());
                offer(&mut self.lanes, run);
                self.touched.insert(batch);
            }
            // The run is not marked as touched: the next tick tries again, a second later.
            Err(unread) => {
                let Unread { error, load } = *unread;
                tracing::error!(%batch, %error, "rows could not be read; trying again");
                run.load_failed(load);
            }
        }
    }

    fn ended(&mut self, batch: BatchId, ended: Ended) {
        self.in_flight -= 1;
        let recorded = matches!(ended, Ended::Recorded { .. });
        self.recorded += u64::from(recorded);
        let Some(run) = self.runs.get_mut(&batch) else { return };
        run.in_flight -= 1;
        run.recorded += u32::from(recorded);
        match ended {
            Ended::Recorded { .. } => {}
            // An aborted row stays unfinished; its run has been stopped.
            Ended::Again(row) | Ended::NotSent(row) | Ended::Aborted(row) => run.wait(*row),
            Ended::Parked(row) => run.park(*row),
            // The store takes no more results: each further call would be made in vain.
            Ended::StoreGone => self.draining = true,
        }
        self.touched.insert(batch);
    }

    fn publish(&self) {
        let whole = Whole {
            calls: self.calls.each().collect(),
            draining: self.draining,
            shared_rows: self.shared_rows,
            disk_is_full: self.disk_is_full,
            moments: self.moments,
        };
        status::publish(&self.seen.wall, &self.lanes, &self.runs, &self.parts.clock, whole);
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
        self.look_for_sleepers(Instant::now());
        self.wake_waiting();
        self.look_at_deadlines();
        self.resolve();
        self.probe();
        self.ask_for_hints();
        let avoided = self.lanes.avoided(Instant::now());
        if avoided != self.avoided {
            self.avoided = avoided;
            self.ways_changed();
        }
        self.lanes.remind(Instant::now());
        self.moments.follow(&self.parts.clock);
        self.publish();
        // Whatever a failed load left behind is checked once a second.
        self.touched.extend(self.runs.keys().copied());
    }
}

/// Gives the ready rows of a run their turns on their lanes. Returns whether there are any.
fn offer(lanes: &mut Lanes, run: &Run) -> bool {
    let (batch, owner, weight) = (run.spec.id, run.spec.owner, run.weight());
    let mut any = false;
    for lane in run.ready_lanes() {
        if let Some(lane) = lanes.get(lane) {
            lane.fair.ready(batch, owner, weight);
            any = true;
        }
    }
    any
}
