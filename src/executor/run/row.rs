//! A row on its way through the executor, in its three forms: waiting (a few bytes), ready (with
//! its body), and tried (what an attempt left behind).

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tokio::time::Instant;

use crate::domain::format::Form;
use crate::domain::id::{RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::prefix::Opening;
use crate::domain::row::retry::FailureClass;
use crate::domain::row::{Attempt, Outcome, Response, RowError, RowResult};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::domain::vocabulary::Operation;
use crate::executor::dedup::key::DedupKey;
use crate::executor::lane::call::Met;

/// The most bytes of a response that are remembered between attempts. A larger response would make
/// waiting rows expensive; the row then ends with the response of its last attempt or with none.
pub const REMEMBERED: usize = 16 << 10;

/// Attempts whose details are kept: the first ones and the last. Without this bound, the history of
/// a row that is rate-limited for hours would keep growing.
pub const HISTORY: usize = 32;

/// Identifies a row and where its line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRef {
    pub row: RowIndex,
    /// Index of its model in the plan.
    pub model: u16,
    /// Byte offset in the input file.
    pub offset: u64,
}

/// One attempt, in few bytes.
#[derive(Debug, Clone)]
pub struct PastAttempt {
    /// The lane's name; its route may have changed since.
    pub lane: Arc<str>,
    pub started_at: Timestamp,
    pub latency_ms: u32,
    pub status: Option<u16>,
    pub failure: Option<FailureClass>,
}

impl PastAttempt {
    pub fn into_attempt(self) -> Attempt {
        Attempt {
            lane: self.lane.to_string(),
            started_at: self.started_at,
            latency_ms: self.latency_ms,
            status: self.status,
            failure: self.failure.map(|class| class.code().to_owned()),
        }
    }
}

/// A row that can be dispatched.
#[derive(Debug)]
pub struct ReadyRow {
    pub at: RowRef,
    /// The route that it takes.
    pub route: u16,
    pub custom_id: Box<str>,
    pub operation: Option<Operation>,
    /// The form of the request, and its endpoint.
    pub form: Form,
    /// The body as the provider receives it.
    pub body: Bytes,
    /// How the body begins, where that decides which rows run next to each other.
    pub opening: Option<Box<Opening>>,
    /// The most that the row may cost on its route, without the fee, where the client pays.
    pub most: Option<Box<Usd>>,
    /// The row's request, where equal requests share an answer.
    pub asked: Option<DedupKey>,
    pub history: Vec<PastAttempt>,
    /// What the row has met on its lane so far.
    pub met: Met,
    /// The response of the last failed attempt.
    pub last: Option<Response>,
}

/// Bytes of a body that make about one token.
pub const BYTES_PER_TOKEN: u64 = 4;

impl ReadyRow {
    /// About how many input tokens the row has: the count that a lane's pace uses until the
    /// provider reports the actual number.
    pub fn tokens(&self) -> u64 {
        (self.body.len() as u64).div_ceil(BYTES_PER_TOKEN)
    }

    /// How the row begins, for [`crate::domain::row::prefix::order`]; rows whose order does not
    /// matter begin alike.
    pub fn begins(&self) -> (&Opening, &[u8]) {
        static ANY: LazyLock<Opening> = LazyLock::new(Opening::default);
        (self.opening.as_deref().unwrap_or(&ANY), &self.body)
    }

    /// The result of a row that ends without another call.
    pub fn end(mut self, key: RowKey, error: RowError, at: Timestamp) -> RowResult {
        let outcome = Outcome::Failed { error, last: self.last.take() };
        let attempts = self.history.into_iter().map(PastAttempt::into_attempt).collect();
        RowResult { attempts, ..unanswered(key, self.custom_id.into_string(), self.operation, outcome, at) }
    }

    /// Whether the row has not been tried yet.
    pub fn is_fresh(&self) -> bool {
        self.history.is_empty()
    }

    /// The row without its body, for a retry at `due`.
    pub fn wait_until(self, due: Instant) -> WaitingRow {
        let Self { at, route, history, met, last, .. } = self;
        WaitingRow { at, route, due, history, met, last }
    }
}

/// A row that waits for its next attempt. Its body is read again when it is due.
#[derive(Debug)]
pub struct WaitingRow {
    pub at: RowRef,
    /// The route that the row should take.
    pub route: u16,
    pub due: Instant,
    pub history: Vec<PastAttempt>,
    /// What the row has met on its lane so far.
    pub met: Met,
    pub last: Option<Response>,
}

impl WaitingRow {
    /// Adds what is known of earlier attempts to the freshly read row.
    pub fn resume(self, mut ready: ReadyRow) -> ReadyRow {
        ready.history = self.history;
        ready.met = self.met;
        ready.last = self.last;
        ready
    }
}

/// What a row has met that is left without a result.
#[derive(Debug, Default)]
pub struct LeftRow {
    pub history: Vec<PastAttempt>,
    /// The response of the last failed attempt.
    pub last: Option<Response>,
}

impl From<WaitingRow> for LeftRow {
    fn from(row: WaitingRow) -> Self {
        Self { history: row.history, last: row.last }
    }
}

/// The earliest due row first.
#[derive(Debug)]
pub struct Due(pub WaitingRow);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.0.due == other.0.due
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.due.cmp(&self.0.due)
    }
}

/// The result of a row that never got an answer.
pub fn unanswered(key: RowKey, custom_id: String, operation: Option<Operation>, outcome: Outcome, finished_at: Timestamp) -> RowResult {
    RowResult { key, custom_id, operation, outcome, usage: Usage::default(), cost: Usd::ZERO, attempts: Vec::new(), finished_at }
}
