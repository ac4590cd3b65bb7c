//! The files that items name, which travel with them. They are read when their row is sent, and
//! leave memory when its call has ended.
//!
//! Invariant: all files in memory at one time have at most [`AT_ONCE`] bytes, and those of one
//! organisation at most [`OF_ONE_ORG`]. A row for which there is no room comes back later.
//! Meanwhile the room that it needs is kept free of rows that came after it.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::domain::file::File;
use crate::domain::format::wire::WireFormat;
use crate::domain::id::{FileId, OrgId, RowKey};
use crate::domain::text::shown;
use crate::domain::time::{Clock, Timestamp};
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
/// How long room is kept for a row that does not come back.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Reads files for rows.
#[derive(Clone)]
pub struct Attachments {
    store: Store,
    clock: Clock,
    room: Arc<Mutex<Room>>,
}

/// The room that files in memory take, and the row that is next in line.
#[derive(Debug, Default)]
struct Room {
    /// Bytes in use, by organisation.
    taken: HashMap<OrgId, u64>,
    /// The row that has waited longest, the bytes that it needs, and when it last asked.
    first: Option<(RowKey, u64, Instant)>,
}

impl Room {
    /// Takes room for a row, if there is enough besides what is kept for another row.
    fn take(&mut self, row: RowKey, org: OrgId, bytes: u64, now: Instant) -> bool {
        let all: u64 = self.taken.values().sum();
        let own = self.taken.get(&org).copied().unwrap_or(0);
        // A row that waits for room of its own organisation keeps no room from others.
        if own > 0 && own.saturating_add(bytes) > OF_ONE_ORG {
            return false;
        }
        let first = self.first.filter(|(first, _, seen)| *first != row && now.saturating_duration_since(*seen) < KEPT_FOR);
        let kept = first.map_or(0, |(_, needs, _)| needs);
        if all > 0 && all.saturating_add(bytes).saturating_add(kept) > AT_ONCE {
            if first.is_none() {
                self.first = Some((row, bytes, now));
            }
            return false;
        }
        if first.is_none() {
            self.first = None;
        }
        *self.taken.entry(org).or_default() += bytes;
        true
    }

    fn give_back(&mut self, org: OrgId, bytes: u64) {
        if let Some(taken) = self.taken.get_mut(&org) {
            *taken = taken.saturating_sub(bytes);
            if *taken == 0 {
                self.taken.remove(&org);
            }
        }
    }
}

/// Room that a row holds until this is dropped.
struct FileSlot {
    room: Arc<Mutex<Room>>,
    org: OrgId,
    bytes: u64,
}

impl Drop for FileSlot {
    fn drop(&mut self) {
        lock(&self.room).give_back(self.org, self.bytes);
    }
}

fn lock(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
        Self { store, clock, room: Arc::default() }
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
        if !lock(&self.room).take(sent.row, sent.org, bytes, Instant::now()) {
            return Err(Incomplete::NotNow);
        }
        let place = FileSlot { room: self.room.clone(), org: sent.org, bytes };
        let mut body = attach(sent.format, sent.body.to_vec(), |id| self.read(id, files.get(id)))?;
        // The body grew by doubling, and stays in memory for as long as the call takes.
        body.shrink_to_fit();
        Ok(Complete { body: body.into(), _place: place })
    }

    fn find(&self, name: &str, org: OrgId) -> Result<File, Incomplete> {
        let id: FileId = name.parse().map_err(|_| gone(name))?;
        let file = self.store.attachment(id, self.clock.now()).map_err(|error| unreadable(name, &error))?;
        file.filter(|file| file.org == org).ok_or_else(|| gone(name))
    }

    /// Reads the content of a file that was found.
    fn read(&self, name: &str, file: Option<&File>) -> Result<Attached, Incomplete> {
        let file = file.ok_or_else(|| gone(name))?;
        let mut content = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0));
        let mut reader = self.store.open_verified(file).map_err(|error| unreadable(name, &error))?;
        // Reads no more than there is room for: a file of another size would not have been opened.
        let read = reader.read_to_end(&mut content);
        read.map_err(|error| unreadable(name, &StoreError::unreadable(file.id, &error)))?;
        Ok(Attached { mime: file.media_type().to_owned(), filename: file.filename.clone(), content })
    }
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
fn unreadable(name: &str, error: &StoreError) -> Incomplete {
    tracing::error!(file = name, %error, "a file that an item names cannot be read");
    match error {
        StoreError::Content(_) => Incomplete::Unusable(format!("the content of the file `{name}`, which the item names, is damaged")),
        StoreError::Damaged(_) | StoreError::Io { missing: true, .. } => {
            Incomplete::Unusable(format!("the file `{name}`, which the item names, cannot be read"))
        }
        _ => Incomplete::NotNow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{BatchId, RowIndex};

    const MIB: u64 = 1 << 20;

    fn row(number: u32) -> RowKey {
        RowKey { batch: BatchId::from_u128(1), row: RowIndex(number) }
    }

    #[test]
    fn a_large_file_comes_before_small_ones_that_came_later_and_nobody_has_all_the_room() {
        let (one, two, three) = (OrgId::from_u128(1), OrgId::from_u128(2), OrgId::from_u128(3));
        let (mut room, now) = (Room::default(), Instant::now());
        assert!((0..20).all(|number| room.take(row(number), one, MIB, now)));
        assert!(!room.take(row(20), one, MIB, now), "an organisation has its bound");
        assert!(!room.take(row(30), two, 20 * MIB, now), "no room: it is the first to come");
        assert!(!room.take(row(40), three, MIB, now), "and what it needs is kept free");
        for _ in 0..8 {
            room.give_back(one, MIB);
        }
        assert!(!room.take(row(40), three, MIB, now));
        assert!(room.take(row(30), two, 20 * MIB, now), "its turn");
        assert!(!room.take(row(41), three, MIB, now), "all is taken");
        room.give_back(one, MIB);
        assert!(!room.take(row(40), three, MIB, now + KEPT_FOR / 2), "the row before it has not come back yet");
        assert!(room.take(row(40), three, MIB, now + KEPT_FOR), "and did not for too long");
    }

    #[test]
    fn room_comes_back_when_a_place_is_dropped() {
        let room = Arc::new(Mutex::new(Room::default()));
        let org = OrgId::from_u128(1);
        assert!(lock(&room).take(row(1), org, OF_ONE, Instant::now()));
        drop(FileSlot { room: room.clone(), org, bytes: OF_ONE });
        assert!(lock(&room).taken.is_empty());
    }
}
