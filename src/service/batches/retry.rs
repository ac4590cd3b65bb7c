//! Running the unfinished rows of a batch again. Their lines become a new input file, so that
//! everything else takes the one ordinary path.

use std::io::BufReader;
use std::sync::Arc;

use super::create::{InputSource, Kept, MadeRows, NewBatch};
use crate::domain::batch::priority::Control;
use crate::domain::batch::{Batch, BatchInput, BatchState};
use crate::domain::file::{File, ResultPart};
use crate::domain::id::BatchId;
use crate::domain::row::lines::{Line, Lines};
use crate::service::{RetryError, Service, ServiceError};
use crate::store::error::StoreError;
use crate::store::{Idempotency, Sealed, Store, blocking};

/// The longest line that is copied: the largest value of the setting.
const MAX_LINE: usize = 1 << 30;

impl Service {
    /// Makes a new batch of the rows of `id` that failed, expired or never ran. The new batch is
    /// linked to `id` and has the same endpoint, window and metadata.
    ///
    /// # Errors
    /// When the batch still runs, has nothing to retry, or its input or results are gone.
    pub async fn retry(self: &Arc<Self>, id: BatchId) -> Result<Batch, ServiceError> {
        self.retry_once(id, None).await
    }

    /// As [`Self::retry`], but a second call with the same key finds the batch of the first.
    ///
    /// # Errors
    /// As for [`Self::retry`], and when another request has used the key.
    pub async fn retry_once(self: &Arc<Self>, id: BatchId, once: Option<Idempotency>) -> Result<Batch, ServiceError> {
        let batch = self.store.batch(id).await?.ok_or(ServiceError::BatchNotFound(id))?;
        check(&batch)?;
        let now = self.clock.now();
        let file = self.store.file(batch.spec.input_file, now).await?.ok_or(RetryError::InputGone)?;
        let content = copy_unfinished(&self.store, id, file.clone(), self.limits.max_line_bytes).await?;
        let kept = batch.spec.output_expires_after.map_or(Kept::ForEver, |after| Kept::Until(after.from(now)));
        let made = MadeRows { content, filename: Some(format!("retry-{}", file.filename)), mime: file.mime, kept };
        let spec = batch.spec;
        let new = NewBatch {
            metadata: spec.metadata,
            output_expires_after: spec.output_expires_after,
            fallback: spec.fallback,
            headers: spec.headers,
            // A caller who asks for a retry wants it to run, even if the original was paused.
            control: Control { paused: false, ..batch.control },
            retry_of: Some(id),
            once,
            ..NewBatch::new(now, spec.dialect, spec.org, spec.owner, spec.input, InputSource::Made(made))
        };
        Ok(self.create_batch(new).await?.batch)
    }
}

fn check(batch: &Batch) -> Result<(), RetryError> {
    if !batch.state.is_terminal() {
        return Err(RetryError::StillRunning(batch.state.as_str()));
    }
    if let BatchState::Failed { .. } = batch.state {
        return Err(RetryError::Refused);
    }
    if let BatchInput::Quoted(_) = batch.spec.input {
        return Err(RetryError::Quoted);
    }
    if batch.progress.failed == 0 { Err(RetryError::NothingToRetry) } else { Ok(()) }
}

async fn copy_unfinished(store: &Store, id: BatchId, input: File, max_row_bytes: usize) -> Result<Sealed, ServiceError> {
    let pages = store.pages(id).await?;
    if pages.is_empty() {
        return Err(RetryError::ResultsGone.into());
    }
    let store = store.clone();
    let copy = move || {
        let mut spool = store.spool()?;
        let mut content = store.open_verified(&input)?;
        let mut lines = Lines::new(BufReader::with_capacity(256 << 10, &mut content), MAX_LINE);
        for page in pages {
            for slot in 0..u32::from(page.rows) {
                // A row that was too long still is; others were within the limit of their time.
                lines.limit(if page.is_refused(slot) { max_row_bytes } else { MAX_LINE });
                lines.advance().map_err(|e| StoreError::unreadable(input.id, &e))?;
                if let Line::Text(line) = lines.latest()
                    && page.includes(slot, ResultPart::Errors)
                {
                    spool.write(line)?;
                    spool.write(b"\n")?;
                }
            }
        }
        drop(lines);
        content.finish().map_err(|e| StoreError::unreadable(input.id, &e))?;
        spool.seal()
    };
    Ok(blocking(copy).await?)
}
