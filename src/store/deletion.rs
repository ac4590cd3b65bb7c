//! How a batch that has ended is removed: because its deletion was requested, or because it has
//! been kept for long enough.
//!
//! With the batch go its results, its specification, plan and problems, its receipt, its event log,
//! its output and error files, the quote that it was made from, and its input if the daemon made
//! that. What stays: a file that a client uploaded, what the organisation was charged, and the
//! batch's idempotency key, which then leads nowhere. Rows of other batches that share answers with
//! it keep those answers.
//!
//! One step removes the batch's state and marks the rest. From then on the batch does not exist for
//! any reader. The rest goes in small steps, so that a large batch does not hold up the others. The
//! mark goes last, and the sweep continues interrupted deletions.

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::batches::blob_in;
use super::files::forget_file;
use super::format::{self, Blob};
use super::op::Tx;
use super::record::spec::SpecRecord;
use super::record::{self, batch::StateRecord};
use super::{Store, blocking};
use crate::domain::batch::{BatchInput, BatchSpec};
use crate::domain::id::{BatchId, FileId};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;

/// Batches that one scan returns at most.
const SCAN_LIMIT: usize = 1_000;
/// Deletions that run at the same time: they share flushes.
const UNDER_WAY: usize = 16;

/// What became of the deletion of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchDeletion {
    /// The batch is gone. The rest of its data can be removed with [`Store::remove_rest`].
    Deleted,
    NotFound,
    /// The batch is in this state, in which work on it goes on.
    NotEnded(&'static str),
}

impl Store {
    /// Deletes a batch that has ended; its id is unknown from then on.
    ///
    /// # Errors
    /// When the store has failed or a record of the batch is damaged.
    pub async fn delete_batch(&self, id: BatchId) -> Result<BatchDeletion, StoreError> {
        let (outcome, unused) = self.commit(move |tx| delete(tx, id)).await?;
        if let Err(error) = self.remove_content(unused).await {
            // The content is no longer visible; the next start finds it.
            tracing::warn!(batch = %id, %error, "the input of a deleted batch could not be removed");
        }
        Ok(outcome)
    }

    /// Removes what is left of a deleted batch. Until then the rest only takes space; the sweep
    /// removes it, too.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn remove_rest(&self, id: BatchId) -> Result<(), StoreError> {
        self.purge_if_unseen(id).await
    }

    /// Deletes the batches that ended before `limit`, oldest first, until `stop` is cancelled;
    /// returns how many.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn delete_ended_before(&self, limit: Timestamp, stop: &CancellationToken) -> Result<usize, StoreError> {
        let (mut deleted, mut after) = (0, None);
        while !stop.is_cancelled() {
            let store = self.clone();
            let due = blocking(move || store.ended_before(limit, after)).await?;
            after = due.last().copied();
            let is_all = due.len() < SCAN_LIMIT;
            let mut deletions = stream::iter(due.into_iter().map(|id| self.clone().delete_whole(id))).buffer_unordered(UNDER_WAY);
            while let Some(done) = deletions.next().await {
                deleted += usize::from(done?);
            }
            if is_all {
                break;
            }
        }
        Ok(deleted)
    }

    async fn delete_whole(self, id: BatchId) -> Result<bool, StoreError> {
        match self.delete_batch(id).await {
            Ok(BatchDeletion::Deleted) => self.remove_rest(id).await.map(|()| true),
            Ok(BatchDeletion::NotFound | BatchDeletion::NotEnded(_)) => Ok(false),
            // One damaged record must not keep all other batches for ever.
            Err(StoreError::Damaged(error)) => {
                tracing::error!(batch = %id, %error, "a batch that has been kept for long enough could not be deleted");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Batches behind `after` that ended before `limit`, the oldest first, at most [`SCAN_LIMIT`].
    fn ended_before(&self, limit: Timestamp, after: Option<BatchId>) -> Result<Vec<BatchId>, StoreError> {
        let from = after.map_or_else(|| format::BATCHES.to_vec(), |id| [&format::batch(id)[..], &[0]].concat());
        // No batch ends before it was created, and its id holds its creation time. After a clock
        // was set back, ids are ahead of the clock, and such batches are found that much later.
        let end = format::batch(BatchId::first_at(limit));
        let mut due = Vec::new();
        if from >= end {
            return Ok(due);
        }
        for entry in self.inner.tree.range(from..end) {
            let (key, state) = entry?;
            let Some(id) = format::trailing_id(&key).map(BatchId::from_u128) else { continue };
            // An unreadable record is included: the attempt to delete its batch reports the damage.
            let state = record::decode::<StateRecord>(&state).and_then(StateRecord::unpack);
            if state.map_or(true, |(state, _)| state.ended_at().is_some_and(|at| at < limit)) {
                due.push(id);
            }
            if due.len() == SCAN_LIMIT {
                break;
            }
        }
        Ok(due)
    }
}

/// Removes a batch and marks what is left of it. Also returns the batch's input if its content can
/// be removed now.
fn delete(tx: &mut Tx<'_>, id: BatchId) -> Result<(BatchDeletion, Option<FileId>), StoreError> {
    let Some((state, progress)) = tx.get::<StateRecord>(&format::batch(id))?.map(StateRecord::unpack).transpose()? else {
        return Ok((BatchDeletion::NotFound, None));
    };
    if !state.is_terminal() {
        return Ok((BatchDeletion::NotEnded(state.as_str()), None));
    }
    let spec = blob_in::<SpecRecord>(tx.tree(), id, Blob::Spec)?.map(BatchSpec::try_from).transpose()?;
    let files = state.files();
    for file in [files.output, files.errors].into_iter().flatten() {
        forget_file(tx, file)?;
    }
    let mut unused = None;
    if let Some(spec) = spec {
        if tx.tree().contains_key(format::made_input(id))? {
            unused = forget_file(tx, spec.input_file)?.flatten();
        }
        if let Some(place) = format::owned(format::batches_of(spec.org), id.as_u128()) {
            tx.remove(place);
        }
        if let BatchInput::Quoted(order) = &spec.input {
            // Otherwise the quote could be used a second time.
            tx.remove(format::used_quote(order.quote));
            tx.remove_all(format::quote(order.quote))?;
        }
        super::creation::release_key(tx, &spec)?;
    }
    // The reservation was settled when the batch ended; the account must not depend on that.
    super::ledger::settle(tx, id, progress.unwrap_or_default().cost)?;
    for key in [format::reservation(id), format::control(id), format::notice(id), format::watched(id), format::batch(id)] {
        tx.remove(key);
    }
    tx.put_raw(format::unseen(id), &[]);
    Ok((BatchDeletion::Deleted, unused))
}

#[cfg(test)]
mod tests;
