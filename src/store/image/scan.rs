//! Builds the table of pages from the log: which messages make up each page, up to where the log
//! counts.
//!
//! The rules are those of sled's own recovery (0.34.7, `pagecache/iterator.rs` and `snapshot.rs`),
//! with one exception: sled takes a failed read for the end of the log, but here it is an error.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::message::{self, LogKind, LogMessage, MAX_HEADER, SEGMENT, SEGMENT_HEADER, SegmentHeader};
use super::{ImageError, ImageFault, What};

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogPlace {
    /// The message's log sequence number.
    pub lsn: u64,
    /// Where the message begins in the file.
    pub offset: u64,
    /// Bytes of the message with its header.
    pub bytes: usize,
}

/// The messages that make up a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum PageState {
    /// Nothing is known of the page.
    #[default]
    Unknown,
    Free(LogPlace),
    /// The whole page, and the changes since then, the oldest first.
    Present(LogPlace, Vec<LogPlace>),
}

/// The findings of a scan.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// By page id.
    pub pages: Vec<PageState>,
    /// The log sequence number just behind the last message that counts.
    pub tip: u64,
    /// Where the segments are in the file, by the log sequence number of their first byte.
    pub segments: BTreeMap<u64, u64>,
    /// Damage that was found.
    pub faults: Vec<ImageFault>,
    /// The log sequence numbers at which the last batches begin, whether they were finished or
    /// given up; the last batch first.
    pub batches: VecDeque<u64>,
}

/// The most pages of a log: each takes a message of at least eight bytes. Limits the table that a
/// damaged page id could ask for, if its checksum happens to fit.
pub(super) const MAX_PAGE: u64 = 1 << 32;

/// How many batches are remembered.
const BATCHES: usize = 16;

/// Reads the whole log, or only the messages before `limit`, a log sequence number.
pub(super) fn scan(log: &File, limit: Option<u64>) -> Result<Scan, ImageError> {
    let mut scan = Scan::default();
    let max_stable = scan.read_headers(log)?;
    let end = scan.find_end(log, max_stable)?;
    let end = limit.map_or(end, |limit| limit.min(end));
    scan.read_pages(log, end)?;
    Ok(scan)
}

impl Scan {
    /// Finds the segments; returns how far the log was certainly on disk.
    fn read_headers(&mut self, log: &File) -> Result<i64, ImageError> {
        let length = log.metadata().map_err(|error| ImageError::io("asking for the size of", 0, &error))?.len();
        let mut max_stable = -1;
        let mut header = [0; SEGMENT_HEADER];
        for offset in (0..length).step_by(SEGMENT).filter(|offset| length - offset >= SEGMENT_HEADER as u64) {
            read_exact(log, &mut header, offset)?;
            match SegmentHeader::read(&header) {
                Some(found) => {
                    max_stable = max_stable.max(found.max_stable);
                    if let Some(other) = self.segments.insert(found.lsn, offset) {
                        self.fault(other, What::Twice);
                    }
                }
                // Never written, or freed by a recovery.
                None if header == [0; SEGMENT_HEADER] => {}
                None => self.fault(offset, What::Header),
            }
        }
        Ok(max_stable)
    }

    /// Finds where the log stops being continuous, exclusive: beyond the part that was certainly on
    /// disk, segments must follow each other and each message must be whole.
    fn find_end(&mut self, log: &File, max_stable: i64) -> Result<u64, ImageError> {
        let stable = u64::try_from(max_stable).unwrap_or(0) / SEGMENT as u64 * SEGMENT as u64;
        // The last segment that was certainly on disk may have held nothing that still counts; sled
        // frees such segments when it opens.
        let mut expected = self.segments.range(stable..).next().map_or(stable, |(lsn, _)| *lsn);
        let mut end = expected;
        while let Some(offset) = self.segments.get(&expected).copied() {
            let segment = read_segment(log, offset)?;
            let mut messages = Messages::new(&segment, expected);
            while messages.next().is_some() {}
            end = expected + messages.at as u64;
            if messages.is_torn {
                break;
            }
            // The next segment follows behind the end of this one, even where a cap ended this one
            // early.
            expected += SEGMENT as u64;
            end = if self.segments.contains_key(&expected) { expected } else { end };
        }
        Ok(end)
    }

    fn read_pages(&mut self, log: &File, end: u64) -> Result<(), ImageError> {
        self.tip = end;
        for (lsn, offset) in self.segments.clone() {
            if lsn >= end {
                break;
            }
            let segment = read_segment(log, offset)?;
            let mut messages = Messages::new(&segment, lsn);
            while let Some((at, message)) = messages.next() {
                let place = LogPlace { lsn: lsn + at as u64, offset: offset + at as u64, bytes: message.bytes };
                if place.lsn >= end {
                    return Ok(());
                }
                if matches!(message.kind, LogKind::BatchManifest | LogKind::Canceled) {
                    self.batches.truncate(BATCHES - 1);
                    self.batches.push_front(place.lsn);
                }
                if message.kind == LogKind::BatchManifest && manifest(&message).is_none_or(|last| last >= end) {
                    // An incomplete batch does not count, and neither does anything behind it.
                    self.tip = place.lsn;
                    return Ok(());
                }
                self.apply(&message, place);
            }
            let rest = &segment[messages.at.min(segment.len())..];
            if messages.is_torn && rest.iter().any(|byte| *byte != 0) && lsn + messages.at as u64 != end {
                self.fault(offset + messages.at as u64, What::Message);
            }
        }
        Ok(())
    }

    fn apply(&mut self, message: &LogMessage<'_>, place: LogPlace) {
        match message.kind {
            LogKind::Canceled | LogKind::Cap | LogKind::BatchManifest => return,
            LogKind::Free | LogKind::Counter | LogKind::Meta | LogKind::Node | LogKind::Link => {}
        }
        let Some(index) = Some(message.pid).filter(|pid| *pid < MAX_PAGE).and_then(|pid| usize::try_from(pid).ok()) else {
            return self.fault(place.offset, What::Message);
        };
        if message.kind == LogKind::Link {
            // A page may have been written whole in a later segment than its first changes.
            if let Some(PageState::Present(whole, changes)) = self.pages.get_mut(index)
                && changes.last().unwrap_or(whole).lsn < place.lsn
            {
                changes.push(place);
            }
            return;
        }
        if self.pages.len() <= index {
            self.pages.resize(index + 1, PageState::Unknown);
        }
        self.pages[index] = if message.kind == LogKind::Free { PageState::Free(place) } else { PageState::Present(place, Vec::new()) };
    }

    fn fault(&mut self, offset: u64, what: What) {
        self.faults.push(ImageFault { offset, what });
    }
}

/// The messages of a segment, up to the first place without a valid message.
struct Messages<'a> {
    segment: &'a [u8],
    number: u64,
    /// Where the next message begins.
    at: usize,
    /// No valid message was found at `at`: the log ends here, or it is damaged.
    is_torn: bool,
}

impl<'a> Messages<'a> {
    fn new(segment: &'a [u8], lsn: u64) -> Self {
        Self { segment, number: lsn / SEGMENT as u64, at: SEGMENT_HEADER, is_torn: false }
    }

    fn next(&mut self) -> Option<(usize, LogMessage<'a>)> {
        if self.is_torn || self.at > SEGMENT - MAX_HEADER {
            return None;
        }
        let found = self.segment.get(self.at..).and_then(message::read).filter(|message| message.segment == self.number);
        let Some(message) = found else {
            self.is_torn = true;
            return None;
        };
        let at = self.at;
        self.at = if message.kind == LogKind::Cap { SEGMENT } else { at + message.bytes };
        Some((at, message))
    }
}

/// The last log sequence number of a batch.
fn manifest(message: &LogMessage<'_>) -> Option<u64> {
    u64::try_from(i64::from_le_bytes(message.body.try_into().ok()?)).ok()
}

pub(super) fn read_segment(log: &File, offset: u64) -> Result<Vec<u8>, ImageError> {
    let mut segment = vec![0; SEGMENT];
    let mut filled = 0;
    while filled < SEGMENT {
        match log.read_at(&mut segment[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ImageError::io("reading", offset + filled as u64, &error)),
        }
    }
    segment.truncate(filled);
    Ok(segment)
}

pub(super) fn read_exact(log: &File, buffer: &mut [u8], offset: u64) -> Result<(), ImageError> {
    log.read_exact_at(buffer, offset).map_err(|error| ImageError::io("reading", offset, &error))
}
