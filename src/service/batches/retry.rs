//! Running the unfinished rows of a batch again. Their lines become a new input file, so that
//! everything else takes the one ordinary path.

use std::io::{BufRead, BufReader};
use std::sync::Arc;

use super::create::{InputSource, Kept, MadeRows, NewBatch};
use crate::domain::batch::priority::Control;
use crate::domain::batch::{Batch, BatchInput, BatchState};
use crate::domain::file::{File, ResultPart};
use crate::domain::id::BatchId;
use crate::service::{RetryError, Service, ServiceError};
use crate::store::error::StoreError;
use crate::store::{Idempotency, Sealed, Store, blocking};

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
        let content = copy_unfinished(&self.store, id, file.clone()).await?;
        let kept = batch.spec.output_expires_after.map_or(Kept::ForEver, |after| Kept::Until(after.from(now)));
        let made = MadeRows { content, filename: Some(format!("retry-{}", file.filename)), mime: file.mime, kept };
        let spec = batch.spec;
        let new = NewBatch {
            metadata: spec.metadata,
            output_expires_after: spec.output_expires_after,
            fallback: spec.fallback,
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

async fn copy_unfinished(store: &Store, id: BatchId, input: File) -> Result<Sealed, ServiceError> {
    let pages = store.pages(id).await?;
    if pages.is_empty() {
        return Err(RetryError::ResultsGone.into());
    }
    let store = store.clone();
    let copy = move || {
        let mut spool = store.spool()?;
        let mut reader = BufReader::with_capacity(256 << 10, store.open_verified(&input)?);
        let mut line = Vec::new();
        for page in pages {
            for slot in 0..u32::from(page.rows) {
                line.clear();
                // The input was validated: every line is within the limits.
                reader.read_until(b'\n', &mut line).map_err(|e| StoreError::unreadable(input.id, &e))?;
                if page.includes(slot, ResultPart::Errors) {
                    if !line.ends_with(b"\n") {
                        line.push(b'\n');
                    }
                    spool.write(&line)?;
                }
            }
        }
        reader.into_inner().finish().map_err(|e| StoreError::unreadable(input.id, &e))?;
        spool.seal()
    };
    Ok(blocking(copy).await?)
}
