//! Reads a damaged log for [`super::survey`], a part at a time, around what cannot be read.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::ImageError;
use super::message::{self, LogMessage, SEGMENT, SegmentHeader};

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

/// A window of two segments of the file, so that each message that begins in the first half is
/// whole.
#[derive(Debug, Default)]
pub(super) struct SurveyWindow {
    start: u64,
    bytes: Vec<u8>,
}

impl SurveyWindow {
    /// Moves the window to `start`, and adds what cannot be read there to `unreadable`.
    pub fn move_to(&mut self, log: &File, start: u64, unreadable: &mut Vec<Unreadable>) {
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
    pub fn has(&self, at: u64) -> bool {
        at >= self.start && at < self.start + SEGMENT as u64 && !self.bytes.is_empty()
    }

    /// The bytes from `at` on, at most those of a segment.
    pub fn at(&self, at: u64) -> &[u8] {
        let skip = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok()).unwrap_or(usize::MAX);
        let rest = self.bytes.get(skip..).unwrap_or_default();
        &rest[..rest.len().min(SEGMENT)]
    }

    /// The message that begins at `at`, if it is whole.
    pub fn message(&self, at: u64) -> Option<LogMessage<'_>> {
        message::read(self.at(at))
    }

    /// Where the next message or header begins; `end` if none begins before that.
    pub fn next_found(&self, from: u64, end: u64) -> u64 {
        let is_found = |at: &u64| self.message(*at).is_some() || SegmentHeader::read(self.at(*at)).is_some();
        (from..end).find(is_found).unwrap_or(end)
    }

    /// Whether the bytes between two places are all zero.
    pub fn is_zero(&self, from: u64, end: u64) -> bool {
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
