//! The rows of one batch: the readable results, and pages that count exactly these results.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Seek, SeekFrom, Write};

use super::super::dir::{DataFile, Folder};
use super::super::examine::{Examined, Gathered, Gathering, examine};
use super::super::format::{self, ROWS_PER_PAGE};
use super::super::key::Key;
use super::super::record::page::{Page, PageRecord};
use super::super::record::result;
use super::super::record::run::{Run, RunRow};
use super::super::record::{self};
use super::super::results::row_group::write_runs;
use super::super::results::{PackedForm, PackedRow};
use super::Out;
use super::content::SalvagedContent;
use crate::domain::batch::{BatchSpec, Progress};
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::lines::{Line, Lines};
use crate::domain::row::output;
use crate::domain::row::{Outcome, RowError, RowResult};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::domain::vocabulary::Operation;
use crate::store::error::StoreError;

/// The code of a row whose result was lost.
const LOST: &str = "result_lost";
const LOST_MESSAGE: &str = "The result of this request was lost in damage to the disk.";
/// The longest input line that is searched for a row's name, in bytes.
const MAX_LINE: usize = 64 << 20;

/// The rows of a batch.
pub(super) struct SalvagedRows {
    id: BatchId,
    /// The pages as they were read.
    old: BTreeMap<u32, Page>,
    /// The pages as the readable results make them.
    new: BTreeMap<u32, Page>,
}

/// What is known of a batch's rows besides their results.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Rows of the batch.
    pub total: Option<u32>,
    /// Rows that had a result when the batch ended.
    pub done: Option<u32>,
}

impl SalvagedRows {
    /// Reads all rows, and removes from the new store records that cannot be read or would count
    /// twice.
    pub fn read(id: BatchId, known: Known, out: &mut Out) -> Result<Self, StoreError> {
        let mut rows = Self { id, old: BTreeMap::new(), new: BTreeMap::new() };
        let tree = out.tree.clone();
        let mut gathering = Gathering::default();
        for entry in tree.scan_prefix(format::rows_of(id)) {
            let (key, value) = entry?;
            if let Ok(Some(record)) = gathering.next(&key, &value, true) {
                rows.add(&record, known, out)?;
                out.write_much()?;
            }
        }
        if let Some(record) = gathering.end() {
            rows.add(&record, known, out)?;
        }
        out.write()?;
        Ok(rows)
    }

    fn add(&mut self, record: &Gathered, known: Known, out: &mut Out) -> Result<(), StoreError> {
        let examined = record.bytes().and_then(|bytes| examine(&record.key, &bytes).ok());
        let is_row = |row: u32| known.total.is_none_or(|total| row < total);
        match (record.key, examined) {
            (Key::Page(_, number), Some(Examined::Page(page))) => drop(self.old.insert(number, *page)),
            (_, Some(Examined::Alone(result, line_bytes))) if is_row(result.key.row.0) && self.count(&result, line_bytes) => {}
            (_, Some(Examined::Run(run))) => {
                let good = self.count_run(&run, &is_row);
                if good.len() < run.places.len() {
                    remove(record, out);
                    write_runs(self.id, good, &mut out.writes)?;
                }
            }
            _ => remove(record, out),
        }
        Ok(())
    }

    /// Counts a result. Returns `false` if its row already has one.
    fn count(&mut self, result: &RowResult, line_bytes: u32) -> bool {
        let row = result.key.row.0;
        let page = self.page(row / ROWS_PER_PAGE);
        page.finish(row % ROWS_PER_PAGE, result.outcome.end(), line_bytes.into(), result.usage, result.cost)
    }

    fn page(&mut self, number: u32) -> &mut Page {
        let full = u16::try_from(ROWS_PER_PAGE).unwrap_or(u16::MAX);
        self.new.entry(number).or_insert_with(|| Page::new(0, full))
    }

    /// Counts the results of a run; returns those that could be counted.
    fn count_run(&mut self, run: &Run, is_row: &impl Fn(u32) -> bool) -> Vec<RunRow> {
        let mut good = Vec::new();
        for place in &run.places {
            let body = run.bodies.get(place.body.clone()).unwrap_or_default();
            let key = RowKey { batch: self.id, row: RowIndex(place.row) };
            let result = result::unpack(body, key).ok().filter(|_| is_row(place.row));
            if result.is_some_and(|result| self.count(&result, place.line_bytes)) {
                good.push(RunRow { row: place.row, line_bytes: place.line_bytes, body: body.to_vec() });
            }
        }
        good
    }

    /// Whether there are pages or results.
    pub fn is_empty(&self) -> bool {
        self.old.is_empty() && self.new.is_empty()
    }

    /// The batch's number of rows: the known total, or as far as its pages and results go.
    pub fn total(&self, known: Known) -> u32 {
        if let Some(total) = known.total {
            return total;
        }
        let of_page = |(number, page): (&u32, &Page)| number * ROWS_PER_PAGE + u32::from(page.rows);
        let of_results = self.new.iter().flat_map(|(number, page)| {
            (0..ROWS_PER_PAGE).filter(|slot| page.is_done(*slot)).map(move |slot| number * ROWS_PER_PAGE + slot + 1)
        });
        self.old.iter().map(of_page).chain(of_results).max().unwrap_or(0)
    }

    /// Makes pages for `total` rows. `offsets` tells where pages begin in the input, if an old page
    /// does not.
    pub fn fit(&mut self, total: u32, offsets: impl FnOnce() -> Vec<u64>) {
        let pages = total.div_ceil(ROWS_PER_PAGE);
        let needs_offsets = (0..pages).any(|number| !self.old.contains_key(&number));
        let offsets = if needs_offsets { offsets() } else { Vec::new() };
        for number in 0..pages {
            let rows = u16::try_from((total - number * ROWS_PER_PAGE).min(ROWS_PER_PAGE)).unwrap_or(u16::MAX);
            let old = self.old.get(&number).cloned();
            let page = self.page(number);
            page.rows = rows;
            page.take_refused(old.as_ref());
            page.input_offset = old.map(|old| old.input_offset).or_else(|| offsets.get(number as usize).copied()).unwrap_or(0);
        }
        self.new.retain(|number, _| *number < pages);
    }

    /// Rows that have no result now, but had one or may have had one.
    pub fn lost(&self, known: Known, old_pages: &BTreeSet<(BatchId, u32)>) -> Vec<u32> {
        let found: u32 = self.new.values().map(|page| page.counts().0).sum();
        if known.done == Some(found) {
            return Vec::new();
        }
        let is_known = known.done.is_none();
        let rows = self.new.iter().flat_map(|(number, page)| {
            let old = self.old.get(number).filter(|_| is_known && !old_pages.contains(&(self.id, *number)));
            let was_done = move |slot: &u32| old.is_none_or(|old| old.is_done(*slot));
            let open = (0..u32::from(page.rows)).filter(|slot| !page.is_done(*slot));
            open.filter(was_done).map(move |slot| number * ROWS_PER_PAGE + slot)
        });
        rows.collect()
    }

    /// Replaces each lost result with a result that says what happened.
    pub fn fill(
        &mut self,
        lost: &[u32],
        spec: &BatchSpec,
        content: Option<&SalvagedContent>,
        at: Timestamp,
        out: &mut Out,
    ) -> Result<(), StoreError> {
        for rows in lost.chunk_by(|a, b| a / ROWS_PER_PAGE == b / ROWS_PER_PAGE) {
            let number = rows.first().map_or(0, |row| row / ROWS_PER_PAGE);
            let offset = self.page(number).input_offset;
            let names = names(content.and_then(SalvagedContent::open), offset, number, rows, spec);
            let mut joined = Vec::new();
            for row in rows {
                // The name that the executor gives a row whose line it cannot read.
                let unnamed = || (format!("line-{}", u64::from(*row) + 1), None);
                let (custom_id, operation) = names.get(row).cloned().unwrap_or_else(unnamed);
                let key = RowKey { batch: self.id, row: RowIndex(*row) };
                let error = RowError { code: LOST.to_owned(), message: LOST_MESSAGE.to_owned() };
                let outcome = Outcome::Failed { error, last: None };
                let (usage, cost) = (Usage::default(), Usd::ZERO);
                let result = RowResult { key, custom_id, operation, outcome, usage, cost, attempts: Vec::new(), finished_at: at };
                let packed = PackedRow::pack(&result)?;
                self.count(&result, packed.line_bytes);
                match packed.form {
                    PackedForm::Joined(body) => joined.push(RunRow { row: *row, line_bytes: packed.line_bytes, body }),
                    PackedForm::Alone(packed) => out.writes.put(&format::result(self.id, key.row), &packed),
                }
            }
            write_runs(self.id, joined, &mut out.writes)?;
            out.write_much()?;
        }
        Ok(())
    }

    /// The sums over all pages.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        self.new.values().for_each(|page| page.add_to(&mut progress));
        progress
    }

    /// Writes the pages.
    pub fn write(&self, out: &mut Out) -> Result<(), StoreError> {
        for number in self.old.keys().filter(|number| !self.new.contains_key(number)) {
            out.writes.remove(format::page(self.id, *number));
        }
        for (number, page) in &self.new {
            if self.old.get(number) != Some(page) {
                out.writes.insert(format::page(self.id, *number), record::encode(&PageRecord::from(page))?);
                out.write_much()?;
            }
        }
        out.write()
    }

    /// Writes the readable results as lines to a file; returns how many there are.
    pub fn write_lines(id: BatchId, out: &Out, folder: &dyn Fn() -> Result<Folder, StoreError>) -> Result<u64, StoreError> {
        let mut gathering = Gathering::default();
        let mut lines = SalvagedLines { id, folder, file: None, written: 0 };
        for entry in out.tree.scan_prefix(format::rows_of(id)) {
            let (key, value) = entry?;
            if let Ok(Some(record)) = gathering.next(&key, &value, true) {
                lines.add(&record)?;
            }
        }
        if let Some(record) = gathering.end() {
            lines.add(&record)?;
        }
        Ok(lines.written)
    }

    /// Removes all rows of a batch.
    pub fn remove(id: BatchId, out: &mut Out) -> Result<(), StoreError> {
        let tree = out.tree.clone();
        for key in tree.scan_prefix(format::rows_of(id)).keys() {
            out.writes.remove(key?.to_vec());
            out.write_much()?;
        }
        out.write()
    }
}

fn remove(record: &Gathered, out: &mut Out) {
    for (key, _) in &record.values {
        out.writes.remove(key.clone());
    }
}

/// A file of results.
struct SalvagedLines<'a> {
    id: BatchId,
    /// Opens the folder for the file; called only if there are results.
    folder: &'a dyn Fn() -> Result<Folder, StoreError>,
    file: Option<DataFile>,
    written: u64,
}

impl SalvagedLines<'_> {
    fn add(&mut self, record: &Gathered) -> Result<(), StoreError> {
        let mut text = Vec::new();
        match record.bytes().and_then(|bytes| examine(&record.key, &bytes).ok()) {
            Some(Examined::Alone(result, _)) => {
                output::write_line(&*result, &mut text);
                self.written += 1;
            }
            Some(Examined::Run(run)) => {
                for place in &run.places {
                    let key = RowKey { batch: self.id, row: RowIndex(place.row) };
                    if let Ok(line) = result::line(run.bodies.get(place.body.clone()).unwrap_or_default(), key) {
                        output::write_line(line, &mut text);
                        self.written += 1;
                    }
                }
            }
            _ => {}
        }
        if text.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert((self.folder)()?.create(format!("{}.jsonl", self.id))?),
        };
        file.write_all(&text).map_err(|error| StoreError::Unexpected(format!("writing results of {}: {error}", self.id)))
    }
}

/// Where the first row of each page begins in the input, in bytes, as far as the content can be
/// read.
pub(super) fn offsets(content: &SalvagedContent) -> Vec<u64> {
    let mut offsets = vec![0];
    let Some(file) = content.open() else { return offsets };
    let mut lines = Lines::new(BufReader::with_capacity(256 << 10, file), MAX_LINE);
    let mut rows = 0_u32;
    while let Ok(Some(place)) = lines.advance() {
        if rows > 0 && rows.is_multiple_of(ROWS_PER_PAGE) {
            offsets.push(place.offset);
        }
        rows += 1;
    }
    offsets
}

type Names = BTreeMap<u32, (String, Option<Operation>)>;

/// The client's names for rows of one page, and their operations, as far as the input can be read.
fn names(content: Option<DataFile>, offset: u64, page: u32, rows: &[u32], spec: &BatchSpec) -> Names {
    let mut names = Names::new();
    let (Some(mut file), Some(last)) = (content, rows.last()) else { return names };
    if file.seek(SeekFrom::Start(offset)).is_err() {
        return names;
    }
    let mut lines = Lines::new(BufReader::new(file), MAX_LINE);
    for row in page * ROWS_PER_PAGE..=*last {
        let Ok(Some(_)) = lines.advance() else { break };
        if let Line::Text(line) = lines.latest()
            && rows.binary_search(&row).is_ok()
            && let Ok(request) = spec.input.parse(line)
        {
            names.insert(row, (request.custom_id.into_owned(), request.operation));
        }
    }
    names
}
