//! Runs of results, as they are read: those rows of one page that are in runs.

use std::ops::Range;

use super::StoreError;
use super::format::{self, ROWS_PER_PAGE};
use super::record::run::{Place, Run, StoredRun};
use crate::domain::id::{BatchId, RowIndex};

/// Rows that are in runs, unpacked. At most a page of them, each as small as a row in a run is.
#[derive(Debug)]
pub(super) struct Runs {
    rows: Range<u32>,
    /// The bodies of each run.
    bodies: Vec<Vec<u8>>,
    /// For each of the rows, if it is in a run, in which one and where.
    places: Vec<Option<(usize, Place)>>,
}

impl Runs {
    /// Reads those of `rows`, which are of one page. Blocks.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn read(tree: &sled::Tree, batch: BatchId, rows: Range<u32>) -> Result<Self, StoreError> {
        let mut found = Self { bodies: Vec::new(), places: vec![None; rows.len()], rows };
        let page = found.rows.start / ROWS_PER_PAGE * ROWS_PER_PAGE;
        let mut entries = tree.range(format::run(batch, RowIndex(page))..format::run(batch, RowIndex(found.rows.end)));
        while let Some(entry) = entries.next() {
            let (key, head) = entry?;
            // The rest of a run that was skipped.
            let Some((RowIndex(first), 0)) = format::parse_result(&key) else { continue };
            let run = StoredRun::open(first, &head)?;
            if run.last() < found.rows.start {
                continue;
            }
            let chunks = run.chunks();
            // A part of it is missing while it is being removed.
            let Some(run) = whole(head, chunks, &mut entries)? else { continue };
            found.add(StoredRun::open(first, &run)?.unpack()?);
        }
        Ok(found)
    }

    fn add(&mut self, Run { places, bodies }: Run) {
        for place in places {
            let index = place.row.checked_sub(self.rows.start);
            if let Some(known) = index.and_then(|index| self.places.get_mut(index as usize)) {
                *known = Some((self.bodies.len(), place));
            }
        }
        self.bodies.push(bodies);
    }

    /// Whether the row is one of those that were to be read.
    pub fn covers(&self, row: u32) -> bool {
        self.rows.contains(&row)
    }

    /// The size of the row's line and its body, if it is in a run.
    pub fn get(&self, row: u32) -> Option<(u32, &[u8])> {
        let (run, place) = self.places.get(row.checked_sub(self.rows.start)? as usize)?.as_ref()?;
        Some((place.line_bytes, self.bodies.get(*run)?.get(place.body.clone())?))
    }
}

/// All chunks of a record, the first of which is known; `entries` are those behind it. `None` if some
/// of them are missing.
pub(super) fn whole(first: sled::IVec, chunks: u16, entries: &mut sled::Iter) -> Result<Option<sled::IVec>, StoreError> {
    if chunks <= 1 {
        return Ok(Some(first));
    }
    let mut whole = first.to_vec();
    for number in 1..chunks {
        let Some(entry) = entries.next() else { return Ok(None) };
        let (key, chunk) = entry?;
        if !key.ends_with(&number.to_be_bytes()) {
            return Ok(None);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Some(whole.into()))
}
