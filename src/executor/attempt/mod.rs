//! One attempt at a row: the call, the verdict, and the row's result or a failure to decide on.

pub mod attachments;
mod estimate;
pub mod failed;
mod file_room;
pub mod recordings;

use std::hash::{BuildHasher, Hash};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rustc_hash::FxBuildHasher;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::attachments::{Attachments, Complete, Incomplete, Sent};
use self::estimate::{AskedFor, filled};
use self::failed::{FailedAttempt, mark_of};
use self::recordings::{HeldRecording, Recordings};
use super::lane::call::{CallFailure, CallFeedback, Met};
use super::lane::routes::RouteTable;
use super::run::row::{HISTORY, PastAttempt, ReadyRow, WaitingRow};
use crate::domain::batch::{BatchInput, BatchSpec};
use crate::domain::id::{OrgId, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::retry::{FailureClass, RetryPolicy};
use crate::domain::row::{Outcome, RowError, RowResult};
use crate::domain::time::{Clock, Timestamp, until};
use crate::domain::usage::Usage;
use crate::domain::usage::reported::UsageGaps;
use crate::executor::lane::route::LaneRoute;
use crate::executor::run::row::unanswered;
use crate::provider::translate::{named, said_back};
use crate::provider::{Answer, Asked, Call, CallError, CallFile, Dispatch, Verdict, verdict};
use crate::store::{PackedRow, Store};

/// The longest delay when there is no room for the files of an item, or they cannot be read at the
/// moment. The row is requeued in this way until its deadline.
const REQUEUE_DELAY: Duration = Duration::from_secs(2);

/// What all attempts share.
pub(super) struct AttemptContext {
    pub store: Store,
    pub clock: Clock,
    pub policy: RetryPolicy,
    pub attachments: Attachments,
    pub recordings: Recordings,
    /// Answers so far for which providers report more than was asked for.
    pub beyond: AtomicU64,
}

/// One attempt that is about to be made. Boxed from the start, because it passes through futures of
/// which there are as many in memory as there are calls.
pub(super) struct Attempt {
    pub context: Arc<AttemptContext>,
    pub spec: Arc<BatchSpec>,
    pub provider: Arc<dyn Dispatch>,
    pub ways: Arc<RouteTable>,
    pub row: ReadyRow,
    /// No other row is in flight on its lane.
    pub alone: bool,
    pub abort: Arc<CancellationToken>,
    /// Cancelled when the server has been restarted since the call began; `None` where that is not
    /// found out.
    pub restarted: Option<Arc<CancellationToken>>,
}

/// Why a call is given up that began before its server was restarted.
const RESTARTED: &str = "it has been restarted since";

/// Waits until the server has been restarted.
async fn is_restarted(restarted: Option<&CancellationToken>) {
    match restarted {
        Some(restarted) => restarted.cancelled().await,
        None => std::future::pending().await,
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The row has its result, and the store has taken it; the client pays `cost`, without the fee.
    Recorded { success: bool, cost: Usd },
    /// The row waits for its next attempt.
    Again(Box<WaitingRow>),
    /// The row waits for its next attempt, and no call was made.
    NotSent(Box<WaitingRow>),
    /// The row would be retried, but not before the deadline.
    Parked(Box<WaitingRow>),
    /// The call was abandoned: the batch was cancelled or its deadline passed. The row has what it met
    /// before.
    Aborted(Box<WaitingRow>),
    /// The store did not take the result; the daemon is stopping.
    StoreGone,
}

impl Ended {
    /// What the client pays for the call, without the fee.
    pub fn cost(&self) -> Usd {
        match self {
            Self::Recorded { cost, .. } => *cost,
            Self::Again(_) | Self::NotSent(_) | Self::Parked(_) | Self::Aborted(_) | Self::StoreGone => Usd::ZERO,
        }
    }
}

/// What is sent with a row, in memory until its call has ended.
struct HeldFiles {
    /// The body with the files that it names.
    attached: Option<Complete>,
    /// What goes beside the body.
    recording: Option<HeldRecording>,
}

/// What an answer makes of a row.
pub(super) enum Made {
    /// The row's result, ready to be stored.
    Result(PackedRow),
    Ended(Ended),
}

impl Attempt {
    /// Makes the attempt. What follows a failed one depends on how its lane is. A panic ends the row,
    /// not the daemon, and is not repeated endlessly.
    pub async fn run(self: Box<Self>) -> (Result<Ended, Box<FailedAttempt>>, Option<CallFeedback>) {
        let context = self.context.clone();
        let (key, custom_id, operation) = (self.key(), self.row.custom_id.clone(), self.row.operation);
        let (made, lesson) = AssertUnwindSafe(self.make()).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(batch = %key.batch, row = key.row.0, "an attempt panicked; its row fails");
            let error = RowError { code: "internal_error".to_owned(), message: "the attempt ended unexpectedly".to_owned() };
            let outcome = Outcome::Failed { error, last: None };
            (Ok(pack(unanswered(key, custom_id.into_string(), operation, outcome, context.clock.now()))), None)
        });
        match made {
            Err(failed) => (Err(failed), lesson),
            Ok(Made::Ended(ended)) => (Ok(ended), lesson),
            Ok(Made::Result(packed)) => {
                let ended = record(&context.store, packed).await;
                let lesson = lesson.filter(|_| !matches!(ended, Ended::StoreGone));
                (Ok(ended), lesson)
            }
        }
    }

    /// Makes the call and waits for nothing else: there are as many of these futures in memory as
    /// there are calls.
    async fn make(mut self: Box<Self>) -> (Result<Made, Box<FailedAttempt>>, Option<CallFeedback>) {
        if self.abort.is_cancelled() {
            return (Ok(self.aborted()), None);
        }
        // What is waited for comes first: each look at a token takes a lock.
        let held = tokio::select! {
            biased;
            held = self.files() => Some(held),
            () = self.abort.cancelled() => None,
        };
        let mut held = match held {
            Some(Ok(held)) => held,
            Some(Err(Incomplete::Unreachable(message))) => return (Err(self.unreachable(message)), None),
            Some(Err(incomplete)) => return (Ok(self.not_sent(incomplete)), None),
            None => return (Ok(self.aborted()), None),
        };
        let recording = held.recording.as_mut().map(|held| std::mem::take(&mut held.file));
        let recorded = recording.as_ref().map_or(0, |file| file.content.len() as u64);
        if let Some(complete) = &held.attached {
            self.row.body = complete.body.clone();
        }
        let started_at = self.context.clock.now();
        let start = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = self.provider.call(self.call(started_at, recording)) => Some(answer),
            () = self.abort.cancelled() => None,
            () = is_restarted(self.restarted.as_deref()) => Some(Err(CallError::Interrupted { host: "the server".into(), reason: RESTARTED.into() })),
        };
        let Some(answer) = answer else { return (Ok(self.aborted()), None) };
        let is_outdated = self.restarted.as_ref().is_some_and(|restarted| restarted.is_cancelled());
        let (made, lesson) = self.judge(answer, started_at, start.elapsed(), recorded);
        // That a server was restarted says nothing of how it is now, nor of the row.
        (made, lesson.filter(|_| !is_outdated))
    }

    fn aborted(self) -> Made {
        Made::Ended(Ended::Aborted(Box::new(self.row.wait_until(Instant::now()))))
    }

    /// The files that are sent with the row. Boxed where there are any, because hardly any row has
    /// files.
    async fn files(&self) -> Result<HeldFiles, Incomplete> {
        if self.row.form.sent.takes_audio() {
            let recording = Box::pin(self.context.recordings.get(&self.row.body, self.key(), self.spec.org)).await?;
            return Ok(HeldFiles { recording: Some(recording), attached: None });
        }
        Ok(HeldFiles { recording: None, attached: self.attached().await? })
    }

    /// The body with the files that it names, if it names any.
    async fn attached(&self) -> Result<Option<Complete>, Incomplete> {
        let (BatchInput::Quoted(_), Some(way)) = (&self.spec.input, self.route()) else { return Ok(None) };
        let (format, body) = (self.row.form.sent, &self.row.body);
        let ids = named(format, body);
        if ids.is_empty() {
            return Ok(None);
        }
        let sent = Sent { row: self.key(), org: self.spec.org, format, body: body.clone() };
        Box::pin(self.context.attachments.complete(ids, sent, &way.reads)).await.map(Some)
    }

    /// Decides what happens to a row whose files cannot be sent along.
    fn not_sent(mut self, incomplete: Incomplete) -> Made {
        match incomplete {
            Incomplete::NotHere { message, files } => match self.ways.accepting_files(self.row.route, &files) {
                Some((other, at_once)) => {
                    (self.row.route, self.row.met) = (other, Met::default());
                    self.not_yet(if at_once { Duration::ZERO } else { REQUEUE_DELAY })
                }
                None => self.not_sent(Incomplete::Unusable(message)),
            },
            Incomplete::Unusable(message) => {
                let error = RowError { code: "input_unreadable".to_owned(), message };
                let last = self.row.last.take();
                self.result(Outcome::Failed { error, last }, Usage::default(), Usd::ZERO)
            }
            Incomplete::Unreachable(_) | Incomplete::NotNow => self.not_yet(REQUEUE_DELAY.mul_f64(0.25 + 0.75 * fastrand::f64())),
        }
    }

    /// The attempt at a row whose content a server does not give at present: it is the row's own
    /// failure, and says nothing about the lane.
    fn unreachable(mut self: Box<Self>, message: String) -> Box<FailedAttempt> {
        let lane = self.route().map_or_else(|| Arc::from(""), |route| route.name.clone());
        let (class, started_at) = (FailureClass::FileUnreachable, self.context.clock.now());
        self.remember(PastAttempt { lane, started_at, latency_ms: 0, status: None, failure: Some(class) });
        self.row.body = Bytes::new();
        Box::new(FailedAttempt { attempt: self, class, message, last: None })
    }

    /// Keeps the first attempts, and always the last one: it says which lane answered.
    fn remember(&mut self, attempt: PastAttempt) {
        self.row.history.truncate(HISTORY - 1);
        self.row.history.push(attempt);
    }

    /// Lets the row wait; no call was made.
    fn not_yet(self, wait: Duration) -> Made {
        Made::Ended(Ended::NotSent(Box::new(self.row.wait_until(Instant::now() + wait))))
    }

    fn judge(
        mut self: Box<Self>,
        mut answer: Result<Answer, CallError>,
        started_at: Timestamp,
        took: Duration,
        recorded: u64,
    ) -> (Result<Made, Box<FailedAttempt>>, Option<CallFeedback>) {
        let allowances = answer.as_mut().ok().and_then(|answer| answer.allowances.take());
        let told_to_others = answer.as_ref().err().filter(|_| self.spec.org != OrgId::OPERATOR).map(CallError::without_host);
        let asked = Asked { format: self.row.form.sent, body: &self.row.body };
        let judged = said_back(self.row.form, &self.row.body, verdict(asked, answer));
        let (status, failure) = match &judged {
            Verdict::Succeeded { response, .. } => (Some(response.status), None),
            Verdict::Failed { class, last, .. } => (last.as_ref().map(|response| response.status), Some(*class)),
        };
        let latency_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let lane = self.route().map_or_else(|| Arc::from(""), |route| route.name.clone());
        self.remember(PastAttempt { lane, started_at, latency_ms, status, failure });
        match judged {
            Verdict::Succeeded { response, usage, gaps } => {
                let usage = self.with_estimates(usage, gaps, recorded, &response.body);
                let cost = self.charge(self.route().map_or(Usd::ZERO, |route| route.price.cost(&usage)));
                let tokens = Some(usage.total_tokens()).filter(|tokens| *tokens > 0);
                let work = tokens.map(|_| work_of(&usage));
                let lesson =
                    CallFeedback { failure: None, tokens, work, allowances, said: None, asked: self.asked(), row: self.row.met.clone() };
                (Ok(self.result(Outcome::Succeeded(response), usage, cost)), Some(lesson))
            }
            Verdict::Failed { class, message, last } => {
                let failure = CallFailure { class, mark: mark_of(class, &message), row: hash_of(&self.key()) as u32 };
                // A call that ran into the batch's own deadline says nothing about its lane.
                let at_deadline = self.context.clock.now() >= self.spec.deadline();
                let own_fault = at_deadline && class == FailureClass::TimedOut;
                let said = Some(message.as_str().into());
                let lesson = CallFeedback {
                    failure: Some(failure),
                    tokens: None,
                    work: None,
                    allowances,
                    said,
                    asked: self.asked(),
                    row: self.row.met.clone(),
                };
                self.row.body = Bytes::new();
                let message = told_to_others.unwrap_or(message);
                let failed = FailedAttempt { attempt: self, class, message, last };
                (Err(Box::new(failed)), (!own_fault).then_some(lesson))
            }
        }
    }

    /// What the client pays for an answer: no more than the answer may cost by what the row asks for,
    /// whatever the provider reports.
    fn charge(&self, reported: Usd) -> Usd {
        let Some(most) = self.row.most.as_deref().filter(|most| **most < reported) else { return reported };
        let times = self.context.beyond.fetch_add(1, Relaxed) + 1;
        if times.is_power_of_two() {
            let (batch, row, lane) = (self.spec.id, self.row.at.row.0, self.route().map_or("", |route| &route.name));
            tracing::warn!(%batch, row, lane, %reported, charged = %most, times, "a provider reports more than the row asks for; the client does not pay the rest");
        }
        *most
    }

    /// The usage with estimates of what has a price and is not stated. `recorded` is the number of bytes
    /// of a recording that was sent.
    fn with_estimates(&self, usage: Usage, gaps: UsageGaps, recorded: u64, answer: &[u8]) -> Usage {
        match self.route().filter(|_| gaps != UsageGaps::default()) {
            Some(route) => {
                let asked = AskedFor { format: self.row.form.sent, body: &self.row.body, recorded };
                filled(usage, gaps, &route.price, asked, answer)
            }
            None => usage,
        }
    }

    fn call(&self, now: Timestamp, recording: Option<CallFile>) -> Call {
        Call {
            format: self.row.form.sent,
            upstream_model: self.route().map_or_else(|| Arc::from(""), |route| route.upstream.clone()),
            body: self.row.body.clone(),
            key: self.key(),
            attempt: self.row.met.tries().saturating_add(1),
            recording,
            headers: self.spec.headers.clone(),
            // By the wall clock, like everything about the deadline.
            budget: until(now, self.spec.deadline()),
        }
    }

    /// Stands for the model and the endpoint that the call asks.
    fn asked(&self) -> u64 {
        hash_of(&(self.route().map(|route| &route.upstream), self.row.form.sent))
    }

    fn key(&self) -> RowKey {
        RowKey { batch: self.spec.id, row: self.row.at.row }
    }

    fn route(&self) -> Option<&LaneRoute> {
        self.ways.get(self.row.route)
    }

    fn result(mut self, outcome: Outcome, usage: Usage, cost: Usd) -> Made {
        let attempts = std::mem::take(&mut self.row.history).into_iter().map(PastAttempt::into_attempt).collect();
        let finished_at = self.context.clock.now();
        let custom_id = std::mem::take(&mut self.row.custom_id).into_string();
        let operation = self.row.operation;
        let made = pack(RowResult { key: self.key(), custom_id, operation, outcome, usage, cost, attempts, finished_at });
        match made {
            Made::Result(packed) => Made::Result(packed.found_by(self.row.asked.map(|asked| asked.request), finished_at)),
            ended @ Made::Ended(_) => ended,
        }
    }
}

/// What an answer took of its server, in tokens read. A token written takes about as long as eight
/// tokens read, which are read side by side; cached ones are hardly read.
fn work_of(usage: &Usage) -> u64 {
    let read = usage.input_tokens.saturating_sub(usage.cached_tokens);
    read.saturating_add(usage.output_tokens.saturating_mul(8)).max(1)
}

fn hash_of(value: &impl Hash) -> u64 {
    FxBuildHasher.hash_one(value)
}

/// Hands a row's result to the store.
pub(super) fn record(store: &Store, packed: PackedRow) -> impl Future<Output = Ended> {
    let (success, cost) = (packed.is_success(), packed.cost());
    let handed = store.record(packed);
    async move { handed.await.map_or(Ended::StoreGone, |()| Ended::Recorded { success, cost }) }
}

pub(super) fn pack(result: RowResult) -> Made {
    match PackedRow::pack(&result) {
        Ok(packed) => Made::Result(packed),
        Err(error) => match PackedRow::pack(&without_response(result, &error.to_string())) {
            Ok(packed) => Made::Result(packed),
            Err(_) => Made::Ended(Ended::StoreGone),
        },
    }
}

/// Replaces a result that is too large to be stored.
fn without_response(result: RowResult, reason: &str) -> RowResult {
    let class = FailureClass::ResponseTooLarge;
    let error = RowError { code: class.code().to_owned(), message: format!("the response could not be stored: {reason}") };
    RowResult { outcome: Outcome::Failed { error, last: None }, ..result }
}
