//! Running the unfinished rows of a batch again: their lines become a new input file, so that
//! everything else is the one ordinary path.

use std::io::{BufRead, BufReader};

use super::handle::{Handle, RetryError};
use crate::domain::batch::priority::Control;
use crate::domain::batch::{Batch, BatchSpec, BatchState, Order};
use crate::domain::file::{File, Purpose, ResultPart};
use crate::domain::id::BatchId;
use crate::domain::time::Timestamp;
use crate::store::{CreateOutcome, MadeInput, NewFile, Sealed, Store, StoreError, blocking};

pub(super) async fn retry(handle: &Handle, id: BatchId, now: Timestamp) -> Result<Batch, RetryError> {
    let store = &handle.store;
    let batch = store.batch(id).await?.ok_or(RetryError::NotFound)?;
    if !batch.state.is_terminal() {
        return Err(RetryError::StillRunning(batch.state.as_str()));
    }
    if let BatchState::Failed { .. } = batch.state {
        return Err(RetryError::Refused);
    }
    if let Order::Items(_) = batch.spec.order {
        return Err(RetryError::Quoted);
    }
    if batch.progress.failed == 0 {
        return Err(RetryError::NothingToRetry);
    }
    let input = store.file(batch.spec.input_file, now).await?.ok_or(RetryError::InputGone)?;
    let content = copy_unfinished(store, id, input.clone()).await?;
    let new = NewFile {
        filename: format!("retry-{}", input.filename),
        purpose: Purpose::Batch,
        mime: input.mime,
        org: input.org,
        created_at: now,
        expires_at: batch.spec.output_expires_after.map(|after| after.from(now)),
    };
    let spec = BatchSpec { id: BatchId::generate(now), created_at: now, retry_of: Some(id), ..batch.spec };
    let created = spec.id;
    // Whoever asks for it wants it to run.
    let control = Control { paused: false, ..batch.control };
    match store.create_batch_with(spec, MadeInput { file: new, content }, control, None).await? {
        CreateOutcome::Created => {}
        CreateOutcome::InputGone
        | CreateOutcome::Existing(_)
        | CreateOutcome::KeyReused
        | CreateOutcome::Deleted
        | CreateOutcome::QuoteUsed(_)
        | CreateOutcome::NotCovered(_) => {
            return Err(RetryError::InputGone);
        }
    }
    handle.take(created).await?;
    store.batch(created).await?.ok_or(RetryError::NotFound)
}

async fn copy_unfinished(store: &Store, id: BatchId, input: File) -> Result<Sealed, RetryError> {
    let pages = store.pages(id).await?;
    if pages.is_empty() {
        return Err(RetryError::ResultsGone);
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
    blocking(copy).await.map_err(RetryError::from)
}
