//! Results of rows: packing them for the writer, and reading them back as the lines of a file.
//!
//! Output and error files are never written anywhere: they are read from the results, in input
//! order, from any byte on. Only rows that are durable are ever read.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::format;
use super::record;
use super::record::answer::AnswerRecord;
use super::record::page::Page;
use super::record::result::{self, Stored};
use super::{ROWS_PER_PAGE, Store, StoreError};
use crate::domain::dedup::RequestDigest;
use crate::domain::file::ResultPart;
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::output;
use crate::domain::row::RowResult;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

/// Bytes that [`Lines::next_chunk`] aims at; one line may be larger.
const CHUNK: usize = 512 << 10;
/// Rows of another part that are read over before it pays to look up the next wanted one.
const SKIP: u32 = 16;

/// A thread's buffer for measuring lines is not kept larger than this.
const LINE_KEPT: usize = 256 << 10;

/// A half-open range of bytes.
pub type ByteRange = Range<u64>;

/// A result ready to be stored; packing is the expensive part and happens before the writer.
#[derive(Debug)]
pub struct PackedRow {
    pub(super) key: RowKey,
    pub(super) success: bool,
    pub(super) line_bytes: u32,
    pub(super) usage: Usage,
    pub(super) cost: Usd,
    /// Key and value of the entry that leads from its request to it.
    pub(super) pointer: Option<(Vec<u8>, Vec<u8>)>,
    packed: Vec<u8>,
}

impl PackedRow {
    /// Packs a result.
    ///
    /// # Errors
    /// When it is too large to be stored.
    pub fn pack(row: &RowResult) -> Result<Self, StoreError> {
        let too_large = |error: std::num::TryFromIntError| StoreError::Broken(format!("a result is too large to be stored: {error}"));
        let line_bytes = u32::try_from(line_length(row)).map_err(too_large)?;
        let mut packed = result::pack(row, line_bytes)?;
        let chunks = u16::try_from(packed.len().div_ceil(format::MAX_VALUE)).map_err(too_large)?;
        result::set_chunks(&mut packed, chunks);
        let success = row.outcome.is_success();
        Ok(Self { key: row.key, success, line_bytes, usage: row.usage, cost: row.cost, pointer: None, packed })
    }

    /// Lets it be found by the digest of its request, if it is a success.
    #[must_use]
    pub fn found_by(self, request: Option<RequestDigest>, at: Timestamp) -> Self {
        let record = AnswerRecord::new(self.key, at);
        let request = request.filter(|_| self.success);
        // A few numbers: they can always be encoded.
        let pointer = request.and_then(|request| Some((format::answer(request), record::encode(&record).ok()?)));
        Self { pointer, ..self }
    }

    /// Whether the row has succeeded.
    pub fn is_success(&self) -> bool {
        self.success
    }

    pub(super) fn size(&self) -> usize {
        self.packed.len()
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.packed.chunks(format::MAX_VALUE)
    }
}

/// The length of a result's line, which only writing it tells.
fn line_length(row: &RowResult) -> usize {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        output::write_line(row, line);
        let length = line.len();
        line.clear();
        line.shrink_to(LINE_KEPT);
        length
    })
}

impl Store {
    /// The lines of `part` of a batch as they are durable now; `None` if there is no such batch.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn lines(&self, batch: BatchId, part: ResultPart) -> Result<Option<Lines>, StoreError> {
        let store = self.clone();
        let lines = super::blocking(move || {
            if store.read_state(batch)?.is_none() {
                return Ok(None);
            }
            let pages = match store.live(batch) {
                Some(live) => live.pages(),
                None => store.read_pages(batch)?,
            };
            Ok(Some(Lines::new(store, batch, part, pages)))
        })
        .await?;
        self.shown().await?;
        Ok(lines)
    }

    /// The pages of a batch as they are durable now; empty if it has none.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn pages(&self, batch: BatchId) -> Result<Vec<Page>, StoreError> {
        if let Some(live) = self.live(batch) {
            return Ok(live.pages());
        }
        let store = self.clone();
        let pages = super::blocking(move || store.read_pages(batch)).await?;
        self.shown().await?;
        Ok(pages)
    }
}

/// A reader over the lines of a part of a batch, with a fixed view of which rows are done.
#[derive(Debug)]
pub struct Lines {
    store: Store,
    batch: BatchId,
    part: ResultPart,
    pages: Arc<[Page]>,
    /// The rows to look at.
    rows: Range<u32>,
    /// Bytes of the first line to leave out: the range begins within it.
    skip: u64,
    /// Bytes of the last row's line to give, if it is not the whole: the range ends within it.
    keep: Option<u64>,
    with_attempts: bool,
}

impl Lines {
    fn new(store: Store, batch: BatchId, part: ResultPart, pages: Vec<Page>) -> Self {
        let rows = 0..u32::try_from(pages.len()).unwrap_or(u32::MAX).saturating_mul(ROWS_PER_PAGE);
        Self { store, batch, part, pages: pages.into(), rows, skip: 0, keep: None, with_attempts: false }
    }

    /// The exact size of the whole part, in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.bytes(self.part)).sum()
    }

    /// Lets the reader tell of each row's attempts, too. How many bytes that makes is not known.
    #[must_use]
    pub fn with_attempts(self) -> Self {
        Self { with_attempts: true, ..self }
    }

    /// Limits a fresh reader to a range of bytes. Blocks.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn limit_to(&mut self, range: ByteRange) -> Result<(), StoreError> {
        let end = range.end.min(self.bytes());
        let start = range.start.min(end);
        if start == end {
            self.rows = 0..0;
            return Ok(());
        }
        // Most ranges are all of it: nothing is to be looked up for that.
        if start > 0 {
            (self.rows.start, self.skip) = self.locate(start)?;
        }
        if end < self.bytes() {
            // The last byte of the range, and what comes up to it.
            let (last, before) = self.locate(end - 1)?;
            (self.rows.end, self.keep) = (last + 1, Some(before + 1));
        }
        Ok(())
    }

    /// The row whose line has that byte of the part, and which of the line's bytes it is.
    fn locate(&self, mut offset: u64) -> Result<(u32, u64), StoreError> {
        let mut row = 0;
        for page in &*self.pages {
            if offset < page.bytes(self.part) {
                break;
            }
            offset -= page.bytes(self.part);
            row += ROWS_PER_PAGE;
        }
        while let Some(wanted) = self.wanted(row) {
            let line = u64::from(self.line_bytes(wanted)?);
            if offset < line {
                return Ok((wanted, offset));
            }
            offset -= line;
            row = wanted + 1;
        }
        Err(StoreError::Broken(format!("results of {} are shorter than they count", self.batch)))
    }

    /// Takes the next rows off, as a reader of their own: about [`CHUNK`] bytes of lines, as far as
    /// that is known before they are read. `None` at the end. Does not block.
    pub fn cut(&mut self) -> Option<Self> {
        let start = self.wanted(self.rows.start)?;
        let page = self.pages.get((start / ROWS_PER_PAGE) as usize)?;
        let of_a_row = page.bytes(self.part) / u64::from(page.rows).max(1);
        let rows = u32::try_from(CHUNK as u64 / of_a_row.max(1)).unwrap_or(u32::MAX).clamp(1, ROWS_PER_PAGE);
        let end = start.saturating_add(rows).min(self.rows.end);
        self.rows.start = end;
        Some(Self {
            store: self.store.clone(),
            batch: self.batch,
            part: self.part,
            pages: self.pages.clone(),
            rows: start..end,
            skip: std::mem::take(&mut self.skip),
            keep: self.keep.filter(|_| self.rows.is_empty()),
            with_attempts: self.with_attempts,
        })
    }

    /// The first row from `from` on whose line belongs here.
    fn wanted(&self, from: u32) -> Option<u32> {
        let mut row = from;
        while row < self.rows.end {
            let page = self.pages.get((row / ROWS_PER_PAGE) as usize)?;
            let slot = row % ROWS_PER_PAGE;
            if page.bytes(self.part) == 0 || slot >= u32::from(page.rows) {
                row = (row / ROWS_PER_PAGE + 1) * ROWS_PER_PAGE;
            } else if page.includes(slot, self.part) {
                return Some(row);
            } else {
                row += 1;
            }
        }
        None
    }

    fn line_bytes(&self, row: u32) -> Result<u32, StoreError> {
        let key = format::chunk(&format::result(self.batch, RowIndex(row)), 0);
        let bytes = self.store.inner.tree.get(key)?.ok_or_else(|| self.missing(row))?;
        Ok(Stored::open(&bytes)?.line_bytes)
    }

    fn missing(&self, row: u32) -> StoreError {
        StoreError::Broken(format!("row {row} of {} counts as done, but its result is not in the store", self.batch))
    }

    /// The next bytes, `None` at the end. Blocks; the result is at least one line or the rest of
    /// the range.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut out = Vec::with_capacity(CHUNK + 4_096);
        // Where the last line begins.
        let mut last = 0;
        while out.len() < CHUNK {
            let Some(row) = self.wanted(self.rows.start) else { break };
            last = self.read_run(row, &mut out)?;
        }
        if out.is_empty() {
            return Ok(None);
        }
        let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let start = place(std::mem::take(&mut self.skip)).min(out.len());
        if let Some(keep) = self.keep.filter(|_| self.rows.is_empty()) {
            out.truncate(last + place(keep));
        }
        Ok(Some(Bytes::from(out).slice(start..)))
    }

    /// Appends lines from `row` on until the chunk is full or a long gap comes. Returns where the last
    /// of them begins.
    fn read_run(&mut self, row: u32, out: &mut Vec<u8>) -> Result<usize, StoreError> {
        let tree = self.store.inner.tree.clone();
        let end = [format::results_of(self.batch), vec![0xff; 7]].concat();
        let mut entries = tree.range(format::result(self.batch, RowIndex(row))..end);
        let mut wanted = row;
        let mut last = out.len();
        while let Some(entry) = entries.next() {
            let (key, first) = entry?;
            let Some((RowIndex(found), 0)) = format::parse_result(&key) else { continue };
            if found != wanted {
                // A row of another part, or one that finished after this reader began.
                if found < wanted && wanted - found <= SKIP {
                    continue;
                }
                return if found < wanted { Ok(last) } else { Err(self.missing(wanted)) };
            }
            last = out.len();
            self.write(found, first, &mut entries, out)?;
            self.rows.start = found + 1;
            match self.wanted(self.rows.start) {
                Some(row) if out.len() < CHUNK => wanted = row,
                Some(_) => return Ok(last),
                None => {
                    self.rows.start = self.rows.end;
                    return Ok(last);
                }
            }
        }
        Err(self.missing(wanted))
    }

    /// Appends the line of a row; `entries` are those behind its first chunk.
    fn write(&self, row: u32, first: sled::IVec, entries: &mut sled::Iter, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let whole = self.whole(row, first, entries)?;
        let stored = Stored::open(&whole)?;
        if self.with_attempts {
            output::write_line_with_attempts(&stored.unpack(self.batch, row)?, out);
            return Ok(());
        }
        let before = out.len();
        stored.show(self.batch, row, |line| output::write_line(line, out))?;
        if out.len() - before != stored.line_bytes as usize {
            let (length, counted) = (out.len() - before, stored.line_bytes);
            return Err(StoreError::Broken(format!(
                "the line of row {row} of {} is {length} bytes long and counts as {counted}",
                self.batch
            )));
        }
        Ok(())
    }

    /// All chunks of a result; `entries` are those behind the first one.
    fn whole(&self, row: u32, first: sled::IVec, entries: &mut sled::Iter) -> Result<sled::IVec, StoreError> {
        let chunks = Stored::open(&first)?.chunks;
        if chunks <= 1 {
            return Ok(first);
        }
        let mut whole = first.to_vec();
        for _ in 1..chunks {
            let (_, more) = entries.next().ok_or_else(|| self.missing(row))??;
            whole.extend_from_slice(&more);
        }
        Ok(whole.into())
    }
}
