//! Reading rows of a validated input file, a window at a time, by offset.
//!
//! Blocks; runs off the async threads. Memory is one window. The same line is read again for each
//! retry instead of being kept while it waits.

use std::collections::HashMap;
use std::io::{BufReader, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;

use super::attempt::unanswered;
use super::row::{ReadyRow, RowRef, WaitingRow};
use super::run::{Load, Route};
use crate::domain::endpoint::Endpoint;
use crate::domain::id::{BatchId, FileId, RowIndex, RowKey};
use crate::domain::lines::{Line, Lines};
use crate::domain::request::{RowRequest, parse_line};
use crate::domain::retry::Tally;
use crate::domain::row::{Outcome, RowError};
use crate::domain::time::Clock;
use crate::store::{LiveBatch, PackedRow, Page, ROWS_PER_PAGE, Store, StoreError};

/// Where reading goes on: the next row and the byte at which its line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub row: u32,
    pub offset: u64,
}

impl Cursor {
    /// The first row of the first page that is not complete; `None` if all are.
    pub fn first_unfinished(pages: &[Page]) -> Option<Self> {
        let mut numbered = (0_u32..).zip(pages);
        let (number, page) = numbered.find(|(_, page)| !page.is_complete())?;
        Some(Self { row: number * ROWS_PER_PAGE, offset: page.input_offset })
    }
}

/// What to read of an input file.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub store: Store,
    pub clock: Clock,
    pub batch: BatchId,
    pub file: FileId,
    pub endpoint: Endpoint,
    pub total: u32,
    pub live: Arc<LiveBatch>,
    /// From the model's name in the row to the index of its route.
    pub models: Arc<HashMap<String, u16>>,
    pub routes: Arc<[Route]>,
}

/// What one load brought.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub rows: Vec<ReadyRow>,
    /// Where the next window begins; `None` at the end of the input.
    pub next: Option<Cursor>,
    /// Rows that cannot be dispatched for now: no provider serves their model.
    pub stranded: u32,
    /// Rows that can no longer be read; the store has their results.
    pub closed: u32,
    /// Rows for which there was no room.
    pub unread: Vec<WaitingRow>,
    /// The routes that the rows were made for: the catalog may have changed since.
    pub routes: Arc<[Route]>,
    bytes: usize,
}

impl Window {
    fn is_full(&self) -> bool {
        self.rows.len() >= WINDOW_ROWS || self.bytes >= WINDOW_BYTES
    }

    fn push(&mut self, row: ReadyRow) {
        self.bytes += row.body.len();
        self.rows.push(row);
    }
}

/// Rows in one window.
pub(super) const WINDOW_ROWS: usize = 1_024;
/// Bytes of rows after which a window is closed; a single row may exceed it.
const WINDOW_BYTES: usize = 2 << 20;
/// The longest line that is read: the largest value of the setting. The setting itself may have
/// become smaller since the file was validated.
const MAX_LINE: usize = 1 << 30;

/// A line as it is needed to run its row.
enum Prepared {
    Ready(Box<ReadyRow>),
    Stranded,
    /// It is not what was validated.
    Unreadable,
}

impl Source {
    fn open(&self, offset: u64) -> Result<Lines<BufReader<std::fs::File>>, StoreError> {
        let mut file = self.store.open_content(self.file)?;
        file.seek(SeekFrom::Start(offset)).map_err(|e| StoreError::unreadable(self.file, &e))?;
        Ok(Lines::new(BufReader::with_capacity(64 << 10, file), MAX_LINE))
    }

    /// Loads rows that are due again, or else the window at the cursor. Gives the rows that were
    /// due back when they cannot be read now.
    pub fn load(&self, load: Load) -> Result<Window, (StoreError, Vec<WaitingRow>)> {
        match load {
            Load { due, cursor: Some(cursor) } if due.is_empty() => self.window(cursor).map_err(|error| (error, due)),
            Load { due, cursor } => self.again(due, cursor),
        }
    }

    fn empty(&self) -> Window {
        Window { routes: self.routes.clone(), ..Window::default() }
    }

    /// Reads unfinished rows from `from` on.
    fn window(&self, from: Cursor) -> Result<Window, StoreError> {
        let Some(from) = self.skip_complete(from) else { return Ok(self.empty()) };
        let mut lines = self.open(from.offset)?;
        let mut window = self.empty();
        let mut row = from.row;
        let mut page = self.live.page(row / ROWS_PER_PAGE);
        while row < self.total && !window.is_full() {
            if row.is_multiple_of(ROWS_PER_PAGE) {
                page = self.live.page(row / ROWS_PER_PAGE);
            }
            let place = lines.advance().map_err(|e| StoreError::unreadable(self.file, &e))?;
            let at = RowRef { row: RowIndex(row), offset: from.offset + place.map_or(0, |place| place.offset) };
            if place.is_none() {
                return Err(self.changed(at));
            }
            if page.as_ref().is_some_and(|page| !page.is_done(row % ROWS_PER_PAGE)) {
                match self.prepare(at, lines.latest()) {
                    Prepared::Ready(ready) => window.push(*ready),
                    Prepared::Stranded => window.stranded += 1,
                    Prepared::Unreadable => {
                        self.close(at)?;
                        window.closed += 1;
                    }
                }
            }
            row += 1;
        }
        let offset = from.offset + lines.end();
        window.next = (row < self.total).then_some(Cursor { row, offset });
        Ok(window)
    }

    /// The cursor beyond pages that have nothing left to run; `None` at the end.
    fn skip_complete(&self, mut at: Cursor) -> Option<Cursor> {
        while at.row.is_multiple_of(ROWS_PER_PAGE) && self.live.page(at.row / ROWS_PER_PAGE)?.is_complete() {
            let next = self.live.page(at.row / ROWS_PER_PAGE + 1)?;
            at = Cursor { row: at.row + ROWS_PER_PAGE, offset: next.input_offset };
        }
        Some(at)
    }

    /// Reads rows again for another attempt.
    fn again(&self, due: Vec<WaitingRow>, cursor: Option<Cursor>) -> Result<Window, (StoreError, Vec<WaitingRow>)> {
        let mut window = Window { next: cursor, ..self.empty() };
        let mut due = due.into_iter();
        while let Some(row) = due.next() {
            if window.is_full() {
                window.unread.push(row);
                continue;
            }
            let read = self.open(row.at.offset).and_then(|mut lines| {
                lines.advance().map_err(|e| StoreError::unreadable(self.file, &e))?;
                let prepared = self.prepare(row.at, lines.latest());
                if let Prepared::Unreadable = prepared {
                    self.close(row.at)?;
                }
                Ok(prepared)
            });
            match read {
                Ok(Prepared::Ready(ready)) => window.push(row.resume(*ready)),
                Ok(Prepared::Stranded) => window.stranded += 1,
                Ok(Prepared::Unreadable) => window.closed += 1,
                // What was read so far is not lost: it is simply read once more.
                Err(error) => {
                    let now = tokio::time::Instant::now();
                    let read = window.rows.into_iter().map(|ready| ready.wait_until(now));
                    return Err((error, read.chain([row]).chain(window.unread).chain(due).collect()));
                }
            }
        }
        Ok(window)
    }

    fn prepare(&self, at: RowRef, line: Line<'_>) -> Prepared {
        let Some(row) = self.parse(line) else { return Prepared::Unreadable };
        let Some(index) = self.models.get(row.model.as_ref()).copied() else { return Prepared::Unreadable };
        let Some(route) = self.routes.get(usize::from(index)).filter(|route| route.lane.is_some()) else { return Prepared::Stranded };
        let custom_id = row.custom_id.as_ref().into();
        let body = Bytes::from(row.body_for(&route.upstream));
        Prepared::Ready(Box::new(ReadyRow { at, route: index, custom_id, body, history: Vec::new(), tally: Tally::default(), last: None }))
    }

    fn parse<'a>(&self, line: Line<'a>) -> Option<RowRequest<'a>> {
        match line {
            Line::Text(text) => parse_line(text, self.endpoint).ok(),
            Line::Blank | Line::TooLong => None,
        }
    }

    /// Gives a row whose line is no longer what was validated its result.
    fn close(&self, at: RowRef) -> Result<(), StoreError> {
        tracing::error!(batch = %self.batch, line = at.row.line(), "a line of the input is not what it was when it was validated");
        let outcome = unreadable(&self.changed(at).to_string());
        let key = RowKey { batch: self.batch, row: at.row };
        let result = unanswered(key, line_name(at.row), outcome, self.clock.now());
        self.store.record_unrun_blocking(PackedRow::pack(&result)?)
    }

    /// The unfinished rows of a page in order, each with its id, or `None` where its line is no
    /// longer what was validated.
    pub fn unfinished_ids(&self, number: u32, page: &Page) -> Result<Vec<(RowIndex, Option<String>)>, StoreError> {
        let mut lines = self.open(page.input_offset)?;
        let mut ids = Vec::new();
        for slot in 0..u32::from(page.rows) {
            let place = lines.advance().map_err(|e| StoreError::unreadable(self.file, &e))?;
            if !page.is_done(slot) {
                let row = place.and_then(|_| self.parse(lines.latest()));
                ids.push((RowIndex(number * ROWS_PER_PAGE + slot), row.map(|row| row.custom_id.into_owned())));
            }
        }
        Ok(ids)
    }

    fn changed(&self, at: RowRef) -> StoreError {
        let reason = format!("line {} is not what it was when the file was validated", at.row.line());
        StoreError::unreadable(self.file, &std::io::Error::other(reason))
    }
}

/// What a row is called whose id cannot be read any more.
pub(super) fn line_name(row: RowIndex) -> String {
    format!("line-{}", row.line())
}

/// The outcome of a row whose line cannot be read any more.
pub(super) fn unreadable(reason: &str) -> Outcome {
    let error = RowError { code: "input_unreadable".to_owned(), message: reason.to_owned() };
    Outcome::Failed { error, last: None }
}
