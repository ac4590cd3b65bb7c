//! From a stored batch to one that can run: validates a new batch, recovers an old one.
//!
//! Runs beside the dispatcher, one task per batch. While the task runs, the dispatcher does not
//! touch the batch, so the task may write the batch's state.

pub mod cost;
pub mod fallback;
pub mod listed;
pub mod plan;
pub mod quoted;
pub mod stage;
pub mod validate;

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use tokio_util::sync::CancellationToken;

use self::fallback::add_alternatives;
use self::listed::ServerLists;
use self::stage::{Stage, Stages};
use self::validate::{CheckedInput, InputLimits, ValidationInput, check};
use super::attempt::attachments::describe;
use super::handle::CancelError;
use super::lane::routes::RouteTable;
use super::run::reader::Source;
use crate::catalog::{Catalog, Snapshot};
use crate::domain::batch::plan::{Places, Plan};
use crate::domain::batch::problem::{Problem, ProblemCode};
use crate::domain::batch::{Batch, BatchEvent, BatchInput, BatchSpec, BatchState};
use crate::domain::id::BatchId;
use crate::domain::money::Usd;
use crate::domain::quote::Quote;
use crate::domain::time::Clock;
use crate::store::error::StoreError;
use crate::store::{LiveBatch, Store, blocking};

/// What preparing a batch needs.
pub(super) struct Prepare {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub clock: Clock,
    pub limits: InputLimits,
    pub stages: Stages,
    pub lists: ServerLists,
    pub stop: CancellationToken,
}

/// The next step for a prepared batch.
#[derive(Debug)]
pub(super) enum Prepared {
    /// The batch's rows can run; `limit` is what they may cost in all, where a client pays for them.
    Run { spec: BatchSpec, state: BatchState, plan: Plan, live: Arc<LiveBatch>, limit: Option<Usd> },
    /// The batch only needs to be ended.
    Finish { spec: BatchSpec, state: BatchState, live: Option<Arc<LiveBatch>> },
    /// The batch has ended or does not exist, or preparing was stopped.
    Nothing,
    /// The batch could not be read or written for now.
    Failed(StoreError),
}

impl Prepare {
    /// Prepares the batch.
    pub async fn run(self, id: BatchId) -> Prepared {
        if self.stop.is_cancelled() {
            return Prepared::Nothing;
        }
        self.stages.set(id, Stage::Routing);
        match AssertUnwindSafe(self.prepare(id)).catch_unwind().await {
            Ok(prepared) => prepared,
            Err(_) => Prepared::Failed(StoreError::Unexpected("preparing ended unexpectedly".into())),
        }
    }

    async fn prepare(self, id: BatchId) -> Prepared {
        let batch = match self.store.batch(id).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return Prepared::Nothing,
            Err(error) => return Prepared::Failed(error),
        };
        match batch.state {
            BatchState::Validating => self.validate(batch).await.unwrap_or_else(Prepared::Failed),
            BatchState::InProgress { .. } => match (self.store.live(id), self.limit(&batch.spec).await) {
                (_, Err(error)) => Prepared::Failed(error),
                (Some(live), Ok(limit)) => Prepared::Run { spec: batch.spec, state: batch.state, plan: batch.plan, live, limit },
                (None, Ok(_)) => Prepared::Nothing,
            },
            BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => {
                Prepared::Finish { live: self.store.live(id), spec: batch.spec, state: batch.state }
            }
            BatchState::Failed { .. } | BatchState::Completed { .. } | BatchState::Expired { .. } | BatchState::Cancelled { .. } => {
                Prepared::Nothing
            }
        }
    }

    /// What the rows of a batch may cost in all: what is reserved for them.
    async fn limit(&self, spec: &BatchSpec) -> Result<Option<Usd>, StoreError> {
        match &spec.input {
            BatchInput::Quoted(_) => Ok(self.store.reservation(spec.id).await?.map(|reservation| reservation.amount)),
            BatchInput::Unquoted { .. } => Ok(None),
        }
    }

    /// The quote whose lanes a batch of items takes, if it is one. The inner result is `Err` if the
    /// quote cannot be read.
    async fn quote(&self, order: &BatchInput) -> Result<Result<Option<Quote>, Problem>, StoreError> {
        let BatchInput::Quoted(order) = order else { return Ok(Ok(None)) };
        let reason = match self.store.quote(order.quote).await {
            Ok(Some(kept)) => return Ok(Ok(Some(kept.quote))),
            Ok(None) => "it is gone".to_owned(),
            Err(StoreError::Damaged(error)) => error.to_string(),
            Err(error) => return Err(error),
        };
        tracing::error!(quote = %order.quote, reason, "the quote of a batch cannot be read");
        Ok(Err(problem(ProblemCode::NotQuoted, "the quote of the batch cannot be read; make a new one".to_owned())))
    }

    /// Reads the whole input.
    async fn look(&self, spec: &BatchSpec, quote: Option<Quote>, catalog: Arc<Snapshot>) -> Result<CheckedInput, StoreError> {
        let (store, stop) = (self.store.clone(), self.stop.clone());
        let (file, limits, order) = (spec.input_file, self.limits, spec.input.clone());
        let (org, now) = (spec.org, self.clock.now());
        let checked = blocking(move || {
            let input = store.open_input(file)?;
            let find = |name: &str| describe(&store, name, org, now);
            let asked = ValidationInput { order: &order, quote: quote.as_ref(), files: &find };
            check(input, asked, &catalog, limits, &stop).map_err(|e| StoreError::unreadable(file, &e))
        });
        match checked.await {
            Err(StoreError::Content(damage)) => Ok(CheckedInput::Bad(vec![problem(ProblemCode::InputDamaged, damage.to_string())])),
            // A temporary failure is retried, but not for ever.
            Err(StoreError::Io { reason, missing, .. }) if missing || spec.deadline() <= self.clock.now() => {
                Ok(CheckedInput::Bad(vec![problem(ProblemCode::InputUnreadable, format!("the input file could not be read: {reason}"))]))
            }
            other => other,
        }
    }

    async fn validate(self, batch: Batch) -> Result<Prepared, StoreError> {
        let Batch { spec, state, .. } = batch;
        let catalog = self.catalog.current();
        let mut asked = self.lists.ask_ahead(&catalog).fuse();
        let checked = match self.quote(&spec.input).await? {
            Ok(quote) => beside(&mut asked, self.look(&spec, quote, catalog.clone())).await?,
            Err(problem) => CheckedInput::Bad(vec![problem]),
        };
        if self.stop.is_cancelled() {
            return Ok(Prepared::Nothing);
        }
        match checked {
            CheckedInput::Good { mut plan, pages, reserve } => {
                add_alternatives(&mut plan, spec.fallback, &catalog);
                let Some(warnings) = self.stop.run_until_cancelled(beside(&mut asked, self.lists.warnings(&plan, &catalog))).await else {
                    return Ok(Prepared::Nothing);
                };
                plan.warnings = warnings;
                let Ok(next) = state.apply(BatchEvent::Validated, self.clock.now()) else { return Ok(Prepared::Nothing) };
                tracing::info!(batch = %spec.id, rows = plan.rows, models = plan.models.len(), "batch validated");
                match self.store.batch_validated(spec.id, next, plan.clone(), pages, reserve).await {
                    Err(StoreError::Quota(exceeded)) => {
                        self.refuse(&spec, state, vec![problem(ProblemCode::QuotaExceeded, exceeded.to_string())]).await
                    }
                    Err(error) => Err(error),
                    Ok(Ok(())) => {
                        let live = self.store.live(spec.id).ok_or(StoreError::Closed)?;
                        let limit = self.limit(&spec).await?;
                        Ok(Prepared::Run { spec, state: next, plan, live, limit })
                    }
                    Ok(Err(shortfall)) => {
                        let message = format!("{shortfall}, which its {} items are expected to cost", plan.rows);
                        self.refuse(&spec, state, vec![problem(ProblemCode::InsufficientCredits, message)]).await
                    }
                }
            }
            CheckedInput::Bad(problems) => self.refuse(&spec, state, problems).await,
            CheckedInput::Stopped => Ok(Prepared::Nothing),
        }
    }

    async fn refuse(&self, spec: &BatchSpec, state: BatchState, problems: Vec<Problem>) -> Result<Prepared, StoreError> {
        let Ok(next) = state.apply(BatchEvent::Refused, self.clock.now()) else { return Ok(Prepared::Nothing) };
        tracing::info!(batch = %spec.id, problems = problems.len(), "batch refused");
        self.store.batch_refused(spec.id, next, problems).await?;
        Ok(Prepared::Nothing)
    }
}

/// Does the work, and goes on with something else meanwhile.
async fn beside<T>(other: &mut (impl FusedFuture + Unpin), work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if !other.is_terminated() {
            let _ = Pin::new(&mut *other).poll(cx);
        }
        work.as_mut().poll(cx)
    })
    .await
}

/// A problem of the input as a whole.
fn problem(code: ProblemCode, message: String) -> Problem {
    Problem { code, message, line: None, param: None }
}

/// Cancels a batch that no task is working on.
pub(super) async fn cancel_stored(store: &Store, clock: &Clock, id: BatchId) -> Result<BatchState, CancelError> {
    let batch = store.batch(id).await?.ok_or(CancelError::NotFound)?;
    let state = batch.state.apply(BatchEvent::CancelRequested, clock.now()).map_err(|conflict| CancelError::TooLate(conflict.state))?;
    if state != batch.state {
        store.batch_moved(id, state).await?;
    }
    Ok(state)
}

/// A reader of a batch's input with these routes.
pub(super) fn source(
    store: &Store,
    clock: &Clock,
    spec: Arc<BatchSpec>,
    plan: &Plan,
    live: Arc<LiveBatch>,
    ways: Arc<RouteTable>,
    limits: InputLimits,
) -> Source {
    Source {
        store: store.clone(),
        clock: clock.clone(),
        spec,
        total: live.progress().total,
        live,
        places: Arc::new(Places::of_plan(&plan.models)),
        max_row_bytes: limits.max_row_bytes,
        refused: plan.refused.clone().into(),
        ways,
        shared: None,
    }
}
