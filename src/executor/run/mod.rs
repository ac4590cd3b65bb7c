//! The run state of one batch: which rows are loaded, ready, waiting or in flight. Pure
//! bookkeeping; the dispatcher updates it, one event at a time.
//!
//! Invariant: every unfinished row is in exactly one place: behind the cursor, deferred, ready, in
//! flight, following, waiting, due, blocked, parked, or handed to the store. Only ready rows have
//! their body in memory, and each lane has a bound on them.

mod load;
mod order;
mod queue;
pub mod reader;
mod refused;
pub mod request;
pub mod row;
pub mod window;
mod work;

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::queue::Queue;
use self::reader::Source;
use self::row::{Due, LeftRow, ReadyRow, RowRef, WaitingRow};
use self::window::Cursor;
use super::lane::blame::Pick;
use super::lane::routes::RouteTable;
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::Control;
use crate::domain::batch::{BatchInput, BatchSpec, BatchState};
use crate::domain::id::RowIndex;
use crate::domain::money::Usd;
use crate::domain::org::budget::{Admission, Budget};
use crate::domain::org::ledger::{micros_down, micros_up, with_fee};
use crate::domain::row::RowError;
use crate::executor::lane::LaneIndex;

/// Why a run accepts no more dispatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A client cancelled it.
    Cancelled,
    /// Its deadline passed.
    Expired,
}

/// Whether a run is among those that read and dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunPlace {
    /// The run has no work that it could do now.
    Inactive,
    /// The run waits for a place.
    Queued,
    Active,
}

/// Over how long the rows of a lane that is well again come back.
const HASTE: Duration = Duration::from_secs(1);

/// One running batch.
#[derive(Debug)]
pub(super) struct Run {
    pub spec: Arc<BatchSpec>,
    pub state: BatchState,
    pub plan: Plan,
    pub source: Source,
    pub control: Control,
    /// The deadline comes too near for the run's usual share.
    pub deadline_at_risk: bool,
    /// The cheapest lanes could not do all rows before the deadline: dearer ones share them from then
    /// on.
    pub in_haste: bool,
    pub place: RunPlace,
    queues: BTreeMap<LaneIndex, Queue>,
    waiting: BinaryHeap<Due>,
    /// The moment at which the dispatcher was asked to look at the run.
    pub alarm: Option<Instant>,
    /// Due rows that can go nowhere at present.
    blocked: Vec<WaitingRow>,
    /// By model: rows that were skipped.
    deferred: Vec<VecDeque<RowRef>>,
    /// Where reading goes on; `None` at the end of the input.
    cursor: Option<Cursor>,
    loading: bool,
    pub in_flight: u32,
    /// Rows that wait for the answer to an equal request.
    following: u32,
    /// Results that this run has handed to the store.
    pub recorded: u32,
    /// Rows that were done when this run began.
    done_before: u32,
    /// Rows that will not be retried before the deadline.
    parked: Vec<WaitingRow>,
    /// What rows have met that are left without a result: the run has been stopped.
    left: HashMap<RowIndex, LeftRow>,
    /// How many rows were read, and the bytes of their bodies.
    measured: (u64, u64),
    pub stop: Option<Stop>,
    /// What the rows may cost in all; `None` where nobody pays for rows.
    budget: Option<Budget>,
    /// A row waits for calls to end that may cost less than is held for them.
    is_short: bool,
    /// Aborts the calls in flight.
    pub abort: CancellationToken,
    /// Aborts those to hosted providers. Calls share it: to clone a token takes a lock.
    pub abort_hosted: Arc<CancellationToken>,
    /// Aborts those to the operator's own servers.
    pub abort_local: Arc<CancellationToken>,
}

/// The state of a run that has nothing to do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunStatus {
    /// The run can be ended: it was stopped, or every row has its result.
    Finished,
    /// Rows were lost: the run must start over.
    Restart,
    /// The run is paused, or its rows wait for the deadline, another catalog, or a lane.
    Blocked,
    /// The last results are not durable yet.
    AwaitingDurability,
}

/// Why a row is not sent.
#[derive(Debug)]
pub(super) enum Unaffordable {
    /// It was put back until other calls have ended.
    Yet,
    /// The row ends with this error.
    Ever(Box<ReadyRow>, RowError),
}

/// The code of a row that was not sent because the batch may not cost so much.
const BUDGET_EXCEEDED: &str = "budget_exceeded";

impl Run {
    /// A run whose rows may cost `limit` in all, the fee included, if anybody pays for them.
    pub fn new(state: BatchState, plan: Plan, source: Source, limit: Option<Usd>) -> Self {
        let budget = match (&source.spec.input, limit) {
            (BatchInput::Quoted(order), Some(limit)) => Some(Budget::new(limit, order.fee, source.live.progress().cost)),
            (BatchInput::Quoted(_) | BatchInput::Unquoted { .. }, _) => None,
        };
        let cursor = Cursor::first_unfinished(&source.live.pages());
        let abort = CancellationToken::new();
        let done_before = done(&source);
        let deferred = plan.models.iter().map(|_| VecDeque::new()).collect();
        Self {
            spec: source.spec.clone(),
            state,
            plan,
            control: source.live.control(),
            source,
            deadline_at_risk: false,
            in_haste: false,
            place: RunPlace::Inactive,
            queues: BTreeMap::new(),
            waiting: BinaryHeap::new(),
            alarm: None,
            blocked: Vec::new(),
            deferred,
            cursor,
            loading: false,
            in_flight: 0,
            following: 0,
            recorded: 0,
            done_before,
            parked: Vec::new(),
            left: HashMap::new(),
            measured: (0, 0),
            stop: None,
            budget,
            is_short: false,
            abort_hosted: Arc::new(abort.child_token()),
            abort_local: Arc::new(abort.child_token()),
            abort,
        }
    }

    /// The run's weight among the batches of a lane.
    pub fn weight(&self) -> u32 {
        /// Rows that must run to meet the deadline go first, without shutting out all others.
        const AT_RISK: u32 = 64;
        self.control.priority.weight() * if self.deadline_at_risk { AT_RISK } else { 1 }
    }

    /// Whether the run reads and dispatches at all.
    fn is_dispatchable(&self) -> bool {
        self.stop.is_none() && !self.control.paused
    }

    /// The lanes for which the run has ready rows.
    pub fn ready_lanes(&self) -> impl Iterator<Item = LaneIndex> + '_ {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(lane, _)| *lane)
    }

    /// Every lane that the run has been on.
    pub fn lanes(&self) -> impl Iterator<Item = LaneIndex> + '_ {
        self.queues.keys().copied()
    }

    /// The next row for a lane, and whether there are more; `is_own` tells of a row's family whether
    /// the server with room has it in its cache.
    pub fn next(&mut self, lane: LaneIndex, pick: Pick, is_own: Option<&dyn Fn(u64) -> bool>) -> Option<(ReadyRow, bool)> {
        if !self.is_dispatchable() {
            return None;
        }
        let queue = self.queues.get_mut(&lane)?;
        let row = queue.take(pick, is_own)?;
        self.in_flight += 1;
        Some((row, !queue.is_empty()))
    }

    /// Holds what a row that was taken may cost. A row that must wait for other calls to end is put
    /// back.
    pub fn admit(&mut self, lane: LaneIndex, row: ReadyRow) -> Result<ReadyRow, Unaffordable> {
        let Some((budget, most)) = self.budget.as_mut().zip(row.most.as_deref()) else { return Ok(row) };
        match budget.hold(*most) {
            Admission::Held => Ok(row),
            Admission::Later => {
                self.in_flight -= 1;
                self.is_short = true;
                self.queues.entry(lane).or_default().put_back(row);
                Err(Unaffordable::Yet)
            }
            Admission::Exceeded => {
                let message = format!(
                    "the row may cost {} USD, and {} USD are left of what the batch may cost; a smaller limit of its output makes it cheaper",
                    micros_up(with_fee(*most, budget.fee())),
                    micros_down(budget.left())
                );
                Err(Unaffordable::Ever(Box::new(row), RowError { code: BUDGET_EXCEEDED.to_owned(), message }))
            }
        }
    }

    /// Ends a call for which `most` was held. Returns whether a row waits for that.
    pub fn settle(&mut self, most: Usd, cost: Usd) -> bool {
        if let Some(budget) = &mut self.budget {
            budget.settle(most, cost);
        }
        std::mem::take(&mut self.is_short)
    }

    /// Notes that a row that was about to be sent waits for the answer to an equal request instead.
    pub fn follow(&mut self) {
        self.in_flight -= 1;
        self.following += 1;
    }

    /// Releases a row whose awaited answer has arrived, or will not come.
    pub fn unfollow(&mut self, row: RowRef) {
        self.following -= 1;
        if self.stop.is_none() {
            self.defer(vec![row]);
        }
    }

    /// Puts a row in line for another attempt.
    pub fn wait(&mut self, row: WaitingRow) {
        match self.stop {
            None => self.waiting.push(Due(row)),
            Some(_) => self.leave(row),
        }
    }

    /// Lets a row wait for the deadline.
    pub fn park(&mut self, row: WaitingRow) {
        match self.stop {
            None => self.parked.push(row),
            Some(_) => self.leave(row),
        }
    }

    /// Remembers what a row has met, for its result.
    fn leave(&mut self, row: WaitingRow) {
        let (index, left) = (row.at.row, LeftRow::from(row));
        if !left.history.is_empty() {
            self.left.insert(index, left);
        }
    }

    /// What the rows have met that are left without a result.
    pub fn take_left(&mut self) -> HashMap<RowIndex, LeftRow> {
        std::mem::take(&mut self.left)
    }

    /// Lets the rows that wait for these lanes be due within moments, because the lanes are well again.
    /// Returns whether there are any. A wait that the provider asked for holds for its lane as a
    /// whole, so it is kept there.
    pub fn hasten(&mut self, lanes: &[LaneIndex], now: Instant) -> bool {
        let ways = &self.source.ways;
        let waits = |row: &WaitingRow| row.due > now + HASTE && ways.lane(row.route).is_some_and(|lane| lanes.contains(&lane));
        if !self.waiting.iter().any(|row| waits(&row.0)) {
            return false;
        }
        let mut waiting = std::mem::take(&mut self.waiting).into_vec();
        for Due(row) in waiting.iter_mut().filter(|row| waits(&row.0)) {
            row.due = now + HASTE.mul_f64(fastrand::f64());
        }
        self.waiting = waiting.into();
        self.alarm = None;
        true
    }

    /// When the next waiting row is due, while rows may be read.
    pub fn next_due(&self) -> Option<Instant> {
        let can = self.place == RunPlace::Active && !self.loading && self.is_dispatchable();
        if can { self.waiting.peek().map(|row| row.0.due) } else { None }
    }

    /// Gives the place up, and the rows that were read for it: they are read again once there is a
    /// place. Rows in flight go on.
    pub fn give_place_up(&mut self, now: Instant) {
        self.place = RunPlace::Queued;
        let queues: Vec<_> = self.queues.values_mut().map(std::mem::take).collect();
        self.waiting.extend(queues.into_iter().flat_map(|queue| queue.into_waiting(now)).map(Due));
    }

    /// Stops dispatching at once. Rows in flight go on.
    pub fn halt(&mut self, stop: Stop) {
        self.stop = Some(stop);
        let now = Instant::now();
        let queues: Vec<_> = self.queues.values_mut().map(std::mem::take).collect();
        let queued = queues.into_iter().flat_map(|queue| queue.into_waiting(now));
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|due| due.0);
        let others = std::mem::take(&mut self.blocked).into_iter().chain(std::mem::take(&mut self.parked));
        queued.chain(waiting).chain(others).for_each(|row| self.leave(row));
        self.deferred.iter_mut().for_each(VecDeque::clear);
        self.cursor = None;
    }

    /// Whether rows could be read or dispatched, now or later, without any further event.
    pub fn can_go_on(&self) -> bool {
        let rows = || !self.waiting.is_empty() || self.queues.values().any(|queue| !queue.is_empty() || !queue.due.is_empty());
        let open = |model: u16| self.source.ways.primary_lane(model).is_some();
        let unread = || (0..).zip(&self.deferred).any(|(model, deferred)| (self.cursor.is_some() || !deferred.is_empty()) && open(model));
        // Without any model, every row is a faulty one that needs its result.
        let faulty = || self.deferred.is_empty() && self.cursor.is_some();
        self.is_dispatchable() && (rows() || unread() || faulty())
    }

    /// The status of a run that does nothing by itself; `None` while it is busy.
    pub fn idle(&self) -> Option<RunStatus> {
        if self.in_flight > 0 || self.loading || self.can_go_on() {
            return None;
        }
        // Until the last results are durable, it is unknown which rows are done.
        if done(&self.source) - self.done_before < self.recorded {
            return Some(RunStatus::AwaitingDurability);
        }
        let unfinished = self.source.live.progress().unfinished();
        if self.stop.is_some() || unfinished == 0 {
            return Some(RunStatus::Finished);
        }
        if self.cursor.is_none() && !self.control.paused && u64::from(unfinished) > self.known() {
            tracing::error!(batch = %self.spec.id, unfinished, "rows were lost on their way; starting over with them");
            return Some(RunStatus::Restart);
        }
        Some(RunStatus::Blocked)
    }

    /// Unfinished rows whose place is known, while none is ready or in flight.
    fn known(&self) -> u64 {
        (self.parked.len() + self.blocked.len() + self.put_aside()) as u64
    }

    /// Rows that are remembered by their place alone.
    fn put_aside(&self) -> usize {
        self.following as usize + self.deferred.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Replaces the routes. Rows that were ready for a lane that is no longer theirs are read again
    /// for their new lane.
    pub fn set_ways(&mut self, ways: Arc<RouteTable>, now: Instant) {
        let before = std::mem::replace(&mut self.source.ways, ways);
        let ways = &self.source.ways;
        for queue in self.queues.values_mut() {
            let moves = |row: &ReadyRow| !ways.is_unchanged(&before, row.route) || ways.current_or_primary(row.route) != row.route;
            let moved = queue.take_last(queue.len(), moves);
            self.waiting.extend(moved.into_iter().map(|row| row.wait_until(now)).chain(queue.due.drain(..)).map(Due));
        }
        self.waiting.extend(self.blocked.drain(..).map(Due));
    }

    /// Starts over at the first unfinished row. Call only when idle.
    pub fn rewind(&mut self) {
        self.parked.clear();
        self.blocked.clear();
        self.deferred.iter_mut().for_each(VecDeque::clear);
        self.cursor = Cursor::first_unfinished(&self.source.live.pages());
    }
}

fn done(source: &Source) -> u32 {
    let progress = source.live.progress();
    progress.succeeded + progress.failed
}
