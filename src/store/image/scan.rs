//! From the log to the table of pages: which messages make up each page, up to where the log counts.
//!
//! The rules are those of sled's own recovery (0.34.7, `pagecache/iterator.rs` and `snapshot.rs`), but
//! for one: sled takes a read that fails for the end of the log. Here it is an error.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::message::{self, LogKind, LogMessage, MAX_HEADER, SEGMENT, SEGMENT_HEADER, SegmentHeader};
use super::{ImageError, ImageFault, What};

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogPlace {
    /// Its log sequence number.
    pub lsn: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes with its header.
    pub bytes: usize,
}

/// What a page consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum PageState {
    /// Nothing is known of it.
    #[default]
    Unknown,
    Free(LogPlace),
    /// The whole page, and the changes since, the oldest first.
    Present(LogPlace, Vec<LogPlace>),
}

/// What a scan has found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// By page id.
    pub pages: Vec<PageState>,
    /// Behind the last message that counts; in log sequence numbers.
    pub tip: u64,
    /// Where the segments are, by the number of their first byte.
    pub segments: BTreeMap<u64, u64>,
    /// What is not as it should be.
    pub faults: Vec<ImageFault>,
    /// Where the last batches begin, whether they were finished or given up; in log sequence numbers,
    /// the last one first.
    pub batches: VecDeque<u64>,
}

/// The most pages of a log: each takes a message of eight bytes at least. Bounds the table that a damaged,
/// but by chance well-summed, page id could ask for.
pub(super) const MAX_PAGE: u64 = 1 << 32;

/// Batches that are remembered.
const BATCHES: usize = 16;

/// Reads the whole log, or what was written before `limit`, a log sequence number.
pub(super) fn scan(log: &File, limit: Option<u64>) -> Result<Scan, ImageError> {
    let mut scan = Scan::default();
    let max_stable = scan.read_headers(log)?;
    let end = scan.find_end(log, max_stable)?;
    let end = limit.map_or(end, |limit| limit.min(end));
    scan.read_pages(log, end)?;
    Ok(scan)
}

impl Scan {
    /// Finds the segments; returns up to where the log was on disk for certain.
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

    /// Up to where the log goes on without a gap, exclusive: beyond what was on disk for certain, segments
    /// follow each other and each message is whole.
    fn find_end(&mut self, log: &File, max_stable: i64) -> Result<u64, ImageError> {
        let stable = u64::try_from(max_stable).unwrap_or(0) / SEGMENT as u64 * SEGMENT as u64;
        // The last segment that was on disk for certain may have had nothing in it that counts any more; sled frees
        // such segments when it opens.
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
            // The next one follows behind the end of this one, also where a cap has ended it early.
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
                    // A batch that is not whole does not count, and nothing behind it.
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

/// The messages of a segment, until one is no message.
struct Messages<'a> {
    segment: &'a [u8],
    number: u64,
    /// Where the next one begins.
    at: usize,
    /// The last one was none: the log ends here, or it is damaged.
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
