//! From a stored batch to something that can run: validation of a new one, recovery of an old one.
//!
//! Runs beside the dispatcher, one task a batch. While it runs the dispatcher leaves the batch
//! alone, so it may write the batch's state.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::fallback::add_alternatives;
use super::handle::CancelError;
use super::input::Source;
use super::stages::{Stage, Stages};
use super::validate::{Asked, Checked, InputLimits, check};
use super::ways::Ways;
use crate::catalog::Catalog;
use crate::domain::batch::{Batch, BatchEvent, BatchSpec, BatchState, Order};
use crate::domain::id::{BatchId, QuoteId};
use crate::domain::plan::{Places, Plan};
use crate::domain::problem::{Problem, ProblemCode};
use crate::domain::quote::Quote;
use crate::domain::time::Clock;
use crate::store::{LiveBatch, Store, StoreError, blocking};

/// What preparing needs.
pub(super) struct Prepare {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub clock: Clock,
    pub limits: InputLimits,
    pub stages: Stages,
    pub stop: CancellationToken,
}

/// What there is to do for a batch.
#[derive(Debug)]
pub(super) enum Prepared {
    /// Its rows can run.
    Run { spec: BatchSpec, state: BatchState, plan: Plan, live: Arc<LiveBatch> },
    /// It only needs to be ended.
    Finish { spec: BatchSpec, state: BatchState, live: Option<Arc<LiveBatch>> },
    /// It has ended, does not exist, or preparing was stopped.
    Nothing,
    /// It could not be read or written for now.
    Failed(StoreError),
}

impl Prepare {
    /// Prepares the batch, when one of `permits` is free.
    pub async fn run(self, id: BatchId, permits: Arc<Semaphore>) -> Prepared {
        let stop = self.stop.clone();
        // Closed never: somebody holds it for as long as the daemon runs.
        let Some(_permit) = stop.run_until_cancelled(permits.acquire_owned()).await else { return Prepared::Nothing };
        self.stages.set(id, Stage::Routing);
        match AssertUnwindSafe(self.prepare(id)).catch_unwind().await {
            Ok(prepared) => prepared,
            Err(_) => Prepared::Failed(StoreError::Broken("preparing ended unexpectedly".into())),
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
            BatchState::InProgress { .. } => match self.store.live(id) {
                Some(live) => Prepared::Run { spec: batch.spec, state: batch.state, plan: batch.plan, live },
                None => Prepared::Nothing,
            },
            BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => {
                Prepared::Finish { live: self.store.live(id), spec: batch.spec, state: batch.state }
            }
            BatchState::Failed { .. } | BatchState::Completed { .. } | BatchState::Expired { .. } | BatchState::Cancelled { .. } => {
                Prepared::Nothing
            }
        }
    }

    /// The quote of a batch, which is kept for as long as the batch.
    async fn quote(&self, id: QuoteId) -> Result<Quote, StoreError> {
        let kept = self.store.quote(id).await?;
        Ok(kept.ok_or_else(|| StoreError::Broken(format!("the quote {} of a batch is gone", id.in_hex())))?.quote)
    }

    async fn validate(self, batch: Batch) -> Result<Prepared, StoreError> {
        let Batch { spec, state, .. } = batch;
        let (store, catalog, stop) = (self.store.clone(), self.catalog.current(), self.stop.clone());
        let checked_against = catalog.clone();
        let (file, limits, order) = (spec.input_file, self.limits, spec.order.clone());
        let quote = match &spec.order {
            Order::Rows { .. } => None,
            Order::Items(order) => Some(self.quote(order.quote).await?),
        };
        let checked = blocking(move || {
            let input = store.open_content(file)?;
            let asked = Asked { order: &order, quote: quote.as_ref() };
            check(input, asked, &checked_against, limits, &stop).map_err(|e| StoreError::unreadable(file, &e))
        });
        let checked = match checked.await {
            // What fails for the moment is tried again, but not for ever.
            Err(StoreError::Io { reason, missing, .. }) if missing || spec.deadline() <= self.clock.now() => {
                let message = format!("the input file could not be read: {reason}");
                Checked::Bad(vec![Problem { code: ProblemCode::InputUnreadable, message, line: None, param: None }])
            }
            other => other?,
        };
        if self.stop.is_cancelled() {
            return Ok(Prepared::Nothing);
        }
        let now = self.clock.now();
        let event = match &checked {
            Checked::Good { .. } => BatchEvent::Validated,
            Checked::Bad(_) => BatchEvent::Refused,
            Checked::Stopped => return Ok(Prepared::Nothing),
        };
        let Ok(next) = state.apply(event, now) else { return Ok(Prepared::Nothing) };
        let id = spec.id;
        match checked {
            Checked::Good { mut plan, pages } => {
                add_alternatives(&mut plan, spec.fallback, &catalog);
                tracing::info!(batch = %id, rows = plan.rows, models = plan.models.len(), "batch validated");
                self.store.batch_validated(id, next, plan.clone(), pages).await?;
                let live = self.store.live(id).ok_or(StoreError::Closed)?;
                Ok(Prepared::Run { spec, state: next, plan, live })
            }
            Checked::Bad(problems) => {
                tracing::info!(batch = %id, problems = problems.len(), "batch refused");
                self.store.batch_refused(id, next, problems).await?;
                Ok(Prepared::Nothing)
            }
            Checked::Stopped => Ok(Prepared::Nothing),
        }
    }
}

/// Cancels a batch that nothing is being done to.
pub(super) async fn cancel_stored(store: &Store, clock: &Clock, id: BatchId) -> Result<BatchState, CancelError> {
    let batch = store.batch(id).await?.ok_or(CancelError::NotFound)?;
    let state = batch.state.apply(BatchEvent::CancelRequested, clock.now()).map_err(|conflict| CancelError::TooLate(conflict.state))?;
    if state != batch.state {
        store.batch_moved(id, state).await?;
    }
    Ok(state)
}

/// A reader of a batch's input under these ways.
pub(super) fn source(store: &Store, clock: &Clock, spec: &BatchSpec, plan: &Plan, live: Arc<LiveBatch>, ways: Arc<Ways>) -> Source {
    Source {
        store: store.clone(),
        clock: clock.clone(),
        batch: spec.id,
        file: spec.input_file,
        spec: Arc::new(spec.clone()),
        total: live.progress().total,
        live,
        places: Arc::new(Places::of_plan(&plan.models)),
        ways,
        shared: None,
    }
}
