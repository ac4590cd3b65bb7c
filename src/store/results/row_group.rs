//! The results of one group of writes: the runs and large results that hold them, and the pages
//! that will count them.
//!
//! Invariant: the whole group becomes one atomic sled batch, and is published only after the flush.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{PackedForm, PackedRow};
use crate::domain::batch::Progress;
use crate::domain::id::{BatchId, RowIndex};
use crate::domain::row::RowEnd;
use crate::store::error::StoreError;
use crate::store::format;
use crate::store::format::ROWS_PER_PAGE;
use crate::store::live::Lives;
use crate::store::record;
use crate::store::record::page::{Page, PageRecord};
use crate::store::record::run::{RUN_BYTES, RunRow, pack_run};
use crate::store::sum::Sum;
use crate::store::tree::Tree;
use crate::store::writes::Writes;

/// Gathers results, then writes them, then publishes them to readers.
#[derive(Default)]
pub struct RowGroup {
    writes: Writes,
    batches: HashMap<BatchId, OfBatch>,
    /// Rows that went to a provider, whether or not their results were new.
    pub ran: u64,
}

#[derive(Default)]
struct OfBatch {
    pages: HashMap<u32, OfPage>,
    added: Progress,
}

struct OfPage {
    page: Page,
    /// Rows to be joined, failures and successes apart: a reader of one kind skips the other.
    joined: [Vec<RunRow>; 2],
}

impl RowGroup {
    /// Takes a result, if it is the first result of a row of a running batch.
    pub fn add(&mut self, row: PackedRow, lives: &Lives) {
        let (batch, index) = (row.key.batch, row.key.row);
        let Some(live) = lives.get(batch) else {
            tracing::error!(%batch, row = index.0, "a result came for a batch that has ended; it is dropped");
            return;
        };
        let OfBatch { pages, added } = self.batches.entry(batch).or_default();
        let number = index.0 / ROWS_PER_PAGE;
        let of_page = match pages.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => match live.page(number) {
                Some(page) => entry.insert(OfPage { page, joined: Default::default() }),
                None => {
                    tracing::error!(%batch, row = index.0, "a result came for a row beyond the batch; it is dropped");
                    return;
                }
            },
        };
        if !of_page.page.finish(index.0 % ROWS_PER_PAGE, row.end, row.line_bytes.into(), row.usage, row.cost) {
            tracing::error!(%batch, row = index.0, "a second result came for a row; the first one stands");
            return;
        }
        count(added, &row);
        let success = row.is_success();
        if let Some((key, pointer)) = row.pointer {
            self.writes.insert(key, pointer);
        }
        match row.form {
            PackedForm::Joined(body) => {
                of_page.joined[usize::from(success)].push(RunRow { row: index.0, line_bytes: row.line_bytes, body })
            }
            PackedForm::Alone(packed) => self.writes.put(&format::result(batch, index), &packed),
        }
    }

    /// Writes the whole group; returns how many values it wrote.
    pub fn write(&mut self, tree: &Tree, sum: &mut Sum, copy: Option<&mut Writes>) -> Result<usize, StoreError> {
        for (batch, of_batch) in &mut self.batches {
            for (number, OfPage { page, joined }) in &mut of_batch.pages {
                for rows in std::mem::take(joined) {
                    write_runs(*batch, rows, &mut self.writes)?;
                }
                self.writes.insert(format::page(*batch, *number), record::encode(&PageRecord::from(&*page))?);
            }
        }
        let writes = std::mem::take(&mut self.writes);
        let values = writes.len();
        writes.apply(tree, sum, copy)?;
        Ok(values)
    }

    /// Makes the results, which are durable now, visible to all readers.
    pub fn publish(self, lives: &Lives) {
        for (batch, OfBatch { pages, added }) in self.batches {
            if let Some(live) = lives.get(batch) {
                live.publish(pages.into_iter().map(|(number, of_page)| (number, of_page.page)).collect(), &added);
            }
        }
    }
}

fn count(added: &mut Progress, row: &PackedRow) {
    if row.is_success() {
        added.succeeded += 1;
        added.output_bytes += u64::from(row.line_bytes);
    } else {
        added.failed += 1;
        added.cancelled += u32::from(row.end == RowEnd::Cancelled);
        added.error_bytes += u64::from(row.line_bytes);
    }
    added.usage += row.usage;
    added.cost = added.cost.plus(row.cost);
}

/// Joins rows of one page into runs.
pub fn write_runs(batch: BatchId, mut rows: Vec<RunRow>, writes: &mut Writes) -> Result<(), StoreError> {
    rows.sort_unstable_by_key(|row| row.row);
    let mut rows = rows.as_slice();
    while let Some(first) = rows.first() {
        let mut bytes = 0;
        let fits = rows.iter().take_while(|row| {
            bytes += row.body.len();
            bytes <= RUN_BYTES
        });
        let (run, rest) = rows.split_at(fits.count().max(1));
        writes.put(&format::run(batch, RowIndex(first.row)), &pack_run(run)?);
        rows = rest;
    }
    Ok(())
}
