//! Pointers to the answers of requests, on disk, version 1.

use serde::{Deserialize, Serialize};

use super::{Record, moment, timestamp};
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::time::Timestamp;
use crate::store::record::error::RecordError;

/// Version 1 of a pointer to the row that has the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    batch: u128,
    row: u32,
    at: i64,
}

impl Record for AnswerRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "answer";
}

impl AnswerRecord {
    /// The row that was answered at that time.
    pub fn new(key: RowKey, at: Timestamp) -> Self {
        Self { batch: key.batch.as_u128(), row: key.row.0, at: moment(at) }
    }

    /// The row, and when it was answered.
    ///
    /// # Errors
    /// When the time is out of range.
    pub fn unpack(self) -> Result<(RowKey, Timestamp), RecordError> {
        let key = RowKey { batch: BatchId::from_u128(self.batch), row: RowIndex(self.row) };
        Ok((key, timestamp::<Self>(self.at)?))
    }
}
