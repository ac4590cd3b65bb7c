//! Reads results back as the lines of a file.
//!
//! Output and error files are never stored: they are read from the results, in input order,
//! starting at any byte. Only durable rows are ever read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::JOINS;
use super::runs::Runs;
use crate::domain::file::ResultPart;
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::row::RowResult;
use crate::domain::row::output;
use crate::store::error::StoreError;
use crate::store::record::error::RecordError;
use crate::store::record::packed::Packed;
use crate::store::record::page::Page;
use crate::store::record::result;
use crate::store::record::result::ResultRecord;
use crate::store::{ROWS_PER_PAGE, Store};

/// How many bytes of lines a reader that is cut off should have, about.
const PART: u64 = 512 << 10;
/// The size in bytes at which [`Lines::next_chunk`] stops adding lines.
const CHUNK: usize = 1 << 20;

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

/// Appends a result and its line break.
type Append = dyn Fn(&RowResult, &mut Vec<u8>) + Send + Sync;

/// A custom form of lines.
#[derive(Clone)]
pub struct LineRender(pub Arc<Append>);

impl fmt::Debug for LineRender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Render")
    }
}

/// The form of the lines.
#[derive(Debug, Clone)]
enum LineForm {
    /// The form of lines in the files of a batch.
    Plain,
    WithAttempts,
    Rendered(LineRender),
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineOf {
    pub row: RowIndex,
    /// The line belongs to the error file.
    pub failed: bool,
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
    fn new(store: Store, batch: BatchId, part: ResultPart, pages: Vec<Page>) -> Self {
        let rows = 0..u32::try_from(pages.len()).unwrap_or(u32::MAX).saturating_mul(ROWS_PER_PAGE);
        Self { store, batch, part, pages: pages.into(), rows, skip: 0, keep: None, form: LineForm::Plain, runs: None }
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
        Some(Self {
            store: self.store.clone(),
            batch: self.batch,
            part: self.part,
            pages: self.pages.clone(),
            rows: start..end,
            skip: std::mem::take(&mut self.skip),
            keep: self.keep.filter(|_| self.rows.is_empty()),
            form: self.form.clone(),
            runs: None,
        })
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
        // The buffer has its full size from the start: the smaller buffers that growing leaves
        // behind are slow to be reclaimed from other threads.
        let mut out = Vec::with_capacity(self.guess());
        // Where the last line begins.
        let mut last = 0;
        while out.len() < CHUNK {
            let Some(row) = self.wanted(self.rows.start) else {
                self.rows.start = self.rows.end;
                self.runs = None;
                break;
            };
            last = out.len();
            self.write(row, &mut out)?;
            self.rows.start = row + 1;
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

    /// Estimates the size of the next chunk in bytes, a little too high rather than too low.
    fn guess(&self) -> usize {
        let Some(page) = self.pages.get((self.rows.start / ROWS_PER_PAGE) as usize) else { return 0 };
        let rows = (self.rows.len() as u64).min(u64::from(page.rows));
        let bytes = page.bytes(self.part).saturating_mul(rows) / u64::from(page.rows).max(1);
        usize::try_from(bytes + bytes / 8).unwrap_or(CHUNK).saturating_add(4 << 10).min(CHUNK + CHUNK / 8)
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
