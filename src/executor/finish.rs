//! The end of a batch: a result for each row that has none, the files, the last state.
//!
//! Runs beside the dispatcher, one task a batch, after the batch's last dispatch. Each step may be
//! interrupted and is then taken up again at the next start.

use std::sync::Arc;
use std::time::Duration;

use super::attempt::unanswered;
use super::input::Source;
use crate::domain::batch::{BatchEvent, BatchSpec, BatchState, Ending, Progress, ResultFiles};
use crate::domain::file::{File, FileSource, Purpose, ResultPart};
use crate::domain::id::{FileId, RowIndex, RowKey};
use crate::domain::row::{Outcome, RowError};
use crate::domain::time::{Clock, Timestamp};
use crate::store::{PackedRow, ROWS_PER_PAGE, Store, StoreError};

/// Wait before an input that cannot be read is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// Tries before the ids of its rows are given up.
const TRIES: u32 = 3;

/// A batch to be ended.
pub(super) struct Finish {
    pub store: Store,
    pub clock: Clock,
    pub spec: Arc<BatchSpec>,
    /// `Finalizing` or `Cancelling`.
    pub state: BatchState,
    /// `None` if the batch was never validated: it has no rows.
    pub source: Option<Source>,
}

impl Finish {
    /// Ends the batch.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn run(self) -> Result<(), StoreError> {
        self.store.batch_moved(self.spec.id, self.state).await?;
        let progress = match &self.source {
            Some(source) => {
                if let Some(outcome) = self.outcome_of_the_rest() {
                    self.close_rows(source, &outcome).await?;
                }
                source.live.progress()
            }
            None => Progress::default(),
        };
        let now = self.clock.now();
        let (files, records) = self.files(&progress, now);
        match self.state.apply(BatchEvent::Settled { files }, now) {
            Ok(state) => {
                tracing::info!(batch = %self.spec.id, state = state.as_str(), succeeded = progress.succeeded, failed = progress.failed, "batch ended");
                self.store.batch_settled(self.spec.id, state, progress, records).await
            }
            Err(conflict) => {
                tracing::error!(batch = %self.spec.id, %conflict, "a batch cannot be ended");
                Ok(())
            }
        }
    }

    fn outcome_of_the_rest(&self) -> Option<Outcome> {
        match self.state {
            BatchState::Finalizing { ending: Ending::Expired, .. } => Some(Outcome::Expired),
            BatchState::Cancelling { .. } => Some(Outcome::Cancelled),
            BatchState::Finalizing { ending: Ending::Completed, .. }
            | BatchState::Validating
            | BatchState::Failed { .. }
            | BatchState::InProgress { .. }
            | BatchState::Completed { .. }
            | BatchState::Expired { .. }
            | BatchState::Cancelled { .. } => None,
        }
    }

    /// Gives each row without a result this one, page by page.
    async fn close_rows(&self, source: &Source, outcome: &Outcome) -> Result<(), StoreError> {
        let mut durable = self.store.durable_rows();
        for (number, page) in (0_u32..).zip(source.live.pages()) {
            if page.is_complete() {
                continue;
            }
            for (row, custom_id, outcome) in self.unfinished(source, number, outcome).await? {
                let key = RowKey { batch: self.spec.id, row };
                let result = unanswered(key, custom_id, outcome, self.clock.now());
                self.store.record(PackedRow::pack(&result)?).await?;
            }
        }
        while source.live.progress().unfinished() > 0 {
            durable.changed().await.map_err(|_| StoreError::Closed)?;
        }
        Ok(())
    }

    async fn unfinished(&self, source: &Source, number: u32, outcome: &Outcome) -> Result<Vec<(RowIndex, String, Outcome)>, StoreError> {
        // Read again: results may have become durable since the caller's copy.
        let Some(page) = source.live.page(number) else { return Ok(Vec::new()) };
        let mut reason = String::new();
        for _ in 0..TRIES {
            let (source, page) = (source.clone(), page.clone());
            match blocking(move || source.unfinished_ids(number, &page)).await {
                Ok(ids) => return Ok(ids.into_iter().map(|(row, id)| (row, id, outcome.clone())).collect()),
                Err(error) => {
                    tracing::error!(batch = %self.spec.id, %error, "the input cannot be read; trying again");
                    reason = error.to_string();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        // Better a row under its line number than a batch that never ends.
        let first = number * ROWS_PER_PAGE;
        let open = (0..u32::from(page.rows)).filter(|slot| !page.is_done(*slot)).map(|slot| {
            let row = RowIndex(first + slot);
            let error = RowError { code: "input_unreadable".to_owned(), message: reason.clone() };
            (row, format!("line-{}", row.line()), Outcome::Failed { error, last: None })
        });
        Ok(open.collect())
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
                source: FileSource::View { batch: self.spec.id, part },
            });
            Some(id)
        };
        let output = view(ResultPart::Output, progress.output_bytes, progress.succeeded, "output");
        let errors = view(ResultPart::Errors, progress.error_bytes, progress.failed, "error");
        (ResultFiles { output, errors }, records)
    }
}

/// Runs blocking work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::Broken(error.to_string())))
}
