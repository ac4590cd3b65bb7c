//! Removes what expires: expired files and uploads, forgotten idempotency keys and quotes, results
//! that no file shows any more, what is left of deleted batches, and what has been in `lost+found/`
//! for long.

use super::Store;
use super::format::{self, ExpiryKind};
use crate::domain::id::{BatchId, FileId, QuoteId, UploadId};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;

/// Entries looked up in one step.
const STEP: usize = 1_000;
/// Values removed in one write, so that a large batch does not hold up the others.
const PURGE: usize = 2_000;

impl Store {
    /// Removes everything that is due at `now`; returns how many things were removed. Call it every
    /// minute or so.
    ///
    /// # Errors
    /// When the store or the disk fails.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        let end = format::expiry_end(super::format::seconds(now));
        let mut from = format::EXPIRY.to_vec();
        let mut gone = 0;
        loop {
            let due: Vec<_> = self.inner.tree.range(from..end.clone()).keys().take(STEP).collect::<Result<_, _>>()?;
            for key in &due {
                match self.go(key).await {
                    Ok(()) => {}
                    Err(error @ (StoreError::Broken(_) | StoreError::Closed)) => return Err(error),
                    // One damaged record must not keep all other records for ever.
                    Err(error) => tracing::error!(%error, "something that has expired could not be removed"),
                }
            }
            gone += due.len();
            match due.get(STEP - 1) {
                Some(last) => from = [last, &[0][..]].concat(),
                None => break,
            }
        }
        gone += self.purge_unseen().await?;
        let store = self.clone();
        Ok(gone + super::blocking(move || store.sweep_lost(now)).await?)
    }

    /// Removes what an expiry entry points at, and then the entry.
    async fn go(&self, key: &sled::IVec) -> Result<(), StoreError> {
        let kind = key.get(9).copied();
        let id = format::trailing_id(key).unwrap_or(0);
        if kind == Some(ExpiryKind::File as u8) {
            self.delete_file(FileId::from_u128(id)).await?;
        } else if kind == Some(ExpiryKind::Upload as u8) {
            self.expire_upload(UploadId::from_u128(id)).await?;
        } else if kind == Some(ExpiryKind::Quote as u8) {
            self.forget_quote(QuoteId::from_u128(id)).await?;
        }
        let digest: Option<[u8; 32]> = key.get(10..).and_then(|id| id.try_into().ok());
        let key = key.to_vec();
        self.commit(move |tx| {
            if let (Some(digest), true) = (digest, kind == Some(ExpiryKind::IdempotencyKey as u8)) {
                tx.remove(format::idempotency(&digest));
            }
            tx.remove(key);
            Ok(())
        })
        .await
    }

    /// Removes the results of ended batches neither of whose files exists any more, and all that is
    /// left of deleted batches.
    async fn purge_unseen(&self) -> Result<usize, StoreError> {
        let marks: Vec<_> = self.inner.tree.scan_prefix(format::UNSEEN).keys().take(STEP).collect::<Result<_, _>>()?;
        for batch in marks.iter().filter_map(|mark| format::trailing_id(mark)) {
            self.purge_if_unseen(BatchId::from_u128(batch)).await?;
        }
        Ok(marks.len())
    }

    /// Does what `purge_unseen` does, for one batch.
    pub(super) async fn purge_if_unseen(&self, batch: BatchId) -> Result<(), StoreError> {
        let files = self.read_state(batch)?.map(|(state, _)| state.files()).unwrap_or_default();
        // The check and the change are one step: the other file may be deleted at this very moment,
        // and that deletion must find its mark kept, or set it again.
        let seen = self
            .commit(move |tx| {
                for file in [files.output, files.errors].into_iter().flatten() {
                    if tx.tree().contains_key(format::file(file))? {
                        tx.remove(format::unseen(batch));
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await?;
        if seen {
            return Ok(());
        }
        self.remove_in_steps(format::rows_of(batch)).await?;
        if self.read_state(batch)?.is_none() {
            self.remove_in_steps(format::blobs_of(batch)).await?;
        }
        // Done last, so that an interrupted purge is continued.
        self.commit(move |tx| {
            // The batch may have been deleted meanwhile, which leaves more to do.
            let is_deleted = !tx.tree().contains_key(format::batch(batch))?;
            if !is_deleted || tx.tree().scan_prefix(format::blobs_of(batch)).next().is_none() {
                tx.remove(format::unseen(batch));
            }
            Ok(())
        })
        .await
    }

    /// Removes all keys that begin with `prefix`, some of them at a time.
    async fn remove_in_steps(&self, prefix: Vec<u8>) -> Result<(), StoreError> {
        loop {
            let prefix = prefix.clone();
            let removed = self
                .commit(move |tx| {
                    let mut removed = 0;
                    for key in tx.tree().scan_prefix(prefix).keys().take(PURGE) {
                        tx.remove(key?.to_vec());
                        removed += 1;
                    }
                    Ok(removed)
                })
                .await?;
            if removed < PURGE {
                return Ok(());
            }
        }
    }
}
