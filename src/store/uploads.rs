//! Multi-part uploads: each part is a file of its own until the parts are joined into one file.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use super::Store;
use super::dir::content_name;
use super::files::NewFile;
use super::format::seconds;
use super::format::{self, ExpiryKind};
use super::op::Tx;
use super::quotas::admit_bytes;
use super::record::{
    self,
    upload::{PartRecord, UploadRecord},
};
use super::spool::{Sealed, Spool};
use super::tree::Tree;
use super::unpack::{Packing, UnpackError, UnpackLimits};
use crate::domain::file::upload::{MAX_PARTS, Upload, UploadPart, UploadState};
use crate::domain::file::{File, Purpose};
use crate::domain::id::{PartId, UploadId};
use crate::domain::time::{Timestamp, later};
use crate::store::error::StoreError;

/// How long an expired upload is still reported as expired.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// Why a part was not added.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PartError {
    #[error("no such upload")]
    NotFound,
    #[error("the upload is {0}; parts can be added only while it is pending")]
    NotPending(&'static str),
    #[error("the upload has {MAX_PARTS} parts, which is the most it can have")]
    TooManyParts,
    #[error("the parts so far and this one have {0} bytes, far more than the {1} bytes that the upload announced")]
    TooManyBytes(u64, u64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an upload was not completed; the upload stays as it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompleteError {
    #[error("no such upload")]
    NotFound,
    #[error("the upload is {0}; only a pending one can be completed")]
    NotPending(&'static str),
    #[error("`{0}` is not a part of this upload")]
    UnknownPart(PartId),
    #[error("`{0}` is named twice")]
    RepeatedPart(PartId),
    #[error("the named parts have {found} bytes, the upload announced {announced}")]
    WrongSize { found: u64, announced: u64 },
    #[error("the content has the MD5 {found}, the request says {expected}")]
    WrongMd5 { found: String, expected: String },
    #[error(transparent)]
    Unpack(UnpackError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<UnpackError> for CompleteError {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Store(error) => Self::Store(error),
            error => Self::Unpack(error),
        }
    }
}

fn word(state: UploadState) -> &'static str {
    match state {
        UploadState::Pending => "pending",
        UploadState::Completed { .. } => "completed",
        UploadState::Cancelled => "cancelled",
        UploadState::Expired => "expired",
    }
}

impl Store {
    /// Begins an upload.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn create_upload(&self, upload: Upload) -> Result<(), StoreError> {
        self.commit(move |tx| {
            tx.put_raw(format::expiry(seconds(upload.expires_at), ExpiryKind::Upload, &upload.id.as_u128().to_be_bytes()), &[]);
            tx.put(format::upload(upload.id), &UploadRecord::from(&upload))?;
            // What is announced must fit, too, so that nobody sends it in vain.
            admit_bytes(tx, upload.org, upload.bytes, upload.created_at)
        })
        .await
    }

    /// An upload as it stands at `now`.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn upload(&self, id: UploadId, now: Timestamp) -> Result<Option<Upload>, StoreError> {
        let found = self.inner.tree.get(format::upload(id))?.map(|bytes| decode_upload(&bytes)).transpose()?;
        self.await_durable().await?;
        Ok(found.map(|upload| at(upload, now)))
    }

    /// Adds a part to a pending upload.
    ///
    /// # Errors
    /// When the upload cannot take the part, or the disk or store fails.
    pub async fn add_part(&self, upload: UploadId, content: Sealed, now: Timestamp) -> Result<UploadPart, PartError> {
        let part = UploadPart { id: PartId::generate(now), upload, created_at: now, bytes: content.bytes };
        let (folder, name) = (self.inner.dir.parts().clone(), content_name(part.id.as_u128()));
        super::blocking(move || content.move_to(&folder, &name)).await?;
        let record = part.clone();
        let added = match self.commit(move |tx| try_add_part(tx, &record, now)).await {
            Err(refused @ StoreError::Quota(_)) => Err(PartError::Store(refused)),
            other => other?,
        };
        if let Err(refused) = added {
            let folder = self.inner.dir.parts().clone();
            super::blocking(move || folder.remove(content_name(part.id.as_u128()))).await?;
            return Err(refused);
        }
        Ok(part)
    }

    /// Joins parts in the given order into one file. Input that is packed is unpacked once its size
    /// and checksum are as announced. The file expires after `retention` if the upload does not
    /// specify an expiry.
    ///
    /// # Errors
    /// When parts, size or checksum differ from what the client announced, packed input cannot be
    /// unpacked, or the disk or store fails.
    pub async fn complete_upload(
        &self,
        id: UploadId,
        order: Vec<PartId>,
        md5: Option<String>,
        retention: Option<Duration>,
        unpack: UnpackLimits,
        now: Timestamp,
    ) -> Result<(Upload, File), CompleteError> {
        let mut upload = self.upload(id, now).await?.ok_or(CompleteError::NotFound)?;
        if upload.state != UploadState::Pending {
            return Err(CompleteError::NotPending(word(upload.state)));
        }
        let mut content = self.join_parts(&upload, order, md5).await?;
        let mut packing = None;
        if upload.purpose == Purpose::Batch {
            (content, packing) = self.unpack_input(content, unpack).await?;
        }
        let new = NewFile {
            filename: packing.map_or(&*upload.filename, |_| Packing::unpacked_name(&upload.filename)).to_owned(),
            purpose: upload.purpose,
            mime: Some(packing.map_or(&*upload.mime_type, |_| Packing::UNPACKED_MIME).to_owned()),
            org: upload.org,
            created_at: now,
            expires_at: upload.file_expires_after.map(|after| after.from(now)).or_else(|| retention.map(|kept| later(now, kept))),
        };
        let file = new.into_file(&content);
        let (folder, name) = (self.inner.dir.files().clone(), content_name(file.id.as_u128()));
        super::blocking(move || content.move_to(&folder, &name)).await?;
        upload.state = UploadState::Completed { file: file.id };
        let record = file.clone();
        let closed = self.close_upload(upload.clone(), now, move |tx| {
            super::files::put_file(tx, &record)?;
            // Its parts go when it comes.
            let parts = parts(tx.tree(), id)?.iter().map(|part| part.bytes).sum();
            admit_bytes(tx, record.org, record.bytes.saturating_sub(parts), now)
        });
        match closed.await {
            Ok(Ok(())) => Ok((upload, file)),
            Ok(Err(state)) => {
                self.remove_content(Some(file.id)).await?;
                Err(CompleteError::NotPending(word(state)))
            }
            Err(refused @ StoreError::Quota(_)) => {
                self.remove_content(Some(file.id)).await?;
                Err(refused.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Cancels a pending upload. The inner error is the state of an upload that is not pending.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn cancel_upload(&self, id: UploadId, now: Timestamp) -> Result<Option<Result<Upload, &'static str>>, StoreError> {
        let Some(mut upload) = self.upload(id, now).await? else { return Ok(None) };
        if upload.state != UploadState::Pending {
            return Ok(Some(Err(word(upload.state))));
        }
        upload.state = UploadState::Cancelled;
        let closed = self.close_upload(upload.clone(), now, |_| Ok(())).await?;
        Ok(Some(closed.map(|()| upload).map_err(word)))
    }

    /// Moves a pending upload to its final state and removes its parts. The inner error is the
    /// state of an upload that another request has closed meanwhile.
    async fn close_upload(
        &self,
        upload: Upload,
        now: Timestamp,
        with: impl FnOnce(&mut Tx<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Result<(), UploadState>, StoreError> {
        let closed = self
            .commit(move |tx| {
                let current = tx.tree().get(format::upload(upload.id))?.map(|bytes| decode_upload(&bytes)).transpose()?;
                // The sweep closes uploads that are stored as pending; a client closes only those
                // that also have time left.
                let expiring = upload.state == UploadState::Expired;
                let state = current.map_or(UploadState::Expired, |current| if expiring { current.state } else { at(current, now).state });
                if state != UploadState::Pending {
                    return Ok(Err(state));
                }
                with(tx)?;
                tx.put(format::upload(upload.id), &UploadRecord::from(&upload))?;
                let parts = parts(tx.tree(), upload.id)?;
                for part in &parts {
                    tx.remove(format::part(upload.id, part.id));
                }
                Ok(Ok(parts))
            })
            .await?;
        match closed {
            Ok(parts) => self.remove_parts(parts).await.map(Ok),
            Err(state) => Ok(Err(state)),
        }
    }

    /// Closes an upload whose hour has passed, and forgets the upload a day later.
    pub(super) async fn expire_upload(&self, id: UploadId) -> Result<(), StoreError> {
        let Some(bytes) = self.inner.tree.get(format::upload(id))? else { return Ok(()) };
        let mut upload = decode_upload(&bytes)?;
        if upload.state != UploadState::Pending {
            return self
                .commit(move |tx| {
                    tx.remove(format::upload(id));
                    Ok(())
                })
                .await;
        }
        upload.state = UploadState::Expired;
        let now = upload.expires_at;
        let forget_at = later(now, REMEMBERED);
        // A request that closes the upload at this very moment wins; the next sweep then forgets
        // the upload.
        let _ = self
            .close_upload(upload, now, move |tx| {
                tx.put_raw(format::expiry(seconds(forget_at), ExpiryKind::Upload, &id.as_u128().to_be_bytes()), &[]);
                Ok(())
            })
            .await?;
        Ok(())
    }

    async fn join_parts(&self, upload: &Upload, order: Vec<PartId>, md5: Option<String>) -> Result<Sealed, CompleteError> {
        let mut unused: HashMap<_, _> = parts(&self.inner.tree, upload.id)?.into_iter().map(|part| (part.id, part.bytes)).collect();
        let mut found = 0;
        for (index, id) in order.iter().enumerate() {
            match unused.remove(id) {
                Some(bytes) => found += bytes,
                None if order[..index].contains(id) => return Err(CompleteError::RepeatedPart(*id)),
                None => return Err(CompleteError::UnknownPart(*id)),
            }
        }
        if found != upload.bytes {
            return Err(CompleteError::WrongSize { found, announced: upload.bytes });
        }
        let store = self.clone();
        let with_md5 = md5.is_some();
        let content = super::blocking(move || store.concatenate(&order, with_md5)).await?;
        match (md5, &content.md5) {
            (Some(expected), Some(found)) if !expected.eq_ignore_ascii_case(found) => {
                Err(CompleteError::WrongMd5 { found: found.clone(), expected })
            }
            (_, _) => Ok(content),
        }
    }

    fn concatenate(&self, order: &[PartId], with_md5: bool) -> Result<Sealed, StoreError> {
        let mut spool: Spool = if with_md5 { self.spool_with_md5()? } else { self.spool()? };
        let mut buffer = vec![0; 256 << 10];
        for id in order {
            let (folder, name) = (self.inner.dir.parts(), content_name(id.as_u128()));
            let mut part = folder.open(&name)?;
            loop {
                let read = part.read(&mut buffer).map_err(|e| StoreError::io("reading", &folder.path_of(&name), &e))?;
                if read == 0 {
                    break;
                }
                spool.write(&buffer[..read])?;
            }
        }
        spool.seal()
    }

    async fn remove_parts(&self, parts: Vec<UploadPart>) -> Result<(), StoreError> {
        let (folder, removals) = (self.inner.dir.parts().clone(), self.inner.removals.clone());
        super::blocking(move || {
            for part in parts {
                if let Err(error) = removals.remove(&folder, part.id.as_u128()) {
                    tracing::warn!(%error, "could not remove an upload part");
                }
            }
            Ok(())
        })
        .await
    }
}

fn try_add_part(tx: &mut Tx<'_>, part: &UploadPart, now: Timestamp) -> Result<Result<(), PartError>, StoreError> {
    let Some(bytes) = tx.tree().get(format::upload(part.upload))? else { return Ok(Err(PartError::NotFound)) };
    let upload = at(decode_upload(&bytes)?, now);
    if upload.state != UploadState::Pending {
        return Ok(Err(PartError::NotPending(word(upload.state))));
    }
    let parts = parts(tx.tree(), part.upload)?;
    if parts.len() >= MAX_PARTS {
        return Ok(Err(PartError::TooManyParts));
    }
    // A part may be sent again after a failure, so more bytes than announced are normal, within
    // reason.
    let total = parts.iter().map(|part| part.bytes).sum::<u64>().saturating_add(part.bytes);
    if total > upload.bytes.saturating_mul(2) {
        return Ok(Err(PartError::TooManyBytes(total, upload.bytes)));
    }
    tx.put(format::part(part.upload, part.id), &PartRecord::from(part))?;
    admit_bytes(tx, upload.org, part.bytes, now)?;
    Ok(Ok(()))
}

fn parts(tree: &Tree, upload: UploadId) -> Result<Vec<UploadPart>, StoreError> {
    let entries = tree.scan_prefix(format::parts_of(upload));
    entries.map(|entry| Ok(record::decode::<PartRecord>(&entry?.1)?.try_into()?)).collect()
}

fn decode_upload(bytes: &[u8]) -> Result<Upload, StoreError> {
    Ok(record::decode::<UploadRecord>(bytes)?.try_into()?)
}

/// The upload as clients see it at `now`: the upload's hour may have passed before the sweep ran.
fn at(mut upload: Upload, now: Timestamp) -> Upload {
    if upload.state == UploadState::Pending && upload.expires_at <= now {
        upload.state = UploadState::Expired;
    }
    upload
}
