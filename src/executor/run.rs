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
use super::row::{ReadyRow, WaitingRow};
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

/// One running batch.
#[derive(Debug)]
pub(super) struct Run {
    pub spec: Arc<BatchSpec>,
    pub state: BatchState,
    pub plan: Plan,
    pub source: Source,
    pub deadline: Instant,
    /// Ready rows by lane, each with its place in the lane's rotation.
    ready: HashMap<LaneIndex, VecDeque<ReadyRow>>,
    ready_rows: usize,
    waiting: BinaryHeap<Due>,
    /// Where reading goes on; `None` at the end of the input.
    cursor: Option<Cursor>,
    loading: bool,
    pub in_flight: u32,
    /// Rows that will not be tried again before the deadline.
    pub parked: u32,
    stranded: u32,
    /// The catalog has changed since rows were stranded.
    pub reroute: bool,
    pub stop: Option<Stop>,
    /// Ends what is in flight.
    pub abort: CancellationToken,
}

impl Run {
    pub fn new(spec: BatchSpec, state: BatchState, plan: Plan, source: Source, deadline: Instant) -> Self {
        let cursor = Cursor::first_unfinished(&source.live.pages());
        Self {
            spec: Arc::new(spec),
            state,
            plan,
            source,
            deadline,
            ready: HashMap::new(),
            ready_rows: 0,
            waiting: BinaryHeap::new(),
            cursor,
            loading: false,
            in_flight: 0,
            parked: 0,
            stranded: 0,
            reroute: false,
            stop: None,
            abort: CancellationToken::new(),
        }
    }

    /// What to load now, if anything: the window is refilled when half of it is gone.
    pub fn begin_load(&mut self, now: Instant) -> Option<(Vec<WaitingRow>, Option<Cursor>)> {
        if self.loading || self.stop.is_some() || self.ready_rows > WINDOW_ROWS / 2 {
            return None;
        }
        let mut due = Vec::new();
        while due.len() < WINDOW_ROWS && self.waiting.peek().is_some_and(|row| row.0.due <= now) {
            due.extend(self.waiting.pop().map(|row| row.0));
        }
        let cursor = if due.is_empty() { self.cursor } else { None };
        if due.is_empty() && cursor.is_none() {
            return None;
        }
        self.loading = true;
        Some((due, cursor))
    }

    /// Takes a window that began at the cursor. Returns the lanes that got their first ready row.
    pub fn loaded(&mut self, window: Window) -> Vec<LaneIndex> {
        self.cursor = window.next;
        self.stranded += window.stranded;
        self.take(window.rows)
    }

    /// Takes rows that were read again.
    pub fn reloaded(&mut self, rows: Vec<ReadyRow>, stranded: u32) -> Vec<LaneIndex> {
        self.stranded += stranded;
        self.take(rows)
    }

    fn take(&mut self, rows: Vec<ReadyRow>) -> Vec<LaneIndex> {
        self.loading = false;
        let mut woken = Vec::new();
        if self.stop.is_some() {
            return woken;
        }
        for row in rows {
            let Some(lane) = self.source.routes.get(usize::from(row.route)).and_then(|route| route.lane) else { continue };
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
        self.waiting.extend(due.into_iter().map(Due));
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
        if self.loading || self.ready_rows > WINDOW_ROWS / 2 {
            return None;
        }
        self.waiting.peek().map(|row| row.0.due)
    }

    /// Stops dispatching at once. Rows in flight go on.
    pub fn halt(&mut self, stop: Stop) {
        self.stop = Some(stop);
        self.ready.clear();
        self.ready_rows = 0;
        self.waiting.clear();
        self.cursor = None;
    }

    /// `true` once nothing is left that this run could do by itself, and its rows are with the
    /// store, parked or stranded.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.ready_rows == 0 && self.waiting.is_empty() && self.cursor.is_none() && !self.loading
    }

    /// Rows that no provider can serve for now.
    pub fn stranded(&self) -> u32 {
        self.stranded
    }

    /// Starts over at the first unfinished row, under new routes. Only when idle.
    pub fn rewind(&mut self, routes: Arc<[Route]>) {
        self.source.routes = routes;
        self.reroute = false;
        self.stranded = 0;
        self.parked = 0;
        self.cursor = Cursor::first_unfinished(&self.source.live.pages());
    }
}
