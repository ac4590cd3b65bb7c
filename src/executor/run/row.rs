//! A row on its way through the executor, in its three forms: waiting (a few bytes), ready (with
//! its body), tried (what an attempt left behind).

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::domain::format::Form;
use crate::domain::id::{RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::retry::{FailureClass, Tally};
use crate::domain::row::{Attempt, Outcome, Response, RowResult};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::domain::vocabulary::Operation;
use crate::executor::dedup::key::DedupKey;

/// Bytes of a response that are remembered between attempts. A larger one would make waiting rows
/// expensive; the row then ends with the response of its last attempt or with none.
pub const REMEMBERED: usize = 16 << 10;

/// Attempts whose details are kept: the first ones and the last; a row that is rate-limited for hours would
/// otherwise grow without bound.
pub const HISTORY: usize = 32;

/// Which row, and where its line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRef {
    pub row: RowIndex,
    /// Index of its model in the plan.
    pub model: u16,
    /// Byte of the input file.
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
    /// How it asks, and where it is sent.
    pub form: Form,
    /// As the provider receives it.
    pub body: Bytes,
    /// What it begins with, where that decides who is next to it; else 0.
    pub beginning: u64,
    /// What it asks, where others that ask the same share its answer.
    pub asked: Option<DedupKey>,
    pub history: Vec<PastAttempt>,
    pub tally: Tally,
    /// The last response that was a failure.
    pub last: Option<Response>,
}

/// Bytes of a body that make about one token.
pub const BYTES_PER_TOKEN: u64 = 4;

impl ReadyRow {
    /// About how many tokens it will be, read ones alone: what a lane's pace is told before the
    /// provider says how many there were.
    pub fn tokens(&self) -> u64 {
        (self.body.len() as u64).div_ceil(BYTES_PER_TOKEN)
    }

    /// Whether nothing has been tried with it.
    pub fn is_fresh(&self) -> bool {
        self.history.is_empty()
    }

    /// The row without its body, to be tried again at `due`.
    pub fn wait_until(self, due: Instant) -> WaitingRow {
        let Self { at, route, history, tally, last, .. } = self;
        WaitingRow { at, route, due, history, tally, last }
    }
}

/// A row that waits for its next attempt. Its body is read again when it is due.
#[derive(Debug)]
pub struct WaitingRow {
    pub at: RowRef,
    /// The route that it is to take.
    pub route: u16,
    pub due: Instant,
    pub history: Vec<PastAttempt>,
    pub tally: Tally,
    pub last: Option<Response>,
}

impl WaitingRow {
    /// Puts what is known of earlier attempts into the freshly read row.
    pub fn resume(self, mut ready: ReadyRow) -> ReadyRow {
        ready.history = self.history;
        ready.tally = self.tally;
        ready.last = self.last;
        ready
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

/// The result of a row that never had an answer.
pub fn unanswered(key: RowKey, custom_id: String, operation: Option<Operation>, outcome: Outcome, finished_at: Timestamp) -> RowResult {
    RowResult { key, custom_id, operation, outcome, usage: Usage::default(), cost: Usd::ZERO, attempts: Vec::new(), finished_at }
}
