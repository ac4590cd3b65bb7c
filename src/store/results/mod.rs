//! Results of rows: packing them for the writer, and reading one of them back.

pub mod answers;
pub mod chunks;
pub mod lines;
pub mod row_group;
pub mod runs;

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

/// The largest result that joins a run, in bytes before it is compressed. What joins is compressed by
/// the one writer, what does not before that, on all threads; and a reader may have to keep all that
/// joined of a page in memory.
pub(super) const JOINS: usize = 4 << 10;
/// A thread's buffer for measuring lines is not kept larger than this.
const LINE_KEPT: usize = 256 << 10;

/// A result ready to be stored. Whatever can be done for one result alone is done before the writer.
#[derive(Debug)]
pub struct PackedRow {
    pub(super) key: RowKey,
    pub(super) end: RowEnd,
    pub(super) line_bytes: u32,
    pub(super) usage: Usage,
    pub(super) cost: Usd,
    /// Key and value of the entry that leads from its request to it.
    pub(super) pointer: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) form: PackedForm,
}

/// How a result is stored.
#[derive(Debug)]
pub(super) enum PackedForm {
    /// In a run, of which this will be one body.
    Joined(Vec<u8>),
    /// Packed by itself.
    Alone(Vec<u8>),
}

impl PackedRow {
    /// Packs a result.
    ///
    /// # Errors
    /// When it is too large to be stored.
    pub fn pack(row: &RowResult) -> Result<Self, StoreError> {
        let too_large = |error: std::num::TryFromIntError| StoreError::Unexpected(format!("a result is too large to be stored: {error}"));
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

    /// Lets it be found by the digest of its request, if it is a success.
    #[must_use]
    pub fn found_by(self, request: Option<RequestDigest>, at: Timestamp) -> Self {
        let record = AnswerRecord::new(self.key, at);
        let request = request.filter(|_| self.is_success());
        // A few numbers: they can always be encoded.
        let pointer = request.and_then(|request| Some((format::answer(request), record::encode(&record).ok()?)));
        Self { pointer, ..self }
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

/// The length of a result's line, which only writing it tells.
pub(super) fn line_length(row: &RowResult) -> usize {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        output::write_line(row, line);
        let length = line.len();
        line.clear();
        line.shrink_to(LINE_KEPT);
        length
    })
}

impl Store {
    /// The result of a row, whether or not it is durable yet: its page tells that. Blocks.
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

    /// A result that is packed by itself. Blocks.
    pub(super) fn read_alone(&self, key: RowKey) -> Result<Option<sled::IVec>, StoreError> {
        read_packed::<ResultRecord>(&self.inner.tree, &format::result(key.batch, key.row))
    }

    /// The first chunk of a result that is packed by itself. Blocks.
    pub(super) fn read_head(&self, key: RowKey) -> Result<Option<sled::IVec>, StoreError> {
        self.inner.tree.get(format::chunk(&format::result(key.batch, key.row), 0))
    }
}
