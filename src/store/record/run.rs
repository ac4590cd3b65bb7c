//! A run on disk, version 1: the results of some rows of one page, packed together.
//!
//! Small results that become durable together are stored together: one value instead of many, and
//! compression removes the parts that they share. The number in the envelope is the distance from
//! the first row, which the key names, to the last, so that a reader can skip runs without
//! unpacking them.
//!
//! Invariant: rows are in ascending order.

use std::ops::Range;

use bincode::Options;
use serde::{Deserialize, Serialize};

use super::packed::{Packed, pack};
use super::{Record, decode_body, options};
use crate::store::record::error::RecordError;

/// The most bytes of bodies in a run, unless it has a single row: enough to compress well, and
/// little enough to unpack for one row.
pub const RUN_BYTES: usize = 32 << 10;

/// A row of a run, ready to be packed.
#[derive(Debug)]
pub struct RunRow {
    /// The row's index in its batch.
    pub row: u32,
    /// Bytes of the row's output line, its line break included.
    pub line_bytes: u32,
    /// See [`super::result::body`].
    pub body: Vec<u8>,
}

/// Version 1 of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRecord {
    rows: Vec<EntryRecord>,
    #[serde(with = "serde_bytes")]
    bodies: Vec<u8>,
}

impl Record for RunRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "run of results";
    /// Far more than [`RUN_BYTES`] and the entries of a full page take.
    const LIMIT: u64 = 1 << 20;
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct EntryRecord {
    /// Distance from the previous row; 0 for the first row.
    gap: u16,
    line_bytes: u32,
    body_bytes: u32,
}

/// Packs at least one row; the rows are of one page and in ascending order.
///
/// # Errors
/// When the rows do not meet these conditions, or are too large to be read back.
pub fn pack_run(rows: &[RunRow]) -> Result<Vec<u8>, RecordError> {
    let damaged = |error: std::num::TryFromIntError| RecordError::damaged::<RunRecord>(error);
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Err(RecordError::damaged::<RunRecord>("it has no rows"));
    };
    let mut before = first.row;
    let mut record = RunRecord { rows: Vec::with_capacity(rows.len()), bodies: Vec::with_capacity(RUN_BYTES) };
    for RunRow { row, line_bytes, body } in rows {
        let gap = u16::try_from(i64::from(*row) - i64::from(before)).map_err(damaged)?;
        if gap == 0 && !record.rows.is_empty() {
            return Err(RecordError::damaged::<RunRecord>("a row would be in it twice"));
        }
        let body_bytes = u32::try_from(body.len()).map_err(damaged)?;
        record.rows.push(EntryRecord { gap, line_bytes: *line_bytes, body_bytes });
        record.bodies.extend_from_slice(body);
        before = *row;
    }
    let plain = options().serialize(&record).map_err(RecordError::damaged::<RunRecord>)?;
    pack::<RunRecord>(last.row - first.row, &plain)
}

/// An unpacked run.
#[derive(Debug)]
pub struct Run {
    pub places: Vec<RowPlace>,
    pub bodies: Vec<u8>,
}

/// Where a row of a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlace {
    pub row: u32,
    pub line_bytes: u32,
    /// Its part of [`Run::bodies`].
    pub body: Range<usize>,
}

/// A packed run, its header read.
#[derive(Debug, Clone, Copy)]
pub struct StoredRun<'a> {
    first: u32,
    packed: Packed<'a>,
}

impl<'a> StoredRun<'a> {
    /// Reads the header of the run that begins with the row `first`; `packed` may be the first
    /// chunk alone.
    ///
    /// # Errors
    /// When `packed` is shorter than a header.
    pub fn open(first: u32, packed: &'a [u8]) -> Result<Self, RecordError> {
        Ok(Self { first, packed: Packed::open::<RunRecord>(packed)? })
    }

    /// The last row.
    pub fn last(&self) -> u32 {
        self.first.saturating_add(self.packed.number)
    }

    /// Values that hold the run.
    pub fn chunks(&self) -> u16 {
        self.packed.chunks
    }

    /// Unpacks the whole run.
    ///
    /// # Errors
    /// When the bytes are damaged or of a later version.
    pub fn unpack(self) -> Result<Run, RecordError> {
        let RunRecord { rows, bodies } = self.packed.with_body::<RunRecord, _>(decode_body)?;
        let mut places: Vec<RowPlace> = Vec::with_capacity(rows.len());
        for EntryRecord { gap, line_bytes, body_bytes } in rows {
            let before = places.last();
            let row = before.map_or(self.first, |before| before.row).saturating_add(u32::from(gap));
            if before.is_some_and(|before| before.row == row) {
                return Err(RecordError::damaged::<RunRecord>("a row is in it twice"));
            }
            let start = before.map_or(0, |before| before.body.end);
            places.push(RowPlace { row, line_bytes, body: start..start.saturating_add(body_bytes as usize) });
        }
        if places.last().is_none_or(|last| last.row != self.last() || last.body.end != bodies.len()) {
            return Err(RecordError::damaged::<RunRecord>("it has other rows or bytes than it says"));
        }
        Ok(Run { places, bodies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows() -> impl Strategy<Value = Vec<RunRow>> {
        let row = (1_u32..600, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..60));
        proptest::collection::vec(row, 1..40).prop_map(|rows| {
            let mut at = 0;
            let place = |(gap, line_bytes, body)| {
                at += gap;
                RunRow { row: at, line_bytes, body }
            };
            rows.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read(rows in rows()) {
            let packed = pack_run(&rows).unwrap();
            let run = StoredRun::open(rows[0].row, &packed).unwrap();
            prop_assert_eq!(run.last(), rows[rows.len() - 1].row);
            let Run { places, bodies } = run.unpack().unwrap();
            prop_assert_eq!(places.len(), rows.len());
            for (RowPlace { row, line_bytes, body }, packed) in places.into_iter().zip(&rows) {
                prop_assert_eq!((row, line_bytes, &bodies[body]), (packed.row, packed.line_bytes, &packed.body[..]));
            }
        }

        #[test]
        fn damage_is_an_error_or_other_rows_and_never_a_panic(rows in rows(), position: usize, byte: u8, cut: usize) {
            let mut packed = pack_run(&rows).unwrap();
            let length = packed.len();
            let _ = StoredRun::open(0, &packed[..cut % length]).and_then(StoredRun::unpack);
            packed[position % length] = byte;
            let _ = StoredRun::open(u32::MAX, &packed).and_then(StoredRun::unpack);
        }

        #[test]
        fn rows_out_of_order_are_refused(a: u32, b: u32) {
            let row = |row| RunRow { row, line_bytes: 1, body: vec![] };
            let packed = pack_run(&[row(a.max(b)), row(a.min(b))]);
            prop_assert!(packed.is_err());
        }
    }
}
