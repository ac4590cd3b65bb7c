//! Packs results of rows for the writer, and reads a single result back.

pub mod answers;
pub mod chunks;
pub mod line_form;
pub mod lines;
pub mod row_group;
pub mod runs;
pub mod shared_pages;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use self::chunks::read_packed;
use self::runs::read_one;
use super::Store;
use super::format;
use super::record;
use super::record::answer::AnswerRecord;
use super::record::packed::{self, Packed};
use super::record::result::{self, ResultRecord};
use crate::domain::batch::dedup::RequestDigest;
use crate::domain::id::RowKey;
use crate::domain::money::Usd;
use crate::domain::row::output;
use crate::domain::row::{RowEnd, RowResult};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::store::error::StoreError;

/// The largest result that joins a run, in bytes before compression. Results that join a run are
/// compressed by the single writer; larger results are compressed before that, on all threads. A
/// reader may have to keep all joined results of a page in memory.
pub(super) const JOINS: usize = 4 << 10;
/// The most bytes that a thread keeps of its buffer for measuring lines.
const LINE_KEPT: usize = 256 << 10;

/// A result that is ready to be stored. All work that concerns a single result is done before the
/// writer gets it.
#[derive(Debug)]
pub struct PackedRow {
    pub(super) key: RowKey,
    pub(super) end: RowEnd,
    pub(super) line_bytes: u32,
    pub(super) usage: Usage,
    pub(super) cost: Usd,
    /// Key and value of the entry that leads from the row's request to this result.
    pub(super) pointer: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) form: PackedForm,
}

/// How a result is stored.
#[derive(Debug)]
pub(super) enum PackedForm {
    /// Joined with others in a run; this is the result's body.
    Joined(Vec<u8>),
    /// Packed by itself.
    Alone(Vec<u8>),
}

impl PackedRow {
    /// Packs a result.
    ///
    /// # Errors
    /// When the result is too large to be stored.
    pub fn pack(row: &RowResult) -> Result<Self, StoreError> {
        let too_large = |error: std::num::TryFromIntError| StoreError::Unexpected(format!("a result is too large to be stored: {error}"));
        let escaped = output::with_escaped_body(row);
        let row = escaped.as_ref().unwrap_or(row);
        let line_bytes = u32::try_from(line_length(row)).map_err(too_large)?;
        let body = result::body(row)?;
        let form = if body.len() <= JOINS {
            PackedForm::Joined(body)
        } else {
            PackedForm::Alone(packed::pack::<ResultRecord>(line_bytes, &body)?)
        };
        let end = row.outcome.end();
        Ok(Self { key: row.key, end, line_bytes, usage: row.usage, cost: row.cost, pointer: None, form })
    }

    /// Makes the result findable by the digest of its request, if it is a success.
    #[must_use]
    pub fn found_by(self, request: Option<RequestDigest>, at: Timestamp) -> Self {
        let record = AnswerRecord::new(self.key, at);
        let request = request.filter(|_| self.is_success());
        // The record is a few numbers, which can always be encoded.
        let pointer = request.and_then(|request| Some((format::answer(request), record::encode(&record).ok()?)));
        Self { pointer, ..self }
    }

    /// What the client pays for the row, without the fee.
    pub const fn cost(&self) -> Usd {
        self.cost
    }

    /// Whether the row has succeeded.
    pub fn is_success(&self) -> bool {
        self.end == RowEnd::Succeeded
    }

    pub(super) fn size(&self) -> usize {
        let (PackedForm::Joined(bytes) | PackedForm::Alone(bytes)) = &self.form;
        bytes.len()
    }
}

/// Measures a result's line, by writing it.
fn line_length(row: &RowResult) -> usize {
    written(|line| {
        output::write_line(row, line);
        line.len()
    })
}

/// Whether a stored result's line has the length that it counts as; otherwise returns its length.
pub(super) fn check_line(row: &RowResult, counted: u32) -> Result<(), usize> {
    written(|line| if output::write_stored_line(&row.into(), counted, line) { Ok(()) } else { Err(line.len()) })
}

/// Lets `write` use a buffer that is kept for the next line.
fn written<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        let seen = write(line);
        line.clear();
        line.shrink_to(LINE_KEPT);
        seen
    })
}

impl Store {
    /// Returns the result of a row, whether or not it is durable yet: the row's page says whether
    /// it is. Blocks.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub fn result_of(&self, key: RowKey) -> Result<Option<RowResult>, StoreError> {
        if let Some(packed) = self.read_alone(key)? {
            let packed = Packed::open::<ResultRecord>(&packed)?;
            return Ok(Some(packed.with_body::<ResultRecord, _>(|body| result::unpack(body, key))?));
        }
        read_one(&self.inner.tree, key, |body| result::unpack(body, key))
    }

    /// Reads a result that is packed by itself. Blocks.
    pub(super) fn read_alone(&self, key: RowKey) -> Result<Option<sled::IVec>, StoreError> {
        read_packed::<ResultRecord>(&self.inner.tree, &format::result(key.batch, key.row))
    }

    /// Reads the first chunk of a result that is packed by itself. Blocks.
    pub(super) fn read_head(&self, key: RowKey) -> Result<Option<sled::IVec>, StoreError> {
        self.inner.tree.get(format::chunk(&format::result(key.batch, key.row), 0))
    }
}
