//! The recordings that rows name, which are sent beside the body of a call: uploaded files, content in
//! the row itself, and content that is fetched from a URL when its row is sent.
//!
//! A recording is in memory for as long as its call takes, within the bounds of a [`FileRoom`]. A row
//! for which there is no room comes back later.

use bytes::Bytes;
use http::Uri;

use super::attachments::{Incomplete, content, find, unreadable};
use super::file_room::{FileRoom, FileSlot};
use crate::domain::id::{FileId, OrgId, RowKey};
use crate::domain::row::audio::{DataUrl, Recording, has_ending, labelled};
use crate::domain::time::Clock;
use crate::provider::CallFile;
use crate::provider::fetch::{FetchError, Fetcher};
use crate::store::{Store, blocking};

/// Room that must be free before a server is asked for a recording, whose size is known only then.
const AT_LEAST: u64 = 64 << 10;

/// How large recordings may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordingLimits {
    /// Bytes of one recording.
    pub max_bytes: u64,
    /// Bytes of all recordings at one time.
    pub at_once: u64,
}

impl RecordingLimits {
    /// Bytes of the recordings of one organisation at one time: some room is left to others.
    const fn of_one_org(self) -> u64 {
        self.at_once - self.at_once / 4
    }
}

/// Gets recordings for rows.
#[derive(Clone)]
pub struct Recordings {
    store: Store,
    clock: Clock,
    fetcher: Fetcher,
    room: FileRoom,
    max_bytes: u64,
}

/// A recording, and the room that it takes for as long as this lives.
pub struct HeldRecording {
    pub file: CallFile,
    _slot: FileSlot,
}

impl HeldRecording {
    fn new(file: CallFile, mut slot: FileSlot) -> Self {
        slot.shrink_to(file.content.len() as u64);
        Self { file, _slot: slot }
    }
}

impl Recordings {
    pub fn new(store: Store, clock: Clock, fetcher: Fetcher, limits: RecordingLimits) -> Self {
        Self { store, clock, fetcher, room: FileRoom::new(limits.at_once, limits.of_one_org()), max_bytes: limits.max_bytes }
    }

    /// Gets the recording that the body of a row names.
    ///
    /// # Errors
    /// When it is missing or too large, cannot be read or fetched, or there is no room.
    pub async fn get(&self, body: &Bytes, row: RowKey, org: OrgId) -> Result<HeldRecording, Incomplete> {
        let text = std::str::from_utf8(body).unwrap_or_default();
        // Validation has read it; only a file that has changed since has another one.
        match Recording::of(text).map_err(|fault| Incomplete::Unusable(fault.message))? {
            Recording::At(url) => self.fetched(&url, row, org).await,
            Recording::Uploaded(id) => {
                let this = self.clone();
                blocking(move || Ok(this.uploaded(id, row, org))).await.map_err(|error| unreadable("of a row", &error))?
            }
            Recording::Inline(url) => self.inline(&url, row, org),
        }
    }

    fn uploaded(&self, id: FileId, row: RowKey, org: OrgId) -> Result<HeldRecording, Incomplete> {
        let file = find(&self.store, (id, &id.to_string()), org, self.clock.now())?;
        if file.bytes > self.max_bytes {
            return Err(self.too_large());
        }
        let slot = self.room.take(row, org, file.bytes).ok_or(Incomplete::NotNow)?;
        let content = content(&self.store, &file, &id.to_string())?;
        Ok(HeldRecording::new(named(&file.filename, file.media_type(), content), slot))
    }

    fn inline(&self, url: &DataUrl<'_>, row: RowKey, org: OrgId) -> Result<HeldRecording, Incomplete> {
        if url.max_bytes() > self.max_bytes {
            return Err(self.too_large());
        }
        let slot = self.room.take(row, org, url.max_bytes()).ok_or(Incomplete::NotNow)?;
        let content = url.decoded().ok_or_else(|| Incomplete::Unusable("the recording in `file_url` is not base 64".to_owned()))?;
        Ok(HeldRecording::new(named("", &url.mime, content), slot))
    }

    async fn fetched(&self, url: &Uri, row: RowKey, org: OrgId) -> Result<HeldRecording, Incomplete> {
        let first = self.room.take(row, org, AT_LEAST).ok_or(Incomplete::NotNow)?;
        let mut slot = None;
        let make_room = |bytes| {
            drop(first);
            slot = self.room.take(row, org, bytes);
            slot.is_some()
        };
        match (self.fetcher.get(url, self.max_bytes, make_room).await, slot) {
            (Ok(fetched), Some(slot)) => {
                let [asked, last] = &fetched.paths;
                let path = if has_ending(asked) { asked } else { last };
                Ok(HeldRecording::new(named(path, &fetched.mime, fetched.content), slot))
            }
            (Ok(_) | Err(FetchError::NoRoom), _) => Err(Incomplete::NotNow),
            (Err(error), _) => {
                let hint = match error {
                    FetchError::Unwanted(_) => "; `file_url_targets` says what may be called",
                    FetchError::TooLarge(_) => ", the most that `max_audio_bytes` allows",
                    _ => "",
                };
                let message = format!("the recording at `file_url` cannot be fetched: {error}{hint}");
                Err(if error.may_pass() { Incomplete::Unreachable(message) } else { Incomplete::Unusable(message) })
            }
        }
    }

    fn too_large(&self) -> Incomplete {
        Incomplete::Unusable(format!("the recording has more than {} bytes, the most that `max_audio_bytes` allows", self.max_bytes))
    }
}

fn named(name: &str, mime: &str, content: Vec<u8>) -> CallFile {
    let (name, mime) = labelled(name, mime);
    CallFile { name, mime, content: Bytes::from(content) }
}
