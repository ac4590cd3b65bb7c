//! The files that items name, which travel with them: read when their row is sent, and gone from memory
//! when its call has ended.
//!
//! Invariant: all files that are in memory at one time have no more than [`AT_ONCE`] bytes. A row for which
//! there is no room comes back later, and keeps no place from others meanwhile.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ways::Reads;
use crate::domain::endpoint::Endpoint;
use crate::domain::file::File;
use crate::domain::id::{FileId, OrgId};
use crate::domain::time::Clock;
use crate::provider::form::{Attached, attach};
use crate::store::{Store, StoreError, blocking};

/// Bytes of the files of one item. They become a third larger as text, and are copied on the way to it.
const OF_ONE: u64 = 20 << 20;
/// Bytes of all files at one time, before they become text.
const AT_ONCE: u64 = 32 << 20;
/// Bytes that one permit stands for.
const UNIT: u64 = 4 << 10;

/// Reads files for rows.
#[derive(Clone)]
pub(super) struct Attachments {
    store: Store,
    clock: Clock,
    room: Arc<Semaphore>,
}

/// Why a row has no complete body.
#[derive(Debug)]
pub(super) enum Incomplete {
    /// It never will have.
    Unusable(String),
    /// This lane does not read one of its files; another one may.
    NotHere(String),
    /// There is no room, or the store cannot be read at the moment.
    NotNow,
}

/// A body with its files. They have their room for as long as it lives.
pub(super) struct Complete {
    pub body: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Attachments {
    pub fn new(store: Store, clock: Clock) -> Self {
        let permits = usize::try_from(AT_ONCE / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Self { store, clock, room: Arc::new(Semaphore::new(permits)) }
    }

    /// A body with these files of the organisation, which it names.
    ///
    /// # Errors
    /// When a file is not there, is not what the lane reads, or cannot be read, or there is no room.
    pub async fn complete(
        &self,
        ids: Vec<String>,
        (endpoint, body): (Endpoint, Bytes),
        org: OrgId,
        reads: &Reads,
    ) -> Result<Complete, Incomplete> {
        let (this, reads) = (self.clone(), reads.clone());
        blocking(move || Ok(this.fill(&ids, endpoint, &body, org, &reads))).await.map_err(|error| unreadable("of a row", &error))?
    }

    fn fill(&self, ids: &[String], endpoint: Endpoint, body: &Bytes, org: OrgId, reads: &Reads) -> Result<Complete, Incomplete> {
        let mut bytes = 0_u64;
        let mut files = HashMap::new();
        for id in ids {
            let file = self.find(id, org, reads)?;
            bytes = bytes.saturating_add(file.bytes);
            if bytes > OF_ONE {
                return Err(Incomplete::Unusable(format!("the files of the item have more than {OF_ONE} bytes")));
            }
            files.insert(id.as_str(), file);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(units).map_err(|_| Incomplete::NotNow)?;
        let mut body = attach(endpoint, body.to_vec(), |id| self.read(id, files.get(id)))?;
        // It grew by doubling, and stays for as long as the call takes.
        body.shrink_to_fit();
        Ok(Complete { body: body.into(), _room: room })
    }

    fn find(&self, name: &str, org: OrgId, reads: &Reads) -> Result<File, Incomplete> {
        let id: FileId = name.parse().map_err(|_| gone(name))?;
        let file = self.store.attachment(id, self.clock.now()).map_err(|error| unreadable(name, &error))?;
        let file = file.filter(|file| file.org == org).ok_or_else(|| gone(name))?;
        match reads {
            Reads::Unknown => Ok(file),
            Reads::Files(Some(files)) if files.takes(file.media_type(), file.bytes) => Ok(file),
            Reads::Files(_) => {
                let (name, mime, bytes) = (shown(name), file.media_type(), file.bytes);
                let message = format!("the lane does not take the file `{name}`, which is {mime} of {bytes} bytes");
                Err(Incomplete::NotHere(message))
            }
        }
    }

    /// The content of a file that was found.
    fn read(&self, name: &str, file: Option<&File>) -> Result<Attached, Incomplete> {
        let file = file.ok_or_else(|| gone(name))?;
        let mut content = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0));
        let reader = self.store.open_content(file.id).map_err(|error| unreadable(name, &error))?;
        // No more than there is room for, whatever lies on the disk.
        let read = reader.take(file.bytes).read_to_end(&mut content);
        read.map_err(|error| unreadable(name, &StoreError::unreadable(file.id, &error)))?;
        Ok(Attached { mime: file.media_type().to_owned(), filename: file.filename.clone(), content })
    }
}

/// A name as it is told; it is the client's, and may be long.
fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}

fn gone(name: &str) -> Incomplete {
    Incomplete::Unusable(format!("there is no file `{}`, which the item names", shown(name)))
}

/// What is gone or damaged stays so; anything else may pass.
fn unreadable(name: &str, error: &StoreError) -> Incomplete {
    tracing::error!(file = name, %error, "a file that an item names cannot be read");
    match error {
        StoreError::Damaged(_) | StoreError::Io { missing: true, .. } => {
            Incomplete::Unusable(format!("the file `{name}`, which the item names, cannot be read"))
        }
        _ => Incomplete::NotNow,
    }
}
