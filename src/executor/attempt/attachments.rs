//! The files that items name, which travel with them. They are read when their row is sent, and
//! leave memory when its call has ended.
//!
//! Invariant: all files in memory at one time have at most [`AT_ONCE`] bytes, and those of one
//! organisation at most [`OF_ONE_ORG`]. A row for which there is no room comes back later.
//!
//! Not here: recordings, which are sent beside a body and not in it ([`super::recordings`]).

use std::collections::HashMap;
use std::io::Read;

use bytes::Bytes;

use crate::domain::file::File;
use crate::domain::format::wire::WireFormat;
use crate::domain::id::{FileId, OrgId, RowKey};
use crate::domain::text::shown;
use crate::domain::time::{Clock, Timestamp};
use crate::executor::attempt::file_room::{FileRoom, FileSlot};
use crate::executor::lane::route::Reads;
use crate::provider::translate::{Attached, attach};
use crate::quote::Attachment;
use crate::store::error::StoreError;
use crate::store::{Store, blocking};

/// Bytes of the files of one item. As text they are a third larger, and encoding copies them.
const OF_ONE: u64 = 20 << 20;
/// Bytes of the files of one organisation at one time.
const OF_ONE_ORG: u64 = 20 << 20;
/// Bytes of all files at one time, before they become text.
const AT_ONCE: u64 = 32 << 20;

/// Reads files for rows.
#[derive(Clone)]
pub struct Attachments {
    store: Store,
    clock: Clock,
    room: FileRoom,
}

/// A row that is about to be sent, and where to.
pub struct Sent {
    pub row: RowKey,
    pub org: OrgId,
    pub format: WireFormat,
    pub body: Bytes,
}

/// Why a row has no complete body.
#[derive(Debug)]
pub enum Incomplete {
    /// The body can never be completed.
    Unusable(String),
    /// This lane does not read one of the files; another lane may. `files` lists everything that
    /// must be read: kinds and bytes.
    NotHere { message: String, files: Vec<Attachment> },
    /// A server that the row names does not give its content at present.
    Unreachable(String),
    /// There is no room, or the store cannot be read at the moment.
    NotNow,
}

/// A body with its files. The files keep their room for as long as it lives.
pub struct Complete {
    pub body: Bytes,
    _place: FileSlot,
}

impl Attachments {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, room: FileRoom::new(AT_ONCE, OF_ONE_ORG) }
    }

    /// Completes a body with the organisation's files that it names.
    ///
    /// # Errors
    /// When a file is missing, the lane does not read it, it cannot be read, or there is no room.
    pub async fn complete(&self, ids: Vec<String>, sent: Sent, reads: &Reads) -> Result<Complete, Incomplete> {
        let (this, reads) = (self.clone(), reads.clone());
        blocking(move || Ok(this.fill(&ids, &sent, &reads))).await.map_err(|error| unreadable("of a row", &error))?
    }

    fn fill(&self, ids: &[String], sent: &Sent, reads: &Reads) -> Result<Complete, Incomplete> {
        let mut files = HashMap::new();
        for id in ids {
            files.insert(id.as_str(), self.find(id, sent.org)?);
        }
        check_read(&files, reads)?;
        let bytes = files.values().map(|file| file.bytes).fold(0, u64::saturating_add);
        if bytes > OF_ONE {
            return Err(Incomplete::Unusable(format!("the files of the item have more than {OF_ONE} bytes")));
        }
        let place = self.room.take(sent.row, sent.org, bytes).ok_or(Incomplete::NotNow)?;
        let mut body = attach(sent.format, sent.body.to_vec(), |id| self.read(id, files.get(id)))?;
        // The body grew by doubling, and stays in memory for as long as the call takes.
        body.shrink_to_fit();
        Ok(Complete { body: body.into(), _place: place })
    }

    fn find(&self, name: &str, org: OrgId) -> Result<File, Incomplete> {
        let id: FileId = name.parse().map_err(|_| gone(name))?;
        find(&self.store, (id, name), org, self.clock.now())
    }

    /// Reads the content of a file that was found.
    fn read(&self, name: &str, file: Option<&File>) -> Result<Attached, Incomplete> {
        let file = file.ok_or_else(|| gone(name))?;
        let content = content(&self.store, file, name)?;
        Ok(Attached { mime: file.media_type().to_owned(), filename: file.filename.clone(), content })
    }
}

/// Finds a file of the organisation by its id; `name` is the id as the row spells it. Blocks.
pub(super) fn find(store: &Store, (id, name): (FileId, &str), org: OrgId, now: Timestamp) -> Result<File, Incomplete> {
    let file = store.attachment(id, now).map_err(|error| unreadable(name, &error))?;
    file.filter(|file| file.org == org).ok_or_else(|| gone(name))
}

/// Reads the content of a file that was found by this name. Blocks.
pub(super) fn content(store: &Store, file: &File, name: &str) -> Result<Vec<u8>, Incomplete> {
    let mut content = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0));
    let mut reader = store.open_verified(file).map_err(|error| unreadable(name, &error))?;
    // Reads no more than there is room for: a file of another size would not have been opened.
    let read = reader.read_to_end(&mut content);
    read.map_err(|error| unreadable(name, &StoreError::unreadable(file.id, &error)))?;
    Ok(content)
}

/// Checks whether a lane reads all of these files.
fn check_read(files: &HashMap<&str, File>, reads: &Reads) -> Result<(), Incomplete> {
    let Some((name, file)) = files.iter().find(|(_, file)| !reads.takes(file.media_type(), file.bytes)) else { return Ok(()) };
    let (name, mime, bytes) = (shown(name), file.media_type(), file.bytes);
    let message = format!("the lane does not take the file `{name}`, which is {mime} of {bytes} bytes");
    let all = files.values().map(|file| Attachment { mime: file.media_type().to_owned(), bytes: file.bytes });
    Err(Incomplete::NotHere { message, files: all.collect() })
}

/// Describes a file of the organisation that an item names; `None` if it is missing. Blocks.
pub fn describe(store: &Store, name: &str, org: OrgId, now: Timestamp) -> Option<Attachment> {
    let found = store.attachment(name.parse().ok()?, now);
    let found = found.inspect_err(|error| tracing::error!(%error, "a file that an item names could not be looked up")).ok()?;
    let file = found.filter(|file| file.org == org)?;
    Some(Attachment { mime: file.media_type().to_owned(), bytes: file.bytes })
}

fn gone(name: &str) -> Incomplete {
    Incomplete::Unusable(format!("there is no file `{}`, which the item names", shown(name)))
}

/// Missing or damaged files stay so; any other error may pass.
pub(super) fn unreadable(name: &str, error: &StoreError) -> Incomplete {
    tracing::error!(file = name, %error, "a file that an item names cannot be read");
    match error {
        StoreError::Content(_) => Incomplete::Unusable(format!("the content of the file `{name}`, which the item names, is damaged")),
        StoreError::Damaged(_) | StoreError::Io { missing: true, .. } => {
            Incomplete::Unusable(format!("the file `{name}`, which the item names, cannot be read"))
        }
        _ => Incomplete::NotNow,
    }
}
