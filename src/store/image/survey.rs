//! Finds all messages of a damaged log, wherever they lie.
//!
//! sled, and the scan of a sound log, stop at the first damaged message of a segment. The survey
//! looks for the next whole message, byte by byte if need be. A message names its segment, so
//! messages are put back into order even where headers are damaged or blocks of the file are in the
//! wrong place.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt;

use super::ImageError;
use super::message::{self, Header, LogKind, LogMessage, MAX_HEADER, SEGMENT, SEGMENT_HEADER, SegmentHeader};

/// Bytes of each smaller read that is tried where a longer read fails.
const BLOCK: usize = 4096;
/// The most unreadable places that are remembered.
const MOST_UNREADABLE: usize = 1_000;

/// A place that cannot be read from the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Unreadable {
    /// Bytes from the start of the file.
    pub offset: u64,
    pub bytes: u64,
    pub reason: String,
}

/// A run of messages of one segment that follow each other without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub from: u64,
    pub to: u64,
    /// Where the slot that holds the stretch begins.
    slot: u64,
    /// The stretch is attached to the start or the end of its segment, so it is not a copy from
    /// elsewhere.
    is_natural: bool,
}

/// What a survey has found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Stretches by the number of their segment, in the order in which they were written.
    pub stretches: BTreeMap<u64, Vec<Stretch>>,
    /// The slot of each segment whose header is whole.
    pub slots: BTreeMap<u64, u64>,
    /// By page: how far in the log there are damaged messages whose header names the page.
    pub lost_of: BTreeMap<u64, u64>,
    /// How far in the log unidentified messages may be missing; 0 if there are none.
    pub lost_below: u64,
    /// Slots in which neither a header nor a message was found.
    pub blank: usize,
    pub unreadable: Vec<Unreadable>,
}

/// Surveys the whole log.
pub(super) fn survey(log: &File) -> Result<Survey, ImageError> {
    let length = log.metadata().map_err(|error| ImageError::io("asking for the size of", 0, &error))?.len();
    let mut walk = Walk { survey: Survey::default(), window: SurveyWindow::default(), at: 0, gaps: Vec::new() };
    for slot in (0..length).step_by(SEGMENT) {
        walk.window.move_to(log, slot, &mut walk.survey.unreadable);
        walk.look_at(slot, length.min(slot + SEGMENT as u64));
    }
    Ok(walk.end(log))
}

/// Bytes without a message.
#[derive(Debug, Clone, Copy)]
struct Gap {
    segment: u64,
    /// Where the gap ends in the log, as a log sequence number.
    lsn: u64,
    /// Whether the gap is only zeros, up to the end of the slot.
    is_rest: bool,
}

struct Walk {
    survey: Survey,
    window: SurveyWindow,
    /// Where to look next.
    at: u64,
    gaps: Vec<Gap>,
}

impl Walk {
    fn look_at(&mut self, slot: u64, end: u64) {
        self.at = self.at.max(slot);
        let header = if self.at == slot { SegmentHeader::read(self.window.at(slot)) } else { None };
        let own = header.map(|header| header.lsn / SEGMENT as u64);
        if let Some(own) = own {
            self.survey.slots.insert(own, slot);
            self.at += SEGMENT_HEADER as u64;
        }
        let mut is_natural = own.is_some();
        let mut newest = own;
        let mut found = false;
        while self.at < end {
            if let Some(message) = self.window.message(self.at) {
                let (segment, bytes) = (message.segment, message.bytes as u64);
                self.add(segment, bytes, slot, is_natural && own == Some(segment));
                newest = newest.max(Some(segment));
                found = true;
                continue;
            }
            if own.is_some() && self.at - slot > (SEGMENT - MAX_HEADER) as u64 {
                self.close(own, slot);
                self.at = end;
                break;
            }
            if is_natural && let Some((pid, next)) = own.and_then(|own| self.damaged_alone(own, slot)) {
                let lost = self.survey.lost_of.entry(pid).or_default();
                *lost = (*lost).max(own.unwrap_or(0) * SEGMENT as u64 + (next - slot));
                self.at = next;
                continue;
            }
            let begin = self.at;
            self.at = self.window.next_message(self.at + 1, end);
            is_natural = false;
            let is_rest = self.at == end && self.window.is_zero(begin, end);
            if let Some(segment) = newest {
                let lsn = if own == newest { segment * SEGMENT as u64 + (self.at - slot) } else { (segment + 1) * SEGMENT as u64 };
                self.gaps.push(Gap { segment, lsn, is_rest });
            }
        }
        if own.is_none() && !found {
            self.survey.blank += 1;
        }
    }

    fn add(&mut self, segment: u64, bytes: u64, slot: u64, is_natural: bool) {
        let stretches = self.survey.stretches.entry(segment).or_default();
        match stretches.last_mut().filter(|last| last.to == self.at && last.is_natural == is_natural && last.slot == slot) {
            Some(last) => last.to += bytes,
            None => stretches.push(Stretch { from: self.at, to: self.at + bytes, slot, is_natural }),
        }
        self.at += bytes;
    }

    /// Marks the last stretch as natural, because the walk has reached the end of its slot.
    fn close(&mut self, own: Option<u64>, slot: u64) {
        let last = own.and_then(|own| self.survey.stretches.get_mut(&own)).and_then(|stretches| stretches.last_mut());
        if let Some(last) = last.filter(|last| last.to == self.at && last.slot == slot) {
            last.is_natural = true;
        }
    }

    /// Recognises one damaged message with whole messages behind it; returns its page and where it
    /// ends. The bytes within it are not searched: a value may look like a message.
    fn damaged_alone(&self, own: u64, slot: u64) -> Option<(u64, u64)> {
        let header = Header::read(self.window.at(self.at)).filter(|header| header.segment == own)?;
        let next = self.at + header.message_bytes() as u64;
        let fits = match header.kind {
            // A damaged link costs only its own page, whose base is whole. Damage to other kinds
            // may cost more than one page.
            LogKind::Link => {
                next - slot > (SEGMENT - MAX_HEADER) as u64 || self.window.message(next).is_some_and(|next| next.segment == own)
            }
            LogKind::Canceled
            | LogKind::Cap
            | LogKind::BatchManifest
            | LogKind::Free
            | LogKind::Counter
            | LogKind::Meta
            | LogKind::Node => false,
        };
        fits.then_some((header.pid, next))
    }

    fn end(self, log: &File) -> Survey {
        let Self { mut survey, gaps, .. } = self;
        let last = survey.stretches.keys().chain(survey.slots.keys()).max().copied();
        // The last segment is not full. Neither is a segment that ended with a tear before the log
        // went on.
        let lost = gaps.iter().filter(|gap| !(gap.is_rest && Some(gap.segment) == last));
        survey.lost_below = lost.map(|gap| gap.lsn).max().unwrap_or(0);
        let Survey { stretches, slots, .. } = &mut survey;
        for (segment, found) in stretches {
            let own = slots.get(segment).copied();
            if found.len() > 1 {
                drop_copies(log, found);
            }
            found.sort_by_key(|stretch| (Some(stretch.slot) != own, stretch.from));
        }
        survey
    }
}

/// Removes stretches all of whose messages are in other stretches, too.
fn drop_copies(log: &File, found: &mut Vec<Stretch>) {
    let mut of: Vec<HashSet<u64>> = found.iter().map(|stretch| digests(log, stretch)).collect();
    for natural in [false, true] {
        let mut at = 0;
        while at < found.len() {
            let is_elsewhere = |digest: &u64| of.iter().enumerate().any(|(other, digests)| other != at && digests.contains(digest));
            // The first stretch that is in its place stays, even if others look the same.
            let is_first = found[at].is_natural && !found[..at].iter().any(|before| before.is_natural);
            let is_copy = found[at].is_natural == natural && !is_first && of[at].iter().all(is_elsewhere);
            if is_copy {
                found.remove(at);
                of.remove(at);
            } else {
                at += 1;
            }
        }
    }
}

fn digests(log: &File, stretch: &Stretch) -> HashSet<u64> {
    let mut digests = HashSet::new();
    each_message(log, stretch, |_, message| {
        let mut digest = DefaultHasher::new();
        (message.pid, message.body).hash(&mut digest);
        digests.insert(digest.finish());
    });
    digests
}

/// Calls `each` with every message of a stretch and where it begins.
pub(super) fn each_message(log: &File, stretch: &Stretch, mut each: impl FnMut(u64, &LogMessage<'_>)) {
    let mut window = SurveyWindow::default();
    // Unreadable places are known from the survey already.
    let mut unreadable = Vec::new();
    let mut at = stretch.from;
    while at < stretch.to {
        if !window.has(at) {
            window.move_to(log, at, &mut unreadable);
        }
        let Some(message) = window.message(at) else { break };
        each(at, &message);
        at += message.bytes as u64;
    }
}

impl Stretch {
    /// Where a message of this stretch is within its segment, if that is known.
    pub fn within(&self, slot: Option<u64>, at: u64) -> Option<u64> {
        (slot == Some(self.slot)).then(|| at - self.slot)
    }
}

/// A window of two segments of the file, so that each message that begins in the first half is
/// whole.
#[derive(Debug, Default)]
struct SurveyWindow {
    start: u64,
    bytes: Vec<u8>,
}

impl SurveyWindow {
    fn move_to(&mut self, log: &File, start: u64, unreadable: &mut Vec<Unreadable>) {
        let known = start.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok()).filter(|skip| *skip <= self.bytes.len());
        match known {
            Some(skip) => drop(self.bytes.drain(..skip)),
            None => self.bytes.clear(),
        }
        self.start = start;
        while self.bytes.len() < 2 * SEGMENT {
            let more = read_what_can_be(log, start + self.bytes.len() as u64, unreadable);
            if more.is_empty() {
                break;
            }
            self.bytes.extend(more);
        }
    }

    /// Whether the window holds all of a message that begins at `at`.
    fn has(&self, at: u64) -> bool {
        at >= self.start && at < self.start + SEGMENT as u64 && !self.bytes.is_empty()
    }

    fn at(&self, at: u64) -> &[u8] {
        let skip = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok()).unwrap_or(usize::MAX);
        let rest = self.bytes.get(skip..).unwrap_or_default();
        &rest[..rest.len().min(SEGMENT)]
    }

    fn message(&self, at: u64) -> Option<LogMessage<'_>> {
        message::read(self.at(at))
    }

    /// Where the next message begins; `end` if no message begins before that.
    fn next_message(&self, from: u64, end: u64) -> u64 {
        (from..end).find(|at| self.message(*at).is_some()).unwrap_or(end)
    }

    fn is_zero(&self, from: u64, end: u64) -> bool {
        let length = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        self.at(from).iter().take(length).all(|byte| *byte == 0)
    }
}

/// Reads up to a segment from `offset` on; nothing at the end of the file. Unreadable bytes are
/// zero.
fn read_what_can_be(log: &File, offset: u64, unreadable: &mut Vec<Unreadable>) -> Vec<u8> {
    match super::scan::read_segment(log, offset) {
        Ok(segment) => return segment,
        Err(ImageError::Io { .. } | ImageError::Page { .. }) => {}
    }
    let length = log.metadata().map_or(0, |metadata| metadata.len());
    let end = length.min(offset + SEGMENT as u64);
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
    for (block, at) in bytes.chunks_mut(BLOCK).zip((offset..).step_by(BLOCK)) {
        if let Err(error) = log.read_exact_at(block, at) {
            block.fill(0);
            let size = block.len() as u64;
            if let Some(last) = unreadable.last_mut().filter(|last| last.offset + last.bytes == at) {
                last.bytes += size;
            } else if unreadable.len() < MOST_UNREADABLE {
                unreadable.push(Unreadable { offset: at, bytes: size, reason: error.to_string() });
            }
        }
    }
    bytes
}
