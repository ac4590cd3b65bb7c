//! The result of one row on disk, version 1: a small header, then a body, usually compressed.
//!
//! The header holds the exact size of the row's output line, so that a reader can skip rows
//! without unpacking them.

use bytes::Bytes;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize, Serializer};

use super::page::{pack_usage, unpack_usage};
use super::squeeze::{squeeze, unsqueeze};
use super::{Record, RecordError, decode_body, moment, options, timestamp};
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::output::{CANCELLED, EXPIRED, Line, LineResponse};
use crate::domain::row::{Attempt, Outcome, Response, RowError, RowResult};
use bincode::Options;

/// Version, flags, size of the line (4 bytes), chunks (2 bytes).
pub const HEADER: usize = 8;
const COMPRESSED: u8 = 1;
/// Compressed with the dictionary; not set in data of format 1.
const DICTIONARY: u8 = 2;
/// Below this size zstd's frame costs more than it saves.
const COMPRESS_FROM: usize = 100;

/// Version 1 of a row's result, as it is read. It is written from [`ResultRef`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResultRecord {
    custom_id: String,
    outcome: OutcomeRecord,
    usage: [u64; 5],
    cost: [u8; 16],
    attempts: Vec<AttemptRecord>,
    finished_at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum OutcomeRecord {
    Succeeded(ResponseRecord),
    Rejected(ResponseRecord),
    Failed { code: String, message: String, last: Option<ResponseRecord> },
    Expired,
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ResponseRecord {
    status: u16,
    request_id: Option<String>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AttemptRecord {
    lane: String,
    started_at: i64,
    latency_ms: u32,
    status: Option<u16>,
    failure: Option<String>,
}

impl Record for ResultRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "result";
}

/// As much of a record as its line needs, without copying it.
#[derive(Deserialize)]
struct Shown<'a> {
    custom_id: &'a str,
    #[serde(borrow)]
    outcome: OutcomeRef<'a>,
}

impl<'a> Shown<'a> {
    fn line(&self, key: RowKey) -> Line<'a> {
        let (response, error) = match self.outcome {
            OutcomeRef::Succeeded(response) | OutcomeRef::Rejected(response) => (Some(response), None),
            OutcomeRef::Failed { code, message, last } => (last, Some((code, message))),
            OutcomeRef::Expired => (None, Some(EXPIRED)),
            OutcomeRef::Cancelled => (None, Some(CANCELLED)),
        };
        let response = response.map(|ResponseRef { status, request_id, body }| LineResponse { status, request_id, body });
        Line { key, custom_id: self.custom_id, response, error }
    }
}

/// The same bytes as a [`ResultRecord`], without copying what they are made from.
#[derive(Serialize)]
struct ResultRef<'a> {
    custom_id: &'a str,
    outcome: OutcomeRef<'a>,
    usage: [u64; 5],
    cost: [u8; 16],
    #[serde(serialize_with = "attempts")]
    attempts: &'a [Attempt],
    finished_at: i64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum OutcomeRef<'a> {
    #[serde(borrow)]
    Succeeded(ResponseRef<'a>),
    Rejected(ResponseRef<'a>),
    Failed {
        code: &'a str,
        message: &'a str,
        last: Option<ResponseRef<'a>>,
    },
    Expired,
    Cancelled,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct ResponseRef<'a> {
    status: u16,
    request_id: Option<&'a str>,
    #[serde(with = "serde_bytes", borrow)]
    body: &'a [u8],
}

#[derive(Serialize)]
struct AttemptRef<'a> {
    lane: &'a str,
    started_at: i64,
    latency_ms: u32,
    status: Option<u16>,
    failure: Option<&'a str>,
}

fn attempts<S: Serializer>(attempts: &[Attempt], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(attempts.iter().map(|attempt| AttemptRef {
        lane: &attempt.lane,
        started_at: moment(attempt.started_at),
        latency_ms: attempt.latency_ms,
        status: attempt.status,
        failure: attempt.failure.as_deref(),
    }))
}

impl<'a> From<&'a Response> for ResponseRef<'a> {
    fn from(response: &'a Response) -> Self {
        Self { status: response.status, request_id: response.request_id.as_deref(), body: &response.body }
    }
}

impl<'a> From<&'a RowResult> for ResultRef<'a> {
    fn from(result: &'a RowResult) -> Self {
        let outcome = match &result.outcome {
            Outcome::Succeeded(response) => OutcomeRef::Succeeded(response.into()),
            Outcome::Rejected(response) => OutcomeRef::Rejected(response.into()),
            Outcome::Failed { error, last } => {
                OutcomeRef::Failed { code: &error.code, message: &error.message, last: last.as_ref().map(ResponseRef::from) }
            }
            Outcome::Expired => OutcomeRef::Expired,
            Outcome::Cancelled => OutcomeRef::Cancelled,
        };
        Self {
            custom_id: &result.custom_id,
            outcome,
            usage: pack_usage(&result.usage),
            cost: result.cost.0.serialize(),
            attempts: &result.attempts,
            finished_at: moment(result.finished_at),
        }
    }
}

/// Packs a result whose output line has `line_bytes` bytes; the chunk count is left for
/// [`set_chunks`].
///
/// # Errors
/// When the result is too large to be read back.
pub fn pack(result: &RowResult, line_bytes: u32) -> Result<Vec<u8>, RecordError> {
    let write = |body: &mut Vec<u8>| options().serialize_into(body, &ResultRef::from(result)).map_err(RecordError::damaged::<ResultRecord>);
    squeeze(COMPRESS_FROM, write, |body, squeezed| {
        let size = u32::try_from(body.len()).map_err(RecordError::damaged::<ResultRecord>)?;
        let squeezed = squeezed.filter(|squeezed| squeezed.len() + 4 < body.len());
        let stored = squeezed.unwrap_or(body);
        let mut packed = Vec::with_capacity(HEADER + 4 + stored.len());
        packed.extend_from_slice(&[ResultRecord::VERSION, if squeezed.is_some() { COMPRESSED | DICTIONARY } else { 0 }]);
        packed.extend_from_slice(&line_bytes.to_be_bytes());
        packed.extend_from_slice(&[0, 0]);
        if squeezed.is_some() {
            packed.extend_from_slice(&size.to_be_bytes());
        }
        packed.extend_from_slice(stored);
        Ok(packed)
    })
}

/// Writes the number of chunks into a packed result's header.
pub fn set_chunks(packed: &mut [u8], chunks: u16) {
    packed[6..HEADER].copy_from_slice(&chunks.to_be_bytes());
}

/// A packed result, its header read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    version: u8,
    flags: u8,
    /// Bytes of the row's output line, its line break included.
    pub line_bytes: u32,
    /// Values that hold the result.
    pub chunks: u16,
    body: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Reads the header; `packed` may be the first chunk alone.
    ///
    /// # Errors
    /// When it is shorter than a header.
    pub fn open(packed: &'a [u8]) -> Result<Self, RecordError> {
        let Some((&[version, flags, a, b, c, d, e, f], body)) = packed.split_first_chunk::<HEADER>() else {
            return Err(RecordError::damaged::<ResultRecord>("shorter than its header"));
        };
        Ok(Self { version, flags, line_bytes: u32::from_be_bytes([a, b, c, d]), chunks: u16::from_be_bytes([e, f]), body })
    }

    /// Unpacks the whole result.
    ///
    /// # Errors
    /// When the bytes are damaged or of a later version.
    pub fn unpack(self, batch: BatchId, row: u32) -> Result<RowResult, RecordError> {
        self.with_plain(|plain| decode_body::<ResultRecord>(plain)?.into_result(RowKey { batch, row: RowIndex(row) }))
    }

    /// Lets `write` write its line.
    ///
    /// # Errors
    /// As [`Self::unpack`], except that what the line does not need is not looked at.
    pub fn show(self, batch: BatchId, row: u32, write: impl FnOnce(Line<'_>)) -> Result<(), RecordError> {
        self.with_plain(|plain| {
            let shown: Shown<'_> = options().allow_trailing_bytes().deserialize(plain).map_err(RecordError::damaged::<ResultRecord>)?;
            write(shown.line(RowKey { batch, row: RowIndex(row) }));
            Ok(())
        })
    }

    /// Lets `read` have the body, not compressed.
    fn with_plain<T>(self, read: impl FnOnce(&[u8]) -> Result<T, RecordError>) -> Result<T, RecordError> {
        if self.version != ResultRecord::VERSION {
            ResultRecord::decode_other(self.version, self.body)?;
        }
        let with_dictionary = match self.flags {
            0 => return read(self.body),
            COMPRESSED => false,
            flags if flags == COMPRESSED | DICTIONARY => true,
            flags => return Err(RecordError::damaged::<ResultRecord>(format!("packed in an unknown way ({flags})"))),
        };
        let Some((size, body)) = self.body.split_first_chunk::<4>() else {
            return Err(RecordError::damaged::<ResultRecord>("no size before the compressed body"));
        };
        unsqueeze(body, u32::from_be_bytes(*size), with_dictionary, read)
    }
}

impl From<ResponseRecord> for Response {
    fn from(record: ResponseRecord) -> Self {
        Self { status: record.status, request_id: record.request_id, body: Bytes::from(record.body) }
    }
}

impl ResultRecord {
    fn into_result(self, key: RowKey) -> Result<RowResult, RecordError> {
        let outcome = match self.outcome {
            OutcomeRecord::Succeeded(response) => Outcome::Succeeded(response.into()),
            OutcomeRecord::Rejected(response) => Outcome::Rejected(response.into()),
            OutcomeRecord::Failed { code, message, last } => {
                Outcome::Failed { error: RowError { code, message }, last: last.map(Response::from) }
            }
            OutcomeRecord::Expired => Outcome::Expired,
            OutcomeRecord::Cancelled => Outcome::Cancelled,
        };
        let attempts = self.attempts.into_iter().map(|attempt| {
            Ok(Attempt {
                lane: attempt.lane,
                started_at: timestamp::<Self>(attempt.started_at)?,
                latency_ms: attempt.latency_ms,
                status: attempt.status,
                failure: attempt.failure,
            })
        });
        Ok(RowResult {
            key,
            custom_id: self.custom_id,
            outcome,
            usage: unpack_usage(self.usage),
            cost: Usd(Decimal::deserialize(self.cost)),
            attempts: attempts.collect::<Result<_, RecordError>>()?,
            finished_at: timestamp::<Self>(self.finished_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::domain::usage::Usage;
    use proptest::prelude::*;

    fn sample(body: Vec<u8>) -> RowResult {
        RowResult {
            key: RowKey { batch: BatchId::from_u128(9), row: RowIndex(3) },
            custom_id: "row-é".into(),
            outcome: Outcome::Failed {
                error: RowError { code: "timeout".into(), message: "no answer".into() },
                last: Some(Response { status: 503, request_id: Some("r".into()), body: body.into() }),
            },
            usage: Usage { input_tokens: 5, cached_tokens: 4, output_tokens: 3, reasoning_tokens: 2, images: 1 },
            cost: Usd(Decimal::new(-125, 9)),
            attempts: vec![Attempt {
                lane: "p/m".into(),
                started_at: Timestamp::from_second(1_790_000_000).unwrap(),
                latency_ms: 17,
                status: Some(503),
                failure: Some("server_error".into()),
            }],
            finished_at: Timestamp::from_second(1_790_000_001).unwrap(),
        }
    }

    fn bytes(of: &impl Serialize) -> Vec<u8> {
        options().serialize(of).unwrap()
    }

    #[test]
    fn what_is_written_without_copies_is_the_record() {
        let response = || Response { status: 200, request_id: None, body: b"{}".as_slice().into() };
        let error = || RowError { code: "c".into(), message: "m".into() };
        for outcome in [
            Outcome::Succeeded(response()),
            Outcome::Rejected(Response { request_id: Some("r".into()), ..response() }),
            Outcome::Failed { error: error(), last: None },
            Outcome::Failed { error: error(), last: Some(response()) },
            Outcome::Expired,
            Outcome::Cancelled,
        ] {
            let result = RowResult { outcome, ..sample(Vec::new()) };
            let written = bytes(&ResultRef::from(&result));
            let record: ResultRecord = decode_body(&written).unwrap();
            assert_eq!(bytes(&record), written);
            let (mut shown, mut expected) = (Vec::new(), Vec::new());
            let packed = pack(&result, 1).unwrap();
            let stored = Stored::open(&packed).unwrap();
            let write = |line: Line<'_>| crate::domain::output::write_line(line, &mut shown);
            stored.show(result.key.batch, result.key.row.0, write).unwrap();
            crate::domain::output::write_line(&result, &mut expected);
            assert_eq!(String::from_utf8(shown), String::from_utf8(expected));
            assert_eq!(record.into_result(result.key).unwrap(), result);
        }
    }

    #[test]
    fn results_from_before_the_dictionary_are_unpacked() {
        let result = sample(b"0123456789".repeat(100));
        let body = bytes(&ResultRef::from(&result));
        let size = u32::try_from(body.len()).unwrap().to_be_bytes();
        let header = |flags| [ResultRecord::VERSION, flags, 0, 0, 0, 1, 0, 1];
        let squeezed = zstd::bulk::compress(&body, 1).unwrap();
        for packed in [[&header(COMPRESSED)[..], &size, &squeezed].concat(), [&header(0)[..], &body].concat(), pack(&result, 1).unwrap()] {
            let unpacked = Stored::open(&packed).unwrap().unpack(result.key.batch, 3);
            assert_eq!(unpacked.as_ref(), Ok(&result));
        }
        for unknown in [DICTIONARY, 4, 4 | COMPRESSED] {
            let packed = [&header(unknown)[..], &size, &squeezed].concat();
            assert!(Stored::open(&packed).unwrap().unpack(result.key.batch, 3).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(body: Vec<u8>, repeat in 1_usize..400) {
            let result = sample(body.repeat(repeat));
            let mut packed = pack(&result, 4711).unwrap();
            set_chunks(&mut packed, 12);
            let stored = Stored::open(&packed).unwrap();
            prop_assert_eq!((stored.line_bytes, stored.chunks), (4711, 12));
            prop_assert_eq!(stored.unpack(result.key.batch, 3).unwrap(), result);
        }

        #[test]
        fn damage_is_an_error_or_another_result_and_never_a_panic(position in 0_usize..400, byte: u8, cut in 0_usize..400) {
            let mut packed = pack(&sample(b"0123456789".repeat(30)), 1).unwrap();
            let length = packed.len();
            packed[position % length] = byte;
            let _ = Stored::open(&packed).and_then(|stored| stored.unpack(BatchId::from_u128(9), 3));
            let _ = Stored::open(&packed[..cut % length]).and_then(|stored| stored.unpack(BatchId::from_u128(9), 3));
        }
    }
}
