//! Finds all messages of a damaged log, wherever they lie.
//!
//! sled, and the scan of a sound log, stop at the first damaged message of a segment. The survey
//! looks for the next whole message, byte by byte if need be. A message names its segment, so
//! messages are put back into order even where headers are damaged or blocks of the file are in the
//! wrong place.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::ImageError;
use super::message::{Header, LogKind, LogMessage, MAX_HEADER, SEGMENT, SEGMENT_HEADER, SegmentHeader};
use super::node::Node;
use super::window::{SurveyWindow, Unreadable};

/// Messages of one segment that follow each other without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub from: u64,
    pub to: u64,
    /// Stretches of the same run follow each other, too: between them are only damaged changes of
    /// pages in [`Survey::lost_of`].
    pub run: u32,
    /// Where in the file the segment of this stretch begins, as far as is known; a copy of the end
    /// of a segment may lie close to the start of the file.
    origin: Option<i64>,
    /// The run begins behind the header of its segment.
    pub is_head: bool,
    /// Where in its segment the stretch begins: as its origin says, but behind all that comes
    /// before it. So what is later in the log has a higher place, even if an origin is wrong.
    pub begin: u64,
    end: End,
}

/// What follows a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Bytes that are no message of the segment.
    Torn,
    /// Zeros, up to the end of the slot.
    Zeros,
    /// The segment ends here.
    Segment,
}

/// What a survey has found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Stretches by the number of their segment, in the order in which they were written.
    pub stretches: BTreeMap<u64, Vec<Stretch>>,
    /// By page: how far in the log there are damaged messages whose header names the page.
    pub lost_of: BTreeMap<u64, u64>,
    /// By page: where in the log whole forms, or ends, of the page are damaged, whose header names it.
    pub lost_forms: BTreeMap<u64, Vec<u64>>,
    /// How far in the log whole forms or ends of pages are damaged, or messages of any page may be
    /// missing; 0 if neither is so.
    pub lost_below: u64,
    /// How far in the log messages of any page may be missing.
    pub unknown_below: u64,
    /// Whether segments that are not there may be lost. Otherwise they were freed: all that they
    /// said was said again, later.
    pub are_absent_lost: bool,
    pub unreadable: Vec<Unreadable>,
}

/// Surveys the whole log. Of a segment that is whole, only that one copy counts; of any other, what
/// is behind its header comes first, what its cap ends comes last, and all else comes in between.
pub(super) fn survey(log: &File) -> Result<Survey, ImageError> {
    let length = log.metadata().map_err(|error| ImageError::io("asking for the size of", 0, &error))?.len();
    let mut walk = Walk::default();
    for slot in (0..length).step_by(SEGMENT) {
        walk.window.move_to(log, slot, &mut walk.survey.unreadable);
        walk.look_at(slot, length.min(slot + SEGMENT as u64));
    }
    Ok(walk.end(log, length))
}

/// A header of a segment, and where it is in the file.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    segment: u64,
    at: u64,
}

#[derive(Default)]
struct Walk {
    survey: Survey,
    window: SurveyWindow,
    /// Where to look next.
    at: u64,
    /// The header that was found last, while its segment has not ended.
    anchor: Option<Anchor>,
    /// Everything since that header was read.
    is_head: bool,
    run: u32,
    /// The segments whose headers were found.
    headers: BTreeSet<u64>,
    /// Slots in which nothing was found, or what is elsewhere, too: in its place something is
    /// lost.
    blank: usize,
}

impl Walk {
    fn look_at(&mut self, slot: u64, end: u64) {
        self.at = self.at.max(slot);
        let mut found = self.at > slot;
        while self.at < end {
            if let Some(header) = SegmentHeader::read(self.window.at(self.at)) {
                let segment = header.lsn / SEGMENT as u64;
                self.blank += usize::from(!self.headers.insert(segment));
                self.anchor = Some(Anchor { segment, at: self.at });
                self.is_head = true;
                self.run += 1;
                self.at += SEGMENT_HEADER as u64;
                self.add(segment, 0, None);
                found = true;
                continue;
            }
            self.anchor = self.anchor.filter(|anchor| self.at - anchor.at < SEGMENT as u64);
            if let Some(message) = self.window.message(self.at) {
                let (segment, bytes) = (message.segment, message.bytes as u64);
                let cap = (message.kind == LogKind::Cap).then_some(message.body.len());
                self.add(segment, bytes, cap);
                found = true;
                continue;
            }
            if !self.pass_damaged() {
                self.pass_gap(end);
            }
        }
        self.blank += usize::from(!found);
    }

    fn add(&mut self, segment: u64, bytes: u64, cap: Option<usize>) {
        let own = self.anchor.filter(|anchor| anchor.segment == segment);
        if self.is_head && own.is_none() {
            self.is_head = false;
            self.run += 1;
        }
        let (at, run, is_head) = (self.at, self.run, self.is_head);
        self.at += bytes;
        let stretches = self.survey.stretches.entry(segment).or_default();
        match stretches.last_mut().filter(|last| last.to == at && last.run == run) {
            Some(last) => last.to = self.at,
            None => {
                let origin = own.and_then(|own| i64::try_from(own.at).ok());
                stretches.push(Stretch { from: at, to: self.at, run, origin, is_head, begin: 0, end: End::Torn });
            }
        }
        let Some(last) = stretches.last_mut() else { return };
        if let Some(length) = cap {
            // A cap says how much of its segment is left, and so where the segment begins.
            let begin = length + MAX_HEADER;
            last.origin = i64::try_from(at).ok().zip(i64::try_from(begin).ok()).map(|(at, left)| at + left - SEGMENT as i64);
        }
        if cap.is_some() || own.is_some_and(|own| is_head && self.at - own.at > (SEGMENT - MAX_HEADER) as u64) {
            last.end = End::Segment;
            self.is_head = false;
            self.run += 1;
        }
    }

    /// Passes one damaged message if it is certain which page it is about. The bytes within it are
    /// not searched: a value may look like a message.
    fn pass_damaged(&mut self) -> bool {
        let Some(own) = self.anchor.filter(|_| self.is_head) else { return false };
        let Some((header, next)) = self.damaged_alone(own) else { return false };
        let base = own.segment.saturating_mul(SEGMENT as u64);
        let (lsn, next_lsn) = (base.saturating_add(self.at - own.at), base.saturating_add(next - own.at));
        match header.kind {
            LogKind::Link => {
                let lost = self.survey.lost_of.entry(header.pid).or_default();
                *lost = (*lost).max(next_lsn);
            }
            // What a whole page said may concern more than that page: the keys of a page that it
            // took in, say.
            LogKind::Node | LogKind::Free => {
                self.survey.lost_forms.entry(header.pid).or_default().push(lsn);
                self.survey.lost_below = self.survey.lost_below.max(next_lsn);
            }
            // These say nothing of keys.
            LogKind::Cap => {
                let last = self.survey.stretches.get_mut(&own.segment).and_then(|stretches| stretches.last_mut());
                last.into_iter().for_each(|last| last.end = End::Segment);
                self.is_head = false;
                self.run += 1;
            }
            LogKind::Canceled | LogKind::BatchManifest | LogKind::Counter | LogKind::Meta => {}
        }
        self.at = next;
        true
    }

    /// Recognises one damaged message, with whole messages behind it; returns its header and where
    /// it ends.
    fn damaged_alone(&self, own: Anchor) -> Option<(Header, u64)> {
        let bytes = self.window.at(self.at);
        let is_own = |header: &Header| header.segment == own.segment;
        if let Some(header) = Header::mended(bytes) {
            return Some((header, self.at + header.message_bytes() as u64)).filter(|(header, _)| is_own(header));
        }
        // More is damaged than a bit, or the damage is far behind the header.
        let header = Header::read(bytes).filter(is_own)?;
        let next = self.at + header.message_bytes() as u64;
        // A cap fills its segment to the end, and most of the bytes of one that follows a kill.
        if header.kind == LogKind::Cap && self.at - own.at + header.cap_bytes() == SEGMENT as u64 {
            return Some((header, next));
        }
        let is_page = match header.kind {
            LogKind::Link => true,
            LogKind::Node => Node::begins(header.body(bytes)),
            LogKind::Canceled | LogKind::Cap | LogKind::BatchManifest | LogKind::Free | LogKind::Counter | LogKind::Meta => false,
        };
        (is_page && self.window.message(next).is_some_and(|next| next.segment == own.segment)).then_some((header, next))
    }

    fn pass_gap(&mut self, end: u64) {
        let begin = self.at;
        self.at = self.window.next_found(self.at + 1, end);
        self.is_head = false;
        self.run += 1;
        let is_rest = self.at == end && self.window.is_zero(begin, end);
        let last = self.anchor.and_then(|own| self.survey.stretches.get_mut(&own.segment)?.last_mut());
        if let Some(last) = last.filter(|last| is_rest && last.to == begin && last.end == End::Torn) {
            last.end = End::Zeros;
        }
    }

    fn end(self, log: &File, length: u64) -> Survey {
        let Self { mut survey, blank, .. } = self;
        let last = survey.stretches.keys().max().copied().unwrap_or(0);
        for (segment, found) in &mut survey.stretches {
            put_in_order(log, found);
            give_places(found);
            let base = segment.saturating_mul(SEGMENT as u64);
            let lost = lost_within(found, *segment == last).map_or(0, |within| base.saturating_add(within));
            survey.unknown_below = survey.unknown_below.max(lost);
        }
        // Missing segments were freed, or are lost: in blank slots, or behind the end of the file.
        let cut_slot = length / SEGMENT as u64 * SEGMENT as u64;
        let is_last_there = survey.stretches.get(&last).is_some_and(|found| found.iter().any(|stretch| stretch.to > cut_slot));
        let is_cut = cut_slot < length && !is_last_there;
        let is_unexplained = survey.unknown_below == 0 && survey.lost_below == 0;
        survey.are_absent_lost = blank > 0 || is_cut || is_unexplained;
        if survey.are_absent_lost
            && let Some(missing) = (0..last).rev().find(|number| !survey.stretches.contains_key(number))
        {
            survey.unknown_below = survey.unknown_below.max((missing + 1).saturating_mul(SEGMENT as u64));
        }
        survey.lost_below = survey.lost_below.max(survey.unknown_below);
        survey
    }
}

/// Puts the stretches of a segment into the order in which they were written, and removes copies.
fn put_in_order(log: &File, found: &mut Vec<Stretch>) {
    let bytes_of = |run: u32| found.iter().filter(|other| other.run == run).map(|other| other.to - other.from).sum::<u64>();
    let longest = |is_it: &dyn Fn(&Stretch) -> bool| {
        found
            .iter()
            .filter(|stretch| is_it(stretch))
            .map(|stretch| (bytes_of(stretch.run), std::cmp::Reverse(stretch.run)))
            .max()
            .map(|(_, run)| run.0)
    };
    let head = longest(&|stretch| stretch.is_head);
    let tail = longest(&|stretch| stretch.end == End::Segment);
    // All that lies elsewhere are copies.
    let whole = longest(&|stretch| stretch.is_head && stretch.end == End::Segment);
    if whole.is_some() {
        found.retain(|stretch| Some(stretch.run) == whole);
        return;
    }
    drop_copies(log, found, head, tail);
    let place = |stretch: &Stretch| (Some(stretch.run) != head, Some(stretch.run) == tail, stretch.origin.is_none(), stretch.from);
    found.sort_by_key(place);
    // What looks like another head was copied there from a place that is not known.
    found.iter_mut().for_each(|stretch| stretch.is_head &= Some(stretch.run) == head);
}

/// Says where the stretches of a segment, which are in order, begin.
fn give_places(found: &mut [Stretch]) {
    let mut next = SEGMENT_HEADER as u64;
    for stretch in found {
        stretch.begin = stretch.said_begin().unwrap_or(next).max(next);
        next = stretch.begin + (stretch.to - stretch.from);
    }
}

/// How far in a segment messages are missing; `None` if none are.
fn lost_within(found: &[Stretch], is_last: bool) -> Option<u64> {
    let Some(last) = found.last() else { return Some(SEGMENT as u64) };
    let first = found.iter().find(|stretch| stretch.run == last.run).unwrap_or(last);
    let begin = if first.origin.is_some() { first.begin } else { SEGMENT as u64 };
    match last.end {
        End::Segment | End::Zeros if first.is_head && (is_last || last.end == End::Segment) => None,
        End::Segment => Some(begin),
        // The last segment is not full.
        End::Zeros if is_last => Some(begin),
        // Nor is a segment that ended with a tear before the log went on; damage looks the same.
        End::Zeros | End::Torn => Some(SEGMENT as u64),
    }
}

/// Removes stretches all of whose messages are in other stretches, too, except those that are
/// certainly in their place.
fn drop_copies(log: &File, found: &mut Vec<Stretch>, head: Option<u32>, tail: Option<u32>) {
    let mut of: Vec<HashSet<u64>> = found.iter().map(|stretch| digests(log, stretch)).collect();
    let mut at = 0;
    while at < found.len() {
        let is_elsewhere = |digest: &u64| of.iter().enumerate().any(|(other, digests)| other != at && digests.contains(digest));
        let is_placed = [head, tail].contains(&Some(found[at].run));
        if !is_placed && of[at].iter().all(is_elsewhere) {
            found.remove(at);
            of.remove(at);
        } else {
            at += 1;
        }
    }
}

fn digests(log: &File, stretch: &Stretch) -> HashSet<u64> {
    let mut digests = HashSet::new();
    each_message(log, stretch, |_, message| {
        let mut digest = DefaultHasher::new();
        (message.kind as u8, message.pid, message.body).hash(&mut digest);
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
    /// Where in its segment the stretch begins, by its origin.
    fn said_begin(&self) -> Option<u64> {
        let within = i64::try_from(self.from).ok()?.checked_sub(self.origin?)?;
        u64::try_from(within).ok()
    }

    /// Whether the segment ends with this stretch.
    pub fn ends_segment(&self) -> bool {
        self.end == End::Segment
    }
}
