//! Reading rows of a validated input file, a window at a time, by offset.
//!
//! Blocks; runs off the async threads. Memory is one window. A line is read again for each retry
//! instead of being kept while its row waits. A row whose lane has enough rows is skipped, and
//! remembered by its place.

use std::io::{BufReader, Seek, SeekFrom};
use std::sync::Arc;

use super::row::{ReadyRow, RowRef, WaitingRow};
use super::window::{Cursor, Load, Room, Scan, Unread, Window};
use crate::domain::batch::BatchSpec;
use crate::domain::batch::plan::{Places, RefusedModel};
use crate::domain::id::{RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::lines::{Line, Lines};
use crate::domain::row::openai::RowRequest;
use crate::domain::row::prefix::Opening;
use crate::domain::row::{Outcome, RowError};
use crate::domain::time::Clock;
use crate::domain::vocabulary::Operation;
use crate::executor::attempt::attachments::describe;
use crate::executor::dedup::answer_cache::AnswerCache;
use crate::executor::lane::call::Met;
use crate::executor::lane::route::LaneRoute;
use crate::executor::lane::routes::RouteTable;
use crate::executor::run::row::unanswered;
use crate::quote::measured::measure;
use crate::store::error::StoreError;
use crate::store::{DataFile, LiveBatch, PackedRow, Page, ROWS_PER_PAGE, Store};

/// The input file to read, and what its reader needs.
#[derive(Debug, Clone)]
pub struct Source {
    pub store: Store,
    pub clock: Clock,
    pub spec: Arc<BatchSpec>,
    pub total: u32,
    pub live: Arc<LiveBatch>,
    /// Maps a row to its model's index in the plan.
    pub places: Arc<Places>,
    /// The longest row that validation takes, in bytes.
    pub max_row_bytes: usize,
    /// The models that cannot run, in a batch in which their rows fail alone.
    pub refused: Arc<[RefusedModel]>,
    pub ways: Arc<RouteTable>,
    /// How the rows share answers, if they do.
    pub shared: Option<AnswerCache>,
}

/// An unfinished row, with its id and its operation as far as they can be read.
pub type Unfinished = (RowIndex, Option<(String, Option<Operation>)>);

/// The most lines that one load skips, for each row of the window.
const READ_OVER: usize = 16;
/// The longest line that is read: the largest value of the setting. The setting itself may have
/// been lowered since the file was validated.
const MAX_LINE: usize = 1 << 30;
/// Bytes read at once: for consecutive rows, and for scattered ones.
const STREAM_BUFFER: usize = 64 << 10;
const SCATTER_BUFFER: usize = 16 << 10;

/// Reads lines by their offsets.
struct Scattered {
    reader: BufReader<DataFile>,
    at: u64,
}

impl Scattered {
    /// Reads the line at `offset` and passes it to `use_line`. Bytes nearby are not read twice.
    fn line<R>(&mut self, offset: u64, use_line: impl FnOnce(Line<'_>) -> R) -> std::io::Result<R> {
        match i64::try_from(i128::from(offset) - i128::from(self.at)) {
            Ok(distance) => self.reader.seek_relative(distance)?,
            Err(_) => _ = self.reader.seek(SeekFrom::Start(offset))?,
        }
        let mut lines = Lines::new(&mut self.reader, MAX_LINE);
        lines.advance()?;
        let result = use_line(lines.latest());
        self.at = offset + lines.end();
        Ok(result)
    }
}

/// A line, prepared for its row to run.
enum Prepared {
    Ready(Box<ReadyRow>),
    /// The row's route leads nowhere at present.
    Deferred,
    /// The line is not what was validated.
    Unreadable,
}

impl Source {
    fn open(&self, offset: u64) -> Result<Lines<BufReader<DataFile>>, StoreError> {
        let mut file = self.store.open_content(self.spec.input_file)?;
        file.seek(SeekFrom::Start(offset)).map_err(|e| StoreError::unreadable(self.spec.input_file, &e))?;
        Ok(Lines::new(BufReader::with_capacity(STREAM_BUFFER, file), MAX_LINE))
    }

    fn scattered(&self) -> Result<Scattered, StoreError> {
        let file = self.store.open_content(self.spec.input_file)?;
        Ok(Scattered { reader: BufReader::with_capacity(SCATTER_BUFFER, file), at: 0 })
    }

    /// Loads what is asked for. If it cannot be read now, the load is returned with nothing lost.
    pub fn load(&self, load: Load) -> Result<Window, Box<Unread>> {
        let mut window = Window::empty(load.window, self.ways.clone());
        let Load { due, deferred, scan, .. } = load;
        let mut left = due.into_iter();
        let read = self.read_due(&mut left, &mut window);
        let from_due = window.rows.len();
        let read = read.and_then(|()| self.read_deferred(&deferred, &mut window)).and_then(|()| match &scan {
            Some(scan) if !window.is_full() => self.scan(scan, &mut window),
            Some(_) | None => Ok(()),
        });
        match read {
            Ok(()) => Ok(window),
            // What was read so far is read once more.
            Err(error) => {
                let now = tokio::time::Instant::now();
                let again = window.rows.into_iter().take(from_due).map(|row| row.wait_until(now));
                let due = again.chain(window.unread).chain(left).collect();
                Err(Box::new(Unread { error, load: Load { window: load.window, due, deferred, scan } }))
            }
        }
    }

    /// Reads rows again for another attempt.
    fn read_due(&self, due: &mut std::vec::IntoIter<WaitingRow>, window: &mut Window) -> Result<(), StoreError> {
        if due.len() == 0 {
            return Ok(());
        }
        let mut file = self.scattered()?;
        for row in due.by_ref() {
            if window.is_full() {
                window.unread.push(row);
                continue;
            }
            let read = file.line(row.at.offset, |line| self.prepare(row.at, line, Some(row.route)));
            match read.map_err(|e| StoreError::unreadable(self.spec.input_file, &e)) {
                Ok(Prepared::Ready(ready)) => _ = self.keep(row.resume(*ready), window)?,
                Ok(Prepared::Deferred) => window.unread.push(row),
                Ok(Prepared::Unreadable) => self.close(row.at, window)?,
                Err(error) => {
                    window.unread.push(row);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Reads rows that were skipped before.
    fn read_deferred(&self, deferred: &[(RowRef, u16)], window: &mut Window) -> Result<(), StoreError> {
        if deferred.is_empty() {
            return Ok(());
        }
        let mut file = self.scattered()?;
        for (at, route) in deferred {
            if window.is_full() {
                window.deferred.push(*at);
                continue;
            }
            let read = file.line(at.offset, |line| self.prepare(*at, line, Some(*route)));
            match read.map_err(|e| StoreError::unreadable(self.spec.input_file, &e))? {
                Prepared::Ready(ready) => _ = self.keep(*ready, window)?,
                Prepared::Deferred => window.deferred.push(*at),
                Prepared::Unreadable => self.close(*at, window)?,
            }
        }
        Ok(())
    }

    /// Reads unfinished rows from the cursor on.
    fn scan(&self, scan: &Scan, window: &mut Window) -> Result<(), StoreError> {
        let Some(from) = self.skip_complete(scan.from) else {
            window.next = Some(None);
            return Ok(());
        };
        let mut room = scan.room.clone();
        let mut lines = self.open(from.offset)?;
        let mut row = from.row;
        let mut page = self.live.page(row / ROWS_PER_PAGE);
        let mut deferred = Vec::new();
        let most = window.size.rows.saturating_mul(READ_OVER);
        let taken_up = |window: &Window, deferred: &[RowRef]| deferred.len() + window.closed as usize >= most;
        while row < self.total && !window.is_full() && room.is_left() && !taken_up(window, &deferred) {
            if row.is_multiple_of(ROWS_PER_PAGE) {
                page = self.live.page(row / ROWS_PER_PAGE);
            }
            let slot = row % ROWS_PER_PAGE;
            let is_refused = page.as_ref().is_some_and(|page| page.is_refused(slot));
            lines.limit(if is_refused { self.max_row_bytes } else { MAX_LINE });
            let place = lines.advance().map_err(|e| StoreError::unreadable(self.spec.input_file, &e))?;
            let at = RowRef { row: RowIndex(row), model: 0, offset: from.offset + place.map_or(0, |place| place.offset) };
            if place.is_none() {
                return Err(self.changed(at));
            }
            if page.as_ref().is_some_and(|page| !page.is_done(slot)) {
                match is_refused {
                    true => self.refuse(at, lines.latest(), window)?,
                    false => self.take(at, lines.latest(), &mut room, &mut deferred, window)?,
                }
            }
            row += 1;
        }
        let offset = from.offset + lines.end();
        window.deferred.append(&mut deferred);
        window.next = Some((row < self.total).then_some(Cursor { row, offset }));
        Ok(())
    }

    fn take(&self, at: RowRef, line: Line<'_>, room: &mut Room, deferred: &mut Vec<RowRef>, window: &mut Window) -> Result<(), StoreError> {
        let Some((row, model)) = self.place(at.row, line) else { return self.close(at, window) };
        let at = RowRef { model, ..at };
        let owner = self.ways.owner(model, || Some(Opening::worth_an_order(row.body.as_bytes())?.family()));
        let Some(route) = room.take(model, owner) else {
            deferred.push(at);
            return Ok(());
        };
        match self.ready(at, &row, Some(route)) {
            Some(ready) => {
                // Of some rows the answer is there already.
                if !self.keep(ready, window)? {
                    room.give_back(model, route);
                }
            }
            None => {
                room.give_back(model, route);
                deferred.push(at);
            }
        }
        Ok(())
    }

    /// The cursor beyond pages that have nothing left to run; `None` at the end.
    fn skip_complete(&self, mut at: Cursor) -> Option<Cursor> {
        while at.row.is_multiple_of(ROWS_PER_PAGE) && self.live.page(at.row / ROWS_PER_PAGE)?.is_complete() {
            let next = self.live.page(at.row / ROWS_PER_PAGE + 1)?;
            at = Cursor { row: at.row + ROWS_PER_PAGE, offset: next.input_offset };
        }
        Some(at)
    }

    fn prepare(&self, at: RowRef, line: Line<'_>, route: Option<u16>) -> Prepared {
        let Some((row, model)) = self.place(at.row, line) else { return Prepared::Unreadable };
        match self.ready(RowRef { model, ..at }, &row, route) {
            Some(ready) => Prepared::Ready(Box::new(ready)),
            None => Prepared::Deferred,
        }
    }

    /// Prepares the row for its route, or for the route of fresh rows of its model; `None` if that
    /// route leads nowhere.
    fn ready(&self, at: RowRef, row: &RowRequest<'_>, route: Option<u16>) -> Option<ReadyRow> {
        let route = self.ways.supporting(route.or_else(|| self.ways.primary(at.model))?, row);
        let way = self.ways.get(route).filter(|way| way.lane.is_some())?;
        let (custom_id, operation) = (row.custom_id.as_ref().into(), row.operation);
        let (form, body) = self.request(row, way);
        let opening = way.by_prefix.then(|| Opening::worth_an_order(&body)).flatten().map(Box::new);
        let asked = self.shared.map(|shared| shared.ask(way, form, &body));
        let most = self.most(row, way).map(Box::new);
        let (history, met, last) = (Vec::new(), Met::default(), None);
        Some(ReadyRow { at, route, custom_id, operation, form, body, opening, most, asked, history, met, last })
    }

    /// The most that a row may cost on a route, without the fee; `None` where nobody pays for rows.
    fn most(&self, row: &RowRequest<'_>, way: &LaneRoute) -> Option<Usd> {
        let find = |name: &str| describe(&self.store, name, self.spec.org, self.clock.now());
        // Every item was measured before, so this cannot fail.
        let measured = row.operation.map(|_| measure(row, &find))?.ok()?;
        Some(way.price.cost(&measured.most(way.most_output)))
    }

    /// Puts a row into the window, unless the answer to its request is stored already. Returns
    /// whether the row is in the window.
    fn keep(&self, row: ReadyRow, window: &mut Window) -> Result<bool, StoreError> {
        let key = RowKey { batch: self.spec.id, row: row.at.row };
        let answer = self.shared.and_then(|shared| shared.answer(&self.store, key, &row, self.clock.now()));
        let Some(result) = answer else {
            window.push(row);
            return Ok(true);
        };
        self.store.record_unrun_blocking(PackedRow::pack(&result)?)?;
        window.closed += 1;
        window.shared += 1;
        Ok(false)
    }

    fn parse<'a>(&'a self, line: Line<'a>) -> Option<RowRequest<'a>> {
        match line {
            Line::Text(text) => self.spec.input.parse(text).ok(),
            Line::TooLong => None,
        }
    }

    /// The row of a line, and its place in the plan.
    fn place<'a>(&'a self, index: RowIndex, line: Line<'a>) -> Option<(RowRequest<'a>, u16)> {
        let row = self.parse(line)?;
        let model = self.places.of(&row, index)?;
        Some((row, model))
    }

    /// Writes the result of a row whose line is no longer what was validated.
    fn close(&self, at: RowRef, window: &mut Window) -> Result<(), StoreError> {
        tracing::error!(batch = %self.spec.id, line = at.row.line(), "a line of the input is not what it was when it was validated");
        let key = RowKey { batch: self.spec.id, row: at.row };
        let result = unanswered(key, line_name(at.row), None, unreadable(&self.changed(at).to_string()), self.clock.now());
        self.store.record_unrun_blocking(PackedRow::pack(&result)?)?;
        window.closed += 1;
        Ok(())
    }

    /// The unfinished rows of a page in order, each with its id and operation, or `None` where its
    /// line is no longer what was validated.
    pub fn unfinished_ids(&self, number: u32, page: &Page) -> Result<Vec<Unfinished>, StoreError> {
        let mut lines = self.open(page.input_offset)?;
        let mut ids = Vec::new();
        for slot in 0..u32::from(page.rows) {
            let place = lines.advance().map_err(|e| StoreError::unreadable(self.spec.input_file, &e))?;
            if !page.is_done(slot) {
                let told = place.and_then(|_| self.told(lines.latest()));
                ids.push((RowIndex(number * ROWS_PER_PAGE + slot), told));
            }
        }
        Ok(ids)
    }

    fn changed(&self, at: RowRef) -> StoreError {
        let reason = format!("line {} is not what it was when the file was validated", at.row.line());
        StoreError::unreadable(self.spec.input_file, &std::io::Error::other(reason))
    }
}

/// The name of a row whose id can no longer be read.
pub fn line_name(row: RowIndex) -> String {
    format!("line-{}", row.line())
}

/// The outcome of a row whose line can no longer be read.
pub fn unreadable(reason: &str) -> Outcome {
    let error = RowError { code: "input_unreadable".to_owned(), message: reason.to_owned() };
    Outcome::Failed { error, last: None }
}
