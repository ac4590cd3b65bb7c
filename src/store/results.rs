//! Results of rows: packing them for the writer, and reading them back as the lines of a file.
//!
//! Output and error files are never written anywhere: they are read from the results, in input
//! order, from any byte on. Only rows that are durable are ever read.

use std::cell::RefCell;
use std::ops::Range;

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
    pages: Vec<Page>,
    /// The next row to look at.
    next: u32,
    /// Bytes of the next line to leave out: the range began within it.
    skip: u64,
    /// Bytes still to be given.
    left: u64,
    with_attempts: bool,
}

impl Lines {
    fn new(store: Store, batch: BatchId, part: ResultPart, pages: Vec<Page>) -> Self {
        let left = pages.iter().map(|page| page.bytes(part)).sum();
        Self { store, batch, part, pages, next: 0, skip: 0, left, with_attempts: false }
    }

    /// Bytes that are left to read; right after creation, the exact size of the whole.
    pub fn bytes(&self) -> u64 {
        self.left
    }

    /// Lets a fresh reader tell of each row's attempts, too. How many bytes that makes is not known.
    #[must_use]
    pub fn with_attempts(self) -> Self {
        Self { with_attempts: true, left: u64::MAX, ..self }
    }

    /// Limits a fresh reader to a range of bytes. Blocks.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn limit_to(&mut self, range: ByteRange) -> Result<(), StoreError> {
        let end = range.end.min(self.left);
        let mut offset = range.start.min(end);
        self.left = end - offset;
        let mut first = 0;
        for page in &self.pages {
            if offset < page.bytes(self.part) {
                break;
            }
            offset -= page.bytes(self.part);
            first += ROWS_PER_PAGE;
        }
        self.next = first;
        while let Some(row) = self.wanted(self.next) {
            let line = u64::from(self.line_bytes(row)?);
            self.next = row;
            if offset < line {
                break;
            }
            offset -= line;
            self.next = row + 1;
        }
        self.skip = offset;
        Ok(())
    }

    /// The first row from `from` on whose line belongs here.
    fn wanted(&self, from: u32) -> Option<u32> {
        let mut row = from;
        while let Some(page) = self.pages.get((row / ROWS_PER_PAGE) as usize) {
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
        self.next_packed()?.map(Packed::unpack).transpose()
    }

    /// The next rows as they are stored, `None` at the end. Blocks. Unpacking them is half of the
    /// work and may be done elsewhere.
    ///
    /// # Errors
    /// When the store has failed.
    pub fn next_packed(&mut self) -> Result<Option<Packed>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut packed = Packed { batch: self.batch, with_attempts: self.with_attempts, rows: Vec::new(), bytes: 0, shown: 0..0 };
        while packed.bytes < CHUNK {
            let Some(row) = self.wanted(self.next) else { break };
            self.read_run(row, &mut packed)?;
        }
        let skipped = std::mem::take(&mut self.skip);
        let given = (packed.bytes as u64).saturating_sub(skipped).min(self.left);
        self.left = if given == 0 { 0 } else { self.left - given };
        let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        packed.shown = place(skipped)..place(skipped + given);
        Ok(Some(packed).filter(|_| given > 0))
    }

    /// Takes rows from `row` on until there are enough or a long gap comes.
    fn read_run(&mut self, row: u32, packed: &mut Packed) -> Result<(), StoreError> {
        let tree = self.store.inner.tree.clone();
        let end = [format::results_of(self.batch), vec![0xff; 7]].concat();
        let mut entries = tree.range(format::result(self.batch, RowIndex(row))..end);
        let mut wanted = row;
        while let Some(entry) = entries.next() {
            let (key, first) = entry?;
            let Some((RowIndex(found), 0)) = format::parse_result(&key) else { continue };
            if found != wanted {
                // A row of another part, or one that finished after this reader began.
                if found < wanted && wanted - found <= SKIP {
                    continue;
                }
                return if found < wanted { Ok(()) } else { Err(self.missing(wanted)) };
            }
            packed.bytes += Stored::open(&first)?.line_bytes as usize;
            packed.rows.push((found, self.whole(found, first, &mut entries)?));
            self.next = found + 1;
            match self.wanted(self.next) {
                Some(row) if packed.bytes < CHUNK => wanted = row,
                Some(_) | None => return Ok(()),
            }
        }
        Err(self.missing(wanted))
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

/// Some rows as they are stored.
#[derive(Debug)]
pub struct Packed {
    batch: BatchId,
    with_attempts: bool,
    rows: Vec<(u32, sled::IVec)>,
    /// Of their lines, without attempts.
    bytes: usize,
    /// The part of those that was asked for.
    shown: Range<usize>,
}

impl Packed {
    /// The lines of the rows. Takes time, but waits for nothing.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn unpack(self) -> Result<Bytes, StoreError> {
        let mut out = Vec::with_capacity(self.bytes);
        for (row, packed) in &self.rows {
            let stored = Stored::open(packed)?;
            if self.with_attempts {
                output::write_line_with_attempts(&stored.unpack(self.batch, *row)?, &mut out);
            } else {
                stored.show(self.batch, *row, |line| output::write_line(line, &mut out))?;
            }
        }
        if self.with_attempts {
            return Ok(out.into());
        }
        if out.len() != self.bytes {
            return Err(StoreError::Broken(format!("lines of {} are {} bytes long and count as {}", self.batch, out.len(), self.bytes)));
        }
        Ok(Bytes::from(out).slice(self.shown))
    }
}
