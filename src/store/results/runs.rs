//! Reads runs of results: those rows of one page that are in runs.

use std::ops::Range;

use super::chunks::whole;
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::store::error::StoreError;
use crate::store::format;
use crate::store::format::ROWS_PER_PAGE;
use crate::store::record::error::RecordError;
use crate::store::record::run::{RowPlace, Run, StoredRun};
use crate::store::tree::Tree;

/// Unpacked rows of runs: at most one page of them, each as small as rows in runs are.
#[derive(Debug)]
pub struct Runs {
    rows: Range<u32>,
    /// The bodies of each run that contains some of the rows.
    bodies: Vec<Vec<u8>>,
    /// For each row that is in a run: the index of the run, and the row's place in it.
    places: Vec<Option<(usize, RowPlace)>>,
}

impl Runs {
    /// Reads those of `rows`, all of one page, that are in runs; runs whose first row is not
    /// `wanted` are skipped. Blocks.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn read(tree: &Tree, batch: BatchId, rows: Range<u32>, wanted: impl Fn(u32) -> bool) -> Result<Self, StoreError> {
        let mut found = Self { bodies: Vec::new(), places: vec![None; rows.len()], rows };
        let from = format::run(batch, RowIndex(found.rows.start / ROWS_PER_PAGE * ROWS_PER_PAGE));
        for entry in tree.range(from..format::run(batch, RowIndex(found.rows.end))) {
            let (key, head) = entry?;
            let Some((RowIndex(first), 0)) = format::parse_chunk(&key) else { continue };
            let run = StoredRun::open(first, &head)?;
            if run.last() < found.rows.start || !wanted(first) {
                continue;
            }
            // A part of the run may be missing while it is being removed.
            if let Some(whole) = whole(tree, &format::run(batch, RowIndex(first)), &head, run.chunks())? {
                found.add(StoredRun::open(first, &whole)?.unpack()?);
            }
        }
        Ok(found)
    }

    fn add(&mut self, Run { places, bodies }: Run) {
        let mut taken = false;
        for place in places {
            let index = place.row.checked_sub(self.rows.start);
            if let Some(known) = index.and_then(|index| self.places.get_mut(index as usize)) {
                *known = Some((self.bodies.len(), place));
                taken = true;
            }
        }
        if taken {
            self.bodies.push(bodies);
        }
    }

    /// Whether the row is within the range that was read.
    pub fn covers(&self, row: u32) -> bool {
        self.rows.contains(&row)
    }

    /// Returns the size of the row's line and the row's body, if the row is in a run.
    pub fn get(&self, row: u32) -> Option<(u32, &[u8])> {
        let (run, place) = self.places.get(row.checked_sub(self.rows.start)? as usize)?.as_ref()?;
        Some((place.line_bytes, self.bodies.get(*run)?.get(place.body.clone())?))
    }
}

/// Passes the body of one row to `read`, if the row is in a run. Blocks.
///
/// # Errors
/// As [`Runs::read`], and the errors of `read`.
pub fn read_one<T>(tree: &Tree, key: RowKey, read: impl FnOnce(&[u8]) -> Result<T, RecordError>) -> Result<Option<T>, StoreError> {
    let row = key.row.0;
    let page = format::run(key.batch, RowIndex(row / ROWS_PER_PAGE * ROWS_PER_PAGE));
    // The nearest run comes first: rows that finished alone, or in order, are in the first run that
    // is examined.
    for entry in tree.range(page..format::run(key.batch, RowIndex(row.saturating_add(1)))).rev() {
        let (place, head) = entry?;
        let Some((RowIndex(first), 0)) = format::parse_chunk(&place) else { continue };
        let run = StoredRun::open(first, &head)?;
        if run.last() < row {
            continue;
        }
        let Some(whole) = whole(tree, &format::run(key.batch, RowIndex(first)), &head, run.chunks())? else { continue };
        let Run { places, bodies } = StoredRun::open(first, &whole)?.unpack()?;
        let found = places.into_iter().find(|place| place.row == row);
        if let Some(body) = found.and_then(|place| bodies.get(place.body)) {
            return Ok(Some(read(body)?));
        }
    }
    Ok(None)
}
