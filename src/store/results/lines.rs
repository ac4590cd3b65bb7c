//! Reads results back as the lines of a file.
//!
//! Output and error files are never stored: they are read from the results, in input order,
//! starting at any byte. Only durable rows are ever read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::JOINS;
use super::line_form::{LineForm, LineOf, LineRender};
use super::runs::Runs;
use crate::domain::file::ResultPart;
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::row::{RowResult, output};
use crate::store::error::StoreError;
use crate::store::record::error::RecordError;
use crate::store::record::packed::Packed;
use crate::store::record::page::Page;
use crate::store::record::result;
use crate::store::record::result::ResultRecord;
use crate::store::{ROWS_PER_PAGE, Store};

/// How many bytes of lines a reader that is cut off should have, about.
const PART: u64 = 512 << 10;
/// The bytes of lines that [`Lines::next_chunk`] returns, unless a single line has more.
const CHUNK: usize = 1 << 20;

/// The next lines of a reader.
#[derive(Debug)]
pub enum Chunk {
    Bytes(Bytes),
    /// The next line alone has so many bytes, which is more than were allowed.
    Needs(usize),
    End,
}

/// A half-open range of bytes.
pub type ByteRange = Range<u64>;

impl Store {
    /// Returns the lines of `part` of a batch that are durable now; `None` if there is no such
    /// batch.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn lines(&self, batch: BatchId, part: ResultPart) -> Result<Option<Lines>, StoreError> {
        let store = self.clone();
        let lines = crate::store::blocking(move || {
            if store.read_state(batch)?.is_none() {
                return Ok(None);
            }
            let pages = match store.live(batch) {
                Some(live) => live.pages(),
                None => store.read_pages(batch)?,
            };
            let pages = store.inner.pages.share(batch, pages);
            Ok(Some(Lines::new(store, batch, part, pages)))
        })
        .await?;
        self.await_durable().await?;
        Ok(lines)
    }

    /// Returns the pages of a batch as they are durable now; empty if the batch has none.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn pages(&self, batch: BatchId) -> Result<Vec<Page>, StoreError> {
        if let Some(live) = self.live(batch) {
            return Ok(live.pages());
        }
        let store = self.clone();
        let pages = crate::store::blocking(move || store.read_pages(batch)).await?;
        self.await_durable().await?;
        Ok(pages)
    }
}

/// A reader over the lines of a part of a batch, with a fixed set of done rows.
#[derive(Debug)]
pub struct Lines {
    store: Store,
    batch: BatchId,
    part: ResultPart,
    pages: Arc<[Page]>,
    /// The rows that are still to be read.
    rows: Range<u32>,
    /// Bytes to leave out of the first line, because the range begins within that line.
    skip: u64,
    /// Bytes to keep of the last row's line, if the range ends within that line.
    keep: Option<u64>,
    form: LineForm,
    /// Rows of the current page that are in runs.
    runs: Option<Runs>,
}

impl Lines {
    fn new(store: Store, batch: BatchId, part: ResultPart, pages: Arc<[Page]>) -> Self {
        let rows = 0..u32::try_from(pages.len()).unwrap_or(u32::MAX).saturating_mul(ROWS_PER_PAGE);
        Self { store, batch, part, pages, rows, skip: 0, keep: None, form: LineForm::Plain, runs: None }
    }

    /// Whether both have their pages in the same memory.
    #[cfg(test)]
    pub fn shares_pages_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pages, &other.pages)
    }

    /// The exact size of the whole part, in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.bytes(self.part)).sum()
    }

    /// Makes the reader include each row's attempts. The resulting size in bytes is unknown.
    #[must_use]
    pub fn with_attempts(self) -> Self {
        Self { form: LineForm::WithAttempts, ..self }
    }

    /// Makes the reader write each result with `render`. The resulting size in bytes is unknown.
    #[must_use]
    pub fn rendered(self, render: LineRender) -> Self {
        Self { form: LineForm::Rendered(render), ..self }
    }

    /// Limits a fresh reader to rows from this one on.
    pub fn start_at(&mut self, row: RowIndex) {
        self.rows.start = self.rows.start.max(row.0);
    }

    /// Returns the next result itself, not its line; `None` at the end. Blocks.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn next_result(&mut self) -> Result<Option<RowResult>, StoreError> {
        let Some(row) = self.wanted(self.rows.start) else { return Ok(None) };
        self.rows.start = row + 1;
        let key = self.key(row);
        if let Some((_, body)) = self.runs_with(row)?.get(row) {
            return Ok(Some(result::unpack(body, key)?));
        }
        let packed = self.store.read_alone(key)?.ok_or_else(|| self.missing(row))?;
        Ok(Some(Packed::open::<ResultRecord>(&packed)?.with_body::<ResultRecord, _>(|body| result::unpack(body, key))?))
    }

    /// Appends the next line to `out` and returns whose it is; `None` at the end. Blocks.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn next_line(&mut self, out: &mut Vec<u8>) -> Result<Option<LineOf>, StoreError> {
        let Some(row) = self.wanted(self.rows.start) else { return Ok(None) };
        self.write(row, out)?;
        self.rows.start = row + 1;
        let page = self.pages.get((row / ROWS_PER_PAGE) as usize);
        let failed = page.is_some_and(|page| page.includes(row % ROWS_PER_PAGE, ResultPart::Errors));
        Ok(Some(LineOf { row: RowIndex(row), failed }))
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
        // Most ranges cover the whole part, which needs no lookup.
        if start > 0 {
            (self.rows.start, self.skip) = self.locate(start)?;
        }
        if end < self.bytes() {
            // Finds the last byte of the range, and keeps its line up to that byte.
            let (last, before) = self.locate(end - 1)?;
            (self.rows.end, self.keep) = (last + 1, Some(before + 1));
        }
        Ok(())
    }

    /// Returns the row whose line has that byte of the part, and the byte's place within the line.
    fn locate(&mut self, mut offset: u64) -> Result<(u32, u64), StoreError> {
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
        Err(RecordError::damaged::<ResultRecord>(format!("results of {} are shorter than they count", self.batch)).into())
    }

    /// Splits the next rows off as a separate reader: a page of small lines, or about [`PART`]
    /// bytes of large lines, estimated before they are read. `None` at the end. Does not block.
    pub fn cut(&mut self) -> Option<Self> {
        let start = self.wanted(self.rows.start)?;
        let page = self.pages.get((start / ROWS_PER_PAGE) as usize)?;
        // Runs are read page by page: two readers of one page would unpack the same runs.
        let line = page.bytes(self.part) / u64::from(page.rows).max(1);
        let rows = if line <= JOINS as u64 { ROWS_PER_PAGE } else { u32::try_from(PART / line).unwrap_or(1).max(1) };
        let end = (start + rows).min((start / ROWS_PER_PAGE + 1) * ROWS_PER_PAGE).min(self.rows.end);
        self.rows.start = end;
        let keep = self.keep.filter(|_| self.rows.is_empty());
        let cut = Self { rows: start..end, keep, ..self.again() };
        self.skip = 0;
        Some(cut)
    }

    /// Returns the first row from `from` on whose line belongs to this reader's part.
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

    fn line_bytes(&mut self, row: u32) -> Result<u32, StoreError> {
        if let Some((line_bytes, _)) = self.runs_with(row)?.get(row) {
            return Ok(line_bytes);
        }
        let head = self.store.read_head(self.key(row))?.ok_or_else(|| self.missing(row))?;
        Ok(Packed::open::<ResultRecord>(&head)?.number)
    }

    fn key(&self, row: u32) -> RowKey {
        RowKey { batch: self.batch, row: RowIndex(row) }
    }

    fn missing(&self, row: u32) -> StoreError {
        let reason = format!("row {row} of {} counts as done, but its result is not in the store", self.batch);
        RecordError::damaged::<ResultRecord>(reason).into()
    }

    /// Returns those rows, from `row` to the end of its page, that are in runs.
    fn runs_with(&mut self, row: u32) -> Result<&Runs, StoreError> {
        let runs = match self.runs.take() {
            Some(runs) if runs.covers(row) => runs,
            _ => {
                let number = row / ROWS_PER_PAGE;
                let end = ((number + 1) * ROWS_PER_PAGE).min(self.rows.end);
                let page = self.pages.get(number as usize);
                // All rows of a run belong to the same part.
                let wanted = |first: u32| page.is_some_and(|page| page.includes(first % ROWS_PER_PAGE, self.part));
                Runs::read(&self.store.inner.tree, self.batch, row..end, wanted)?
            }
        };
        Ok(self.runs.insert(runs))
    }

    /// Returns the next bytes; `None` at the end. Blocks; the result is at least one line or the
    /// rest of the range.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut most = CHUNK;
        loop {
            match self.chunk(most)? {
                Chunk::Bytes(bytes) => return Ok(Some(bytes)),
                Chunk::Needs(bytes) => most = bytes.max(most.saturating_add(1)),
                Chunk::End => return Ok(None),
            }
        }
    }

    /// Returns as many of the next lines as have at most `most` bytes together. Blocks. Lines of
    /// another form than the plain one count as if they were plain.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn chunk(&mut self, most: usize) -> Result<Chunk, StoreError> {
        // The buffer has its full size from the start: the smaller buffers that growing leaves
        // behind are slow to be reclaimed from other threads.
        let expected = self.expected_bytes().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        let mut out = Vec::with_capacity(expected.min(most));
        // Where the last line begins.
        let mut last = 0;
        while let Some(row) = self.wanted(self.rows.start) {
            let line = self.line_bytes(row)? as usize;
            if line > most && out.is_empty() {
                return Ok(Chunk::Needs(line));
            }
            if out.len().saturating_add(line) > most {
                break;
            }
            last = out.len();
            self.write(row, &mut out)?;
            self.rows.start = row + 1;
        }
        if self.wanted(self.rows.start).is_none() {
            self.rows.start = self.rows.end;
            self.runs = None;
        }
        if out.is_empty() {
            return Ok(Chunk::End);
        }
        let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let start = place(std::mem::take(&mut self.skip)).min(out.len());
        if let Some(keep) = self.keep.filter(|_| self.rows.is_empty()) {
            out.truncate(last + place(keep));
        }
        Ok(Chunk::Bytes(Bytes::from(out).slice(start..)))
    }

    /// Estimates the bytes that are left, rather too high than too low, as far as they belong to
    /// one page; `None` at the end. Does not block.
    pub fn expected_bytes(&self) -> Option<u64> {
        let first = self.wanted(self.rows.start)?;
        let page = self.pages.get((first / ROWS_PER_PAGE) as usize)?;
        let (slot, rows) = (first % ROWS_PER_PAGE, u32::from(page.rows));
        let left = (self.rows.end - first).min(rows.saturating_sub(slot));
        let bytes = match left == rows {
            true => page.bytes(self.part),
            false => {
                let share = page.bytes(self.part).saturating_mul(u64::from(left)) / u64::from(rows).max(1);
                share + share / 8 + (4 << 10)
            }
        };
        // Other forms say more than the plain one.
        Some(if matches!(self.form, LineForm::Plain) { bytes } else { bytes.saturating_mul(2) })
    }

    /// Forgets what was unpacked: for a reader that may wait long before it reads on.
    pub fn rest(&mut self) {
        self.runs = None;
    }

    /// The same lines for another reader.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            store: self.store.clone(),
            batch: self.batch,
            part: self.part,
            pages: self.pages.clone(),
            rows: self.rows.clone(),
            skip: self.skip,
            keep: self.keep,
            form: self.form.clone(),
            runs: None,
        }
    }

    /// Appends the line of a row.
    fn write(&mut self, row: u32, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let (key, form, before) = (self.key(row), self.form.clone(), out.len());
        let mut append = |body: &[u8], counted| {
            match &form {
                LineForm::Plain => return Ok(output::write_stored_line(&result::line(body, key)?, counted, out)),
                LineForm::WithAttempts => output::write_line_with_attempts(&result::unpack(body, key)?, out),
                LineForm::Rendered(LineRender(render)) => render(&result::unpack(body, key)?, out),
            }
            Ok(true)
        };
        let (fits, counted) = match self.runs_with(row)?.get(row) {
            Some((line_bytes, body)) => (append(body, line_bytes)?, line_bytes),
            None => {
                let packed = self.store.read_alone(key)?.ok_or_else(|| self.missing(row))?;
                let packed = Packed::open::<ResultRecord>(&packed)?;
                (packed.with_body::<ResultRecord, _>(|body| append(body, packed.number))?, packed.number)
            }
        };
        if !fits {
            let length = out.len() - before;
            let batch = self.batch;
            let reason = format!("the line of row {row} of {batch} is {length} bytes long and counts as {counted}");
            return Err(RecordError::damaged::<ResultRecord>(reason).into());
        }
        Ok(())
    }
}
