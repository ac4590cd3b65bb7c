//! The run state of one batch: what is loaded, ready, waiting, in flight. Pure bookkeeping; the
//! dispatcher moves it, one event at a time.
//!
//! Invariant: every unfinished row is in exactly one place: behind the cursor, ready, in flight,
//! waiting, parked, stranded, or handed to the store.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::input::{Cursor, Source, WINDOW_ROWS, Window};
use super::row::{BYTES_PER_TOKEN, ReadyRow, WaitingRow};
use crate::domain::batch::{BatchSpec, BatchState};
use crate::domain::money::PriceSheet;
use crate::domain::plan::Plan;

/// Index of a lane in the dispatcher's table.
pub(super) type LaneIndex = usize;

/// Where the rows of one model go.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// `None` while no provider can be used; its rows are stranded until the catalog changes.
    pub lane: Option<LaneIndex>,
    /// The provider's name for the model.
    pub upstream: Arc<str>,
    /// The lane as it is recorded with attempts: `provider/upstream`.
    pub name: Arc<str>,
    /// What the batch pays, fixed when it was validated.
    pub price: PriceSheet,
}

/// Why a run accepts no more dispatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A client cancelled it.
    Cancelled,
    /// Its deadline passed.
    Expired,
}

/// The earliest due row first.
#[derive(Debug)]
struct Due(WaitingRow);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.0.due == other.0.due
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.due.cmp(&self.0.due)
    }
}

/// Bytes of a body before any was read.
const UNMEASURED_BYTES: u64 = 1_024;

/// New windows are not read while this many rows wait for another attempt: a lane that fails every
/// row must not turn the whole batch into waiting rows.
const MAX_WAITING: usize = 4 * WINDOW_ROWS;

/// One running batch.
#[derive(Debug)]
pub(super) struct Run {
    pub spec: Arc<BatchSpec>,
    pub state: BatchState,
    pub plan: Plan,
    pub source: Source,
    /// It has a place among those that read and dispatch.
    pub active: bool,
    ready: HashMap<LaneIndex, VecDeque<ReadyRow>>,
    ready_rows: usize,
    waiting: BinaryHeap<Due>,
    /// Where reading goes on; `None` at the end of the input.
    cursor: Option<Cursor>,
    loading: bool,
    pub in_flight: u32,
    /// Results that this run has handed to the store.
    pub recorded: u32,
    /// Rows that were done when this run began.
    done_before: u32,
    /// Rows that will not be tried again before the deadline.
    pub parked: u32,
    /// Rows that no provider can serve for now.
    stranded: u32,
    /// The catalog has changed since rows were stranded.
    reroute: bool,
    /// Rows that were read, and the bytes of their bodies.
    measured: (u64, u64),
    pub stop: Option<Stop>,
    /// Ends what is in flight.
    pub abort: CancellationToken,
}

/// What to load: rows that are due again, or else the window at the cursor.
#[derive(Debug)]
pub(super) struct Load {
    pub due: Vec<WaitingRow>,
    pub cursor: Option<Cursor>,
}

/// Where a run stands that has nothing to do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// It can be ended: stopped, or every row has its result.
    Over,
    /// It must start over: the catalog may serve rows that nobody could, or rows were lost.
    Again,
    /// Its rows wait for the deadline or for another catalog.
    Waiting,
    /// Its last results are not durable yet.
    Settling,
}

impl Run {
    pub fn new(spec: BatchSpec, state: BatchState, plan: Plan, source: Source) -> Self {
        let cursor = Cursor::first_unfinished(&source.live.pages());
        let done_before = done(&source);
        Self {
            spec: Arc::new(spec),
            state,
            plan,
            source,
            active: false,
            ready: HashMap::new(),
            ready_rows: 0,
            waiting: BinaryHeap::new(),
            cursor,
            loading: false,
            in_flight: 0,
            recorded: 0,
            done_before,
            parked: 0,
            stranded: 0,
            reroute: false,
            measured: (0, 0),
            stop: None,
            abort: CancellationToken::new(),
        }
    }

    fn has_room(&self) -> bool {
        !self.loading && self.stop.is_none() && self.ready_rows <= WINDOW_ROWS / 2
    }

    /// What to load now, if anything: the window is refilled when half of it is gone.
    pub fn begin_load(&mut self, now: Instant) -> Option<Load> {
        if !self.active || !self.has_room() {
            return None;
        }
        let mut due = Vec::new();
        while due.len() < WINDOW_ROWS && self.waiting.peek().is_some_and(|row| row.0.due <= now) {
            due.extend(self.waiting.pop().map(|row| row.0));
        }
        if due.is_empty() && (self.cursor.is_none() || self.waiting.len() >= MAX_WAITING) {
            return None;
        }
        self.loading = true;
        Some(Load { due, cursor: self.cursor })
    }

    /// Takes what was loaded. Returns the lanes that got their first ready row.
    pub fn loaded(&mut self, window: Window, now: Instant) -> Vec<LaneIndex> {
        self.loading = false;
        self.recorded += window.closed;
        let mut woken = Vec::new();
        if self.stop.is_some() {
            return woken;
        }
        self.cursor = window.next;
        self.stranded += window.stranded;
        // What was stranded while the catalog changed may be served by now.
        let outdated = !Arc::ptr_eq(&window.routes, &self.source.routes);
        self.reroute |= outdated && window.stranded > 0;
        self.waiting.extend(window.unread.into_iter().map(Due));
        for row in window.rows {
            self.measured = (self.measured.0 + 1, self.measured.1 + row.body.len() as u64);
            let lane = self.source.routes.get(usize::from(row.route)).and_then(|route| route.lane);
            let Some(lane) = lane.filter(|_| !outdated || same_way(&window.routes, &self.source.routes, row.route)) else {
                // Its body was made for another provider; it is read again for the one it goes to now.
                self.waiting.push(Due(row.wait_until(now)));
                continue;
            };
            let queue = self.ready.entry(lane).or_default();
            if queue.is_empty() {
                woken.push(lane);
            }
            queue.push_back(row);
            self.ready_rows += 1;
        }
        woken
    }

    /// Loading failed; it may be tried again.
    pub fn load_failed(&mut self, due: Vec<WaitingRow>) {
        self.loading = false;
        if self.stop.is_none() {
            self.waiting.extend(due.into_iter().map(Due));
        }
    }

    /// The next row for a lane, and whether there are more.
    pub fn next(&mut self, lane: LaneIndex) -> Option<(ReadyRow, bool)> {
        let queue = self.ready.get_mut(&lane)?;
        let row = queue.pop_front()?;
        self.ready_rows -= 1;
        self.in_flight += 1;
        Some((row, !queue.is_empty()))
    }

    /// Puts a row in line for another attempt.
    pub fn wait(&mut self, row: WaitingRow) {
        if self.stop.is_none() {
            self.waiting.push(Due(row));
        }
    }

    /// When the next waiting row is due; `None` while there is no room for it.
    pub fn next_due(&self) -> Option<Instant> {
        if self.active && self.has_room() { self.waiting.peek().map(|row| row.0.due) } else { None }
    }

    /// Stops dispatching at once. Rows in flight go on.
    pub fn halt(&mut self, stop: Stop) {
        self.stop = Some(stop);
        self.ready.clear();
        self.ready_rows = 0;
        self.waiting.clear();
        self.cursor = None;
    }

    /// What there is to do with a run that does nothing by itself; `None` while it does.
    pub fn idle(&self) -> Option<Idle> {
        let busy = self.in_flight > 0 || self.loading;
        let more = self.ready_rows > 0 || !self.waiting.is_empty() || self.cursor.is_some();
        if busy || (more && self.stop.is_none()) {
            return None;
        }
        // Until the last results are durable, nobody knows which rows are done.
        if done(&self.source) - self.done_before < self.recorded {
            return Some(Idle::Settling);
        }
        let unfinished = self.source.live.progress().unfinished();
        if self.stop.is_some() || unfinished == 0 {
            return Some(Idle::Over);
        }
        if unfinished > self.parked + self.stranded {
            tracing::error!(batch = %self.spec.id, unfinished, "rows were lost on their way; starting over with them");
            return Some(Idle::Again);
        }
        Some(if self.reroute { Idle::Again } else { Idle::Waiting })
    }

    /// Takes the routes of a new catalog. Rows that were ready for a lane that is no longer theirs are
    /// read again, for the other one.
    pub fn set_routes(&mut self, routes: Arc<[Route]>, now: Instant) {
        let before = std::mem::replace(&mut self.source.routes, routes);
        let moved = |row: &ReadyRow| !same_way(&before, &self.source.routes, row.route);
        for queue in self.ready.values_mut() {
            for row in std::mem::take(queue) {
                if moved(&row) {
                    self.ready_rows -= 1;
                    self.waiting.push(Due(row.wait_until(now)));
                } else {
                    queue.push_back(row);
                }
            }
        }
        self.reroute |= self.stranded > 0;
    }

    /// For each lane that rows still go to: how many, and about how many tokens they are to read.
    pub fn backlog(&self) -> impl Iterator<Item = (LaneIndex, u64, u64)> + '_ {
        let total = u64::from(self.plan.rows.max(1));
        let unfinished = if self.stop.is_some() { u64::from(self.in_flight) } else { u64::from(self.source.live.progress().unfinished()) };
        let (rows, bytes) = self.measured;
        let bytes_each = bytes.checked_div(rows).unwrap_or(UNMEASURED_BYTES);
        let routed = self.plan.models.iter().zip(self.source.routes.iter());
        routed.filter_map(move |(model, route)| {
            let rows = (unfinished * u64::from(model.rows)).div_ceil(total);
            Some((route.lane?, rows, rows.saturating_mul(bytes_each) / BYTES_PER_TOKEN))
        })
    }

    /// Starts over at the first unfinished row. Only when idle.
    pub fn rewind(&mut self) {
        self.reroute = false;
        self.stranded = 0;
        self.parked = 0;
        self.cursor = Cursor::first_unfinished(&self.source.live.pages());
    }
}

/// Whether a row with that route goes to the same lane under the same name of its model.
fn same_way(before: &[Route], after: &[Route], index: u16) -> bool {
    let way = |routes: &[Route]| routes.get(usize::from(index)).map(|route| (route.lane, route.upstream.clone()));
    way(before) == way(after)
}

fn done(source: &Source) -> u32 {
    let progress = source.live.progress();
    progress.succeeded + progress.failed
}
