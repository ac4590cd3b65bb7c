//! Checks the rows of one batch: its pages, and the results that they count.

use std::collections::BTreeMap;

use super::super::ROWS_PER_PAGE;
use super::super::examine::{Examined, examine};
use super::super::key::Key;
use super::super::record::Record;
use super::super::record::packed::Packed;
use super::super::record::page::Page;
use super::super::record::result::{self, ResultRecord};
use super::super::record::run::Run;
use super::super::results::check_line;
use crate::domain::batch::Progress;
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::row::RowResult;
use crate::store::record::error::RecordError;

/// The most ranges of rows that one line names.
const NAMED: usize = 50;

/// The rows of one batch, as they are read.
pub(super) struct RowsOf {
    pub batch: BatchId,
    deep: bool,
    pages: BTreeMap<u32, Counted>,
}

/// A page, and the counts that its results give.
struct Counted {
    page: Option<Page>,
    /// Rows that have a result.
    found: [u64; ROWS_PER_PAGE as usize / 64],
    /// The page as its results give it; only in a deep check.
    recounted: Page,
}

/// The sums over the pages of a batch.
pub(super) struct Sums {
    pub batch: BatchId,
    /// `None` if some pages are missing.
    pub progress: Option<Progress>,
}

impl RowsOf {
    pub fn new(batch: BatchId, deep: bool) -> Self {
        Self { batch, deep, pages: BTreeMap::new() }
    }

    /// Whether a key belongs to these rows.
    pub fn is_of(&self, key: &Key) -> bool {
        matches!(key, Key::Page(batch, _) | Key::Alone(batch, _) | Key::Run(batch, _) if *batch == self.batch)
    }

    /// Rows with a result.
    pub fn found(&self) -> u64 {
        self.pages.values().flat_map(|page| page.found).map(|bits| u64::from(bits.count_ones())).sum()
    }

    pub fn add(&mut self, key: &Key, bytes: &[u8]) -> Result<(), RecordError> {
        match key {
            Key::Page(_, number) => {
                if let Examined::Page(page) = examine(key, bytes)? {
                    let counted = self.page(*number);
                    counted.recounted = page.undone();
                    counted.page = Some(*page);
                }
            }
            Key::Alone(_, row) if self.deep => {
                if let Examined::Alone(result, line_bytes) = examine(key, bytes)? {
                    self.count(&result, line_bytes)?;
                }
                self.has(row.0);
            }
            Key::Alone(_, row) => {
                let chunks = Packed::open::<ResultRecord>(bytes)?.chunks;
                if bytes.len().div_ceil(super::super::format::MAX_VALUE) != usize::from(chunks) {
                    return Err(damaged("not all of its parts are there"));
                }
                self.has(row.0);
            }
            _ => {
                if let Examined::Run(run) = examine(key, bytes)? {
                    self.add_run(&run)?;
                }
            }
        }
        Ok(())
    }

    fn add_run(&mut self, run: &Run) -> Result<(), RecordError> {
        for place in &run.places {
            if self.deep {
                let body = run.bodies.get(place.body.clone()).unwrap_or_default();
                let result = result::unpack(body, RowKey { batch: self.batch, row: RowIndex(place.row) })?;
                self.count(&result, place.line_bytes)?;
            }
            self.has(place.row);
        }
        Ok(())
    }

    fn page(&mut self, number: u32) -> &mut Counted {
        let fresh = || Counted { page: None, found: Default::default(), recounted: Page::new(0, 0) };
        self.pages.entry(number).or_insert_with(fresh)
    }

    fn has(&mut self, row: u32) {
        let slot = row % ROWS_PER_PAGE;
        self.page(row / ROWS_PER_PAGE).found[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn count(&mut self, result: &RowResult, line_bytes: u32) -> Result<(), RecordError> {
        if let Err(length) = check_line(result, line_bytes) {
            return Err(damaged(&format!("the line of row {} is {length} bytes long and counts as {line_bytes}", result.key.row.0)));
        }
        let slot = result.key.row.0 % ROWS_PER_PAGE;
        let page = &mut self.page(result.key.row.0 / ROWS_PER_PAGE).recounted;
        page.finish(slot, result.outcome.end(), line_bytes.into(), result.usage, result.cost);
        Ok(())
    }

    /// Reports everything that does not fit; `is_shown` if results must be there.
    pub fn end(&self, is_shown: bool, report: &mut dyn FnMut(&str)) -> Sums {
        let batch = self.batch;
        let mut sums = Sums { batch, progress: Some(Progress::default()) };
        if !is_shown {
            return Sums { batch, progress: None };
        }
        let (mut missing, mut uncounted) = (Vec::new(), Vec::new());
        for (expected, (number, counted)) in (0..).zip(&self.pages) {
            let Counted { page, found, recounted } = counted;
            let Some(page) = page.as_ref().filter(|_| expected == *number) else {
                report(&format!("batch {batch}: the counts of rows from {} on are missing", expected * ROWS_PER_PAGE));
                sums.progress = None;
                break;
            };
            if let Some(progress) = &mut sums.progress {
                page.add_to(progress);
            }
            for slot in 0..ROWS_PER_PAGE {
                let is_found = found[slot as usize / 64] & (1 << (slot % 64)) != 0;
                match (page.is_done(slot), is_found) {
                    (true, false) => missing.push(number * ROWS_PER_PAGE + slot),
                    (false, true) => uncounted.push(number * ROWS_PER_PAGE + slot),
                    _ => {}
                }
            }
            if self.deep && missing.is_empty() && uncounted.is_empty() && page != recounted {
                report(&format!("batch {batch}: what is counted of page {number} of its rows is not what their results say"));
            }
        }
        for (rows, what) in
            [(missing, "count as done, but their results are missing"), (uncounted, "have results, and do not count as done")]
        {
            let ranges = ranges(&rows);
            if !ranges.is_empty() {
                let named = ranges.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if ranges.len() > NAMED { " and more" } else { "" };
                report(&format!("batch {batch}: {} rows {what}: {named}{more}", rows.len()));
            }
        }
        sums
    }
}

fn damaged(reason: &str) -> RecordError {
    RecordError::Damaged { what: ResultRecord::NAME, reason: reason.to_owned() }
}

/// Describes rows, which are in ascending order, as ranges in words.
pub(in crate::store) fn ranges(rows: &[u32]) -> Vec<String> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for row in rows {
        match found.last_mut().filter(|(_, last)| last + 1 == *row) {
            Some((_, last)) => *last = *row,
            None => found.push((*row, *row)),
        }
    }
    found.into_iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") }).collect()
}
