//! Files: adding, reading, listing, deleting.
//!
//! When an unfinished batch still reads a deleted input, the deletion hides the file at once, and
//! the content is removed when the last such batch ends, as with an open file that is unlinked.

use super::dir::{DataFile, content_name};
use super::format::{self, ExpiryKind};
use super::op::Tx;
use super::quotas::admit_bytes;
use super::record::{self, file::FileRecord};
use super::spool::Sealed;
use super::tree::Tree;
use super::{Listing, Store};
use crate::domain::file::{File, FileSource, Purpose};
use crate::domain::id::{BatchId, FileId, OrgId};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;
use crate::store::format::seconds;

/// What a client says about a file that it uploads.
#[derive(Debug, Clone)]
pub struct NewFile {
    pub filename: String,
    pub purpose: Purpose,
    /// The file's media type, if known.
    pub mime: Option<String>,
    pub org: OrgId,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

/// Which files to list.
#[derive(Debug, Clone, Copy)]
pub struct FileQuery {
    pub purpose: Option<Purpose>,
    /// Only files of this organisation.
    pub org: OrgId,
    /// Only files behind this one in the order of the list.
    pub after: Option<FileId>,
    /// At most this many files.
    pub limit: usize,
    pub order: SortOrder,
    /// Files that expired by this time are left out.
    pub now: Timestamp,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    NotFound,
}

impl NewFile {
    pub(super) fn into_file(self, content: &Sealed) -> File {
        File {
            id: FileId::generate(self.created_at),
            bytes: content.bytes,
            created_at: self.created_at,
            expires_at: self.expires_at,
            filename: self.filename,
            purpose: self.purpose,
            mime: self.mime,
            org: self.org,
            source: FileSource::Uploaded { sha256: content.sha256 },
        }
    }
}

impl Store {
    /// Makes a file from complete content.
    ///
    /// # Errors
    /// When the disk is full or fails, or the store has failed.
    pub async fn add_file(&self, new: NewFile, content: Sealed) -> Result<File, StoreError> {
        let file = new.into_file(&content);
        let (folder, name) = (self.inner.dir.files().clone(), content_name(file.id.as_u128()));
        super::blocking(move || content.move_to(&folder, &name)).await?;
        let record = file.clone();
        let added = self.commit(move |tx| {
            put_file(tx, &record)?;
            admit_bytes(tx, record.org, record.bytes, record.created_at)
        });
        if let Err(refused) = added.await {
            if matches!(refused, StoreError::Quota(_)) {
                self.remove_content(Some(file.id)).await?;
            }
            return Err(refused);
        }
        Ok(file)
    }

    /// Reads a file that exists and has not expired at `now`.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn file(&self, id: FileId, now: Timestamp) -> Result<Option<File>, StoreError> {
        let found = self.inner.tree.get(format::file(id))?;
        let found = found.map(|bytes| decode(&bytes)).transpose()?;
        self.await_durable().await?;
        Ok(found.filter(|file| file.expires_at.is_none_or(|at| now < at)))
    }

    /// [`Self::file`] for a blocking thread that shows the file to no client.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub fn attachment(&self, id: FileId, now: Timestamp) -> Result<Option<File>, StoreError> {
        let found = self.inner.tree.get(format::file(id))?.map(|bytes| decode(&bytes)).transpose()?;
        Ok(found.filter(|file| file.expires_at.is_none_or(|at| now < at) && matches!(file.source, FileSource::Uploaded { .. })))
    }

    /// Files in the order of their creation, or in reverse.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn files(&self, query: FileQuery) -> Result<Listing<File>, StoreError> {
        let store = self.clone();
        let listing = super::blocking(move || store.read_files(query)).await?;
        self.await_durable().await?;
        Ok(listing)
    }

    fn read_files(&self, query: FileQuery) -> Result<Listing<File>, StoreError> {
        let list = format::files_of(query.org);
        let after = query.after.map(FileId::as_u128);
        let ids: Box<dyn Iterator<Item = _>> = match query.order {
            SortOrder::Ascending => Box::new(self.ids(&list, after)),
            SortOrder::Descending => Box::new(self.ids_backwards(&list, after)),
        };
        let mut listing = Listing { items: Vec::new(), has_more: false };
        for id in ids {
            let Some(bytes) = self.inner.tree.get(format::file(FileId::from_u128(id?)))? else { continue };
            let file = decode(&bytes)?;
            let expired = file.expires_at.is_some_and(|at| at <= query.now);
            if expired || file.org != query.org || query.purpose.is_some_and(|purpose| purpose != file.purpose) {
                continue;
            }
            if listing.items.len() == query.limit {
                listing.has_more = true;
                break;
            }
            listing.items.push(file);
        }
        Ok(listing)
    }

    /// Deletes a file; its id is unknown from then on.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn delete_file(&self, id: FileId) -> Result<Deletion, StoreError> {
        let Some(unused) = self.commit(move |tx| forget_file(tx, id)).await? else { return Ok(Deletion::NotFound) };
        self.remove_content(unused).await?;
        Ok(Deletion::Deleted)
    }

    /// Opens the content of an uploaded file, including a file that was deleted while an unfinished
    /// batch reads it. Blocks.
    ///
    /// # Errors
    /// When the content is gone or cannot be read.
    pub fn open_content(&self, id: FileId) -> Result<DataFile, StoreError> {
        self.inner.dir.files().open(content_name(id.as_u128()))
    }

    /// Removes the content of a file whose record is gone.
    pub(super) async fn remove_content(&self, file: Option<FileId>) -> Result<(), StoreError> {
        let Some(id) = file else { return Ok(()) };
        let (folder, removals) = (self.inner.dir.files().clone(), self.inner.removals.clone());
        super::blocking(move || {
            removals.remove(&folder, id.as_u128())?;
            folder.sync()
        })
        .await
    }
}

/// Writes a file's record and its expiry.
pub(super) fn put_file(tx: &mut Tx<'_>, file: &File) -> Result<(), StoreError> {
    tx.put(format::file(file.id), &FileRecord::from(file))?;
    if let Some(place) = format::owned(format::files_of(file.org), file.id.as_u128()) {
        tx.put_raw(place, &[]);
    }
    if let Some(at) = file.expires_at {
        tx.put_raw(format::expiry(seconds(at), ExpiryKind::File, &file.id.as_u128().to_be_bytes()), &[]);
    }
    Ok(())
}

/// Removes a file's record. Returns the file whose content can be removed now; the outer `None` if
/// there is no such file.
pub(super) fn forget_file(tx: &mut Tx<'_>, id: FileId) -> Result<Option<Option<FileId>>, StoreError> {
    let Some(file) = file_in(tx, id)? else { return Ok(None) };
    tx.remove(format::file(id));
    if let Some(place) = format::owned(format::files_of(file.org), id.as_u128()) {
        tx.remove(place);
    }
    if let Some(at) = file.expires_at {
        tx.remove(format::expiry(seconds(at), ExpiryKind::File, &id.as_u128().to_be_bytes()));
    }
    match file.source {
        FileSource::Uploaded { .. } if is_read(tx.tree(), id, None)? => {
            // Readers of the content must know what it should be.
            tx.put(format::deleted(id), &FileRecord::from(&file))?;
            Ok(Some(None))
        }
        FileSource::Uploaded { .. } => Ok(Some(Some(id))),
        FileSource::View { batch, .. } => {
            tx.put_raw(format::unseen(batch), &[]);
            Ok(Some(None))
        }
    }
}

fn decode(bytes: &[u8]) -> Result<File, StoreError> {
    Ok(record::decode::<FileRecord>(bytes)?.try_into()?)
}

/// Whether an unfinished batch other than `except` reads `file`.
pub fn is_read(tree: &Tree, file: FileId, except: Option<BatchId>) -> Result<bool, StoreError> {
    for entry in tree.scan_prefix(format::ACTIVE) {
        let (key, input) = entry?;
        let by_another = format::trailing_id(&key).map(BatchId::from_u128) != except;
        if by_another && format::trailing_id(&input) == Some(file.as_u128()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The record of a file, as the writer sees it.
pub fn file_in(tx: &Tx<'_>, id: FileId) -> Result<Option<File>, StoreError> {
    Ok(tx.get::<FileRecord>(&format::file(id))?.map(File::try_from).transpose()?)
}
