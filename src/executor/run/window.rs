//! What one read of an input file is to bring, and what it brought: a window of rows.

use std::sync::Arc;

use super::row::{ReadyRow, RowRef, WaitingRow};
use crate::executor::lane::routes::RouteTable;
use crate::store::error::StoreError;
use crate::store::{Page, ROWS_PER_PAGE};

/// Where reading goes on: the next row and the byte at which its line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
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

/// Limits on how much of a batch may be in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowSize {
    pub rows: usize,
    /// Bytes of the rows' bodies; a single row may exceed this.
    pub bytes: usize,
}

/// For each model, how many rows each of the routes can take that share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room(pub Vec<Vec<(u16, usize)>>);

impl Room {
    /// Takes a place on the preferred route, or if it has none, on the one with the most room.
    pub fn take(&mut self, model: u16, preferred: Option<u16>) -> Option<u16> {
        let routes = self.0.get_mut(usize::from(model))?;
        // The first of equals: the cheapest.
        let is_preferred = |route: u16| preferred == Some(route);
        let best = routes.iter_mut().rev().max_by_key(|(route, rows)| (*rows > 0 && is_preferred(*route), *rows));
        let (route, rows) = best.filter(|(_, rows)| *rows > 0)?;
        *rows -= 1;
        Some(*route)
    }

    /// Gives a place back that was not used.
    pub fn give_back(&mut self, model: u16, route: u16) {
        let routes = self.0.get_mut(usize::from(model)).into_iter().flatten();
        routes.filter(|(known, _)| *known == route).for_each(|(_, rows)| *rows += 1);
    }

    /// Whether there is room for a row of any model. Without models, rows only fail.
    pub fn is_left(&self) -> bool {
        self.0.is_empty() || self.0.iter().flatten().any(|(_, rows)| *rows > 0)
    }
}

/// New rows to read.
#[derive(Debug)]
pub struct Scan {
    pub from: Cursor,
    /// Rows beyond this are deferred.
    pub room: Room,
}

/// What one load should read.
#[derive(Debug, Default)]
pub struct Load {
    pub window: WindowSize,
    /// Rows whose next attempt is due.
    pub due: Vec<WaitingRow>,
    /// Rows that were skipped before, and the routes that they take now.
    pub deferred: Vec<(RowRef, u16)>,
    pub scan: Option<Scan>,
}

impl Load {
    pub fn is_empty(&self) -> bool {
        self.due.is_empty() && self.deferred.is_empty() && self.scan.is_none()
    }
}

/// What could not be loaded, and why.
#[derive(Debug)]
pub struct Unread {
    pub error: StoreError,
    pub load: Load,
}

/// What one load brought.
#[derive(Debug, Default)]
pub struct Window {
    pub rows: Vec<ReadyRow>,
    /// Where reading goes on, if it has moved: `Some(None)` at the end of the input.
    pub next: Option<Option<Cursor>>,
    /// Rows whose lane has enough rows, or which have no lane.
    pub deferred: Vec<RowRef>,
    /// Rows that got a result in the store without a call.
    pub closed: u32,
    /// Of the closed rows, those that got the answer of another row; the others could not be read.
    pub shared: u32,
    /// Rows for which there was no room.
    pub unread: Vec<WaitingRow>,
    /// The routes that the rows were made for: they may have changed since.
    pub ways: Arc<RouteTable>,
    pub size: WindowSize,
    /// Bytes of the bodies of the rows.
    bytes: usize,
}

impl Window {
    /// A window for rows that take these routes.
    pub fn empty(size: WindowSize, ways: Arc<RouteTable>) -> Self {
        Self { size, ways, ..Self::default() }
    }

    pub fn is_full(&self) -> bool {
        self.rows.len() >= self.size.rows || self.bytes >= self.size.bytes
    }

    pub fn push(&mut self, row: ReadyRow) {
        self.bytes += row.body.len();
        self.rows.push(row);
    }
}
