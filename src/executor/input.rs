//! Reading rows of a validated input file, a window at a time, by offset.
//!
//! Blocks; runs off the async threads. Memory is one window. The same line is read again for each
//! retry instead of being kept while it waits.

use std::collections::HashMap;
use std::io::{BufReader, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;

use super::row::{ReadyRow, RowRef, WaitingRow};
use super::run::Route;
use crate::domain::endpoint::Endpoint;
use crate::domain::file::ResultPart;
use crate::domain::id::{FileId, RowIndex};
use crate::domain::lines::{Line, Lines};
use crate::domain::request::{RowRequest, parse_line};
use crate::store::{LiveBatch, Page, ROWS_PER_PAGE, Store, StoreError};

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
    pub file: FileId,
    pub endpoint: Endpoint,
    pub total: u32,
    pub max_row_bytes: usize,
    pub live: Arc<LiveBatch>,
    /// From the model's name in the row to the index of its route.
    pub models: Arc<HashMap<String, u16>>,
    pub routes: Arc<[Route]>,
}

/// The rows of one window.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub rows: Vec<ReadyRow>,
    /// Where the next window begins; `None` at the end of the input.
    pub next: Option<Cursor>,
    /// Rows that cannot be dispatched for now: no provider serves their model.
    pub stranded: u32,
}

/// Rows in one window.
pub(super) const WINDOW_ROWS: usize = 1_024;
/// Bytes of rows after which a window is closed; a single row may exceed it.
const WINDOW_BYTES: usize = 2 << 20;

impl Source {
    fn open(&self, offset: u64) -> Result<Lines<BufReader<std::fs::File>>, StoreError> {
        let mut file = self.store.open_content(self.file)?;
        file.seek(SeekFrom::Start(offset)).map_err(|e| StoreError::unreadable(self.file, &e))?;
        Ok(Lines::new(BufReader::with_capacity(64 << 10, file), self.max_row_bytes))
    }

    /// Reads unfinished rows from `from` on.
    pub fn window(&self, from: Cursor) -> Result<Window, StoreError> {
        let mut lines = self.open(from.offset)?;
        let mut window = Window::default();
        let (mut bytes, mut row) = (0, from.row);
        let mut page = self.live.page(row / ROWS_PER_PAGE);
        while row < self.total && window.rows.len() < WINDOW_ROWS && bytes < WINDOW_BYTES {
            if row % ROWS_PER_PAGE == 0 {
                page = self.live.page(row / ROWS_PER_PAGE);
            }
            let Some(place) = lines.advance().map_err(|e| StoreError::unreadable(self.file, &e))? else { break };
            let done = page.as_ref().is_none_or(|page| page.includes(row % ROWS_PER_PAGE, ResultPart::All));
            if !done {
                let at = RowRef { row: RowIndex(row), offset: from.offset + place.offset };
                match self.prepare(at, lines.latest())? {
                    Some(ready) => {
                        bytes += ready.body.len();
                        window.rows.push(ready);
                    }
                    None => window.stranded += 1,
                }
            }
            row += 1;
        }
        let offset = from.offset + lines.end();
        window.next = (row < self.total).then_some(Cursor { row, offset });
        Ok(window)
    }

    /// Reads rows again for another attempt. Returns them and how many have no provider now; on
    /// failure, gives the waiting rows back.
    pub fn again(&self, due: Vec<WaitingRow>) -> Result<(Vec<ReadyRow>, u32), (StoreError, Vec<WaitingRow>)> {
        let fresh: Result<Vec<_>, StoreError> = due.iter().map(|row| self.read_one(row.at)).collect();
        let fresh = match fresh {
            Ok(fresh) => fresh,
            Err(error) => return Err((error, due)),
        };
        let all = due.len();
        let rows: Vec<_> = due.into_iter().zip(fresh).filter_map(|(row, fresh)| fresh.map(|fresh| row.resume(fresh))).collect();
        let stranded = u32::try_from(all - rows.len()).unwrap_or(u32::MAX);
        Ok((rows, stranded))
    }

    fn read_one(&self, at: RowRef) -> Result<Option<ReadyRow>, StoreError> {
        let mut lines = self.open(at.offset)?;
        lines.advance().map_err(|e| StoreError::unreadable(self.file, &e))?;
        self.prepare(at, lines.latest())
    }

    fn prepare(&self, at: RowRef, line: Line<'_>) -> Result<Option<ReadyRow>, StoreError> {
        let row = self.parse(at, line)?;
        let Some(index) = self.models.get(row.model.as_ref()).copied() else { return Err(self.changed(at)) };
        let Some(route) = self.routes.get(usize::from(index)).filter(|route| route.lane.is_some()) else { return Ok(None) };
        let custom_id = row.custom_id.as_ref().into();
        let body = Bytes::from(row.body_for(&route.upstream));
        Ok(Some(ReadyRow { at, route: index, custom_id, body, history: Vec::new(), tally: Default::default(), last: None }))
    }

    fn parse<'a>(&self, at: RowRef, line: Line<'a>) -> Result<RowRequest<'a>, StoreError> {
        match line {
            Line::Text(text) => parse_line(text, self.endpoint).map_err(|_| self.changed(at)),
            Line::Blank | Line::TooLong => Err(self.changed(at)),
        }
    }

    /// The ids of the unfinished rows of a page, in order.
    pub fn unfinished_ids(&self, number: u32, page: &Page) -> Result<Vec<(RowIndex, String)>, StoreError> {
        let mut lines = self.open(page.input_offset)?;
        let mut ids = Vec::new();
        for slot in 0..u32::from(page.rows) {
            let at = RowRef { row: RowIndex(number * ROWS_PER_PAGE + slot), offset: page.input_offset };
            if lines.advance().map_err(|e| StoreError::unreadable(self.file, &e))?.is_none() {
                return Err(self.changed(at));
            }
            if !page.is_done(slot) {
                ids.push((at.row, self.parse(at, lines.latest())?.custom_id.into_owned()));
            }
        }
        Ok(ids)
    }

    fn changed(&self, at: RowRef) -> StoreError {
        let reason = format!("line {} is not what it was when the file was validated", at.row.line());
        StoreError::unreadable(self.file, &std::io::Error::other(reason))
    }
}
