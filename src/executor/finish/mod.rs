//! Ends a batch: writes a result for each row that has none, then the files and the final state.
//!
//! Runs beside the dispatcher, one task per batch, after the batch's last dispatch. Each step may
//! be interrupted; it is resumed at the next start.

pub mod receipt;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::receipt::Adding;
use super::run::reader::{Source, Unfinished, line_name};
use crate::domain::batch::{BatchEvent, BatchInput, BatchSpec, BatchState, Ending, Progress, ResultFiles};
use crate::domain::file::{File, FileSource, Purpose, ResultPart};
use crate::domain::id::{FileId, RowIndex, RowKey};
use crate::domain::quote::receipt::Receipt;
use crate::domain::row::{Outcome, Response, RowResult};
use crate::domain::time::{Clock, Timestamp};
use crate::executor::run::row::{LeftRow, PastAttempt, unanswered};
use crate::store::error::StoreError;
use crate::store::{End, PackedRow, Page, ROWS_PER_PAGE, Store, blocking};

/// Delay before an unreadable input is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Read attempts, for the whole batch, before the ids of its rows are given up.
const TRIES: u32 = 3;

/// The outcome of a row without a result, by the last response that it got.
type OutcomeOf = fn(Option<Response>) -> Outcome;

/// A batch that is about to end.
pub(super) struct Finish {
    pub store: Store,
    pub clock: Clock,
    pub spec: Arc<BatchSpec>,
    /// `Finalizing` or `Cancelling`.
    pub state: BatchState,
    /// `None` if the batch was never validated: it has no rows.
    pub source: Option<Source>,
    /// What rows have met that are left without a result.
    pub left: HashMap<RowIndex, LeftRow>,
}

impl Finish {
    /// Ends the batch.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn run(mut self) -> Result<(), StoreError> {
        self.store.batch_moved(self.spec.id, self.state).await?;
        let progress = match self.source.clone() {
            Some(source) => {
                if let Some(outcome) = self.outcome_of_the_rest() {
                    self.close_rows(&source, outcome).await?;
                }
                source.live.progress()
            }
            None => Progress::default(),
        };
        let receipt = self.receipt().await?;
        let observe = self.source.as_ref().is_some_and(|source| source.shared.is_none());
        let now = self.clock.now();
        let (files, records) = self.files(&progress, now);
        let end = End { files: records, receipt, observe };
        match self.state.apply(BatchEvent::Settled { files }, now) {
            Ok(state) => {
                tracing::info!(batch = %self.spec.id, state = state.as_str(), succeeded = progress.succeeded, failed = progress.failed, "batch ended");
                self.store.batch_settled(self.spec.id, state, progress, end).await
            }
            Err(conflict) => {
                tracing::error!(batch = %self.spec.id, %conflict, "a batch cannot be ended");
                Ok(())
            }
        }
    }

    /// Builds the receipt of where the batch's items ran, if it has items.
    async fn receipt(&self) -> Result<Option<Receipt>, StoreError> {
        let (BatchInput::Quoted(_), true) = (&self.spec.input, self.source.is_some()) else { return Ok(None) };
        let id = self.spec.id;
        let Some(batch) = self.store.batch(id).await? else { return Ok(None) };
        let Some(mut lines) = self.store.lines(id, ResultPart::All).await? else { return Ok(None) };
        let sum = move || {
            let mut adding = Adding::new(&batch.plan);
            loop {
                match lines.next_result() {
                    Ok(Some(result)) => adding.add(&result),
                    Ok(None) => return Ok(Some(adding.receipt())),
                    // One damaged result must not keep the batch from ending.
                    Err(StoreError::Damaged(error)) => {
                        tracing::error!(batch = %id, %error, "a result cannot be read and is not in the receipt");
                        adding.unreadable();
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        blocking(sum).await
    }

    fn outcome_of_the_rest(&self) -> Option<OutcomeOf> {
        match self.state {
            BatchState::Finalizing { ending: Ending::Expired, .. } => Some(|last| Outcome::Expired { last }),
            BatchState::Cancelling { .. } => Some(|last| Outcome::Cancelled { last }),
            BatchState::Finalizing { ending: Ending::Completed, .. }
            | BatchState::Validating
            | BatchState::Failed { .. }
            | BatchState::InProgress { .. }
            | BatchState::Completed { .. }
            | BatchState::Expired { .. }
            | BatchState::Cancelled { .. } => None,
        }
    }

    /// Gives this outcome to each row without a result, page by page.
    async fn close_rows(&mut self, source: &Source, outcome: OutcomeOf) -> Result<(), StoreError> {
        let mut durable = self.store.durable_rows();
        let mut tries = TRIES;
        for (number, page) in (0_u32..).zip(source.live.pages()) {
            if page.is_complete() {
                continue;
            }
            for (row, told) in self.unfinished(source, number, &page, &mut tries).await? {
                let key = RowKey { batch: self.spec.id, row };
                let (id, operation) = told.unwrap_or_else(|| (line_name(row), None));
                let LeftRow { history, last } = self.left.remove(&row).unwrap_or_default();
                let attempts = history.into_iter().map(PastAttempt::into_attempt).collect();
                let result = RowResult { attempts, ..unanswered(key, id, operation, outcome(last), self.clock.now()) };
                self.store.record_unrun(PackedRow::pack(&result)?).await?;
            }
        }
        while source.live.progress().unfinished() > 0 {
            durable.changed().await.map_err(|_| StoreError::Closed)?;
        }
        Ok(())
    }

    /// The unfinished rows of a page and their ids. While `tries` are left, an unreadable input is
    /// retried after a delay. After that, a row under its line number is better than a batch that
    /// never ends.
    async fn unfinished(&self, source: &Source, number: u32, page: &Page, tries: &mut u32) -> Result<Vec<Unfinished>, StoreError> {
        while *tries > 0 {
            let (source, page) = (source.clone(), page.clone());
            match blocking(move || source.unfinished_ids(number, &page)).await {
                Ok(ids) => return Ok(ids),
                Err(error) => {
                    tracing::error!(batch = %self.spec.id, %error, "the input cannot be read; trying again");
                    *tries -= 1;
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
        let open = (0..u32::from(page.rows)).filter(|slot| !page.is_done(*slot));
        Ok(open.map(|slot| (RowIndex(number * ROWS_PER_PAGE + slot), None)).collect())
    }

    fn files(&self, progress: &Progress, now: Timestamp) -> (ResultFiles, Vec<File>) {
        let mut records = Vec::new();
        let mut view = |part, bytes, rows: u32, suffix: &str| {
            let id = (rows > 0).then(|| FileId::generate(now))?;
            records.push(File {
                id,
                bytes,
                created_at: now,
                expires_at: self.spec.output_expires_after.map(|after| after.from(now)),
                filename: format!("{}_{suffix}.jsonl", self.spec.id),
                purpose: Purpose::BatchOutput,
                mime: None,
                org: self.spec.org,
                source: FileSource::View { batch: self.spec.id, part },
            });
            Some(id)
        };
        let output = view(ResultPart::Output, progress.output_bytes, progress.succeeded, "output");
        let errors = view(ResultPart::Errors, progress.error_bytes, progress.failed, "error");
        (ResultFiles { output, errors }, records)
    }
}
