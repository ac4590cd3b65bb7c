//! The result of one row on disk, version 1: a small header, then a body, usually compressed.
//!
//! The header holds the exact size of the row's output line, so that a reader can skip rows
//! without unpacking them.

use std::cell::RefCell;

use bytes::Bytes;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use zstd::bulk::{Compressor, Decompressor};

use super::page::{pack_usage, unpack_usage};
use super::{DECODE_LIMIT, Record, RecordError, decode_body, moment, options, timestamp};
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::{Attempt, Outcome, Response, RowError, RowResult};
use bincode::Options;

/// Version, flags, size of the line (4 bytes), chunks (2 bytes).
pub const HEADER: usize = 8;
const COMPRESSED: u8 = 1;
/// Below this size zstd's frame costs more than it saves.
const COMPRESS_FROM: usize = 200;
/// Level 1: measured on chat rows, the higher ones cost more time than they save space.
const LEVEL: i32 = 1;

/// Version 1 of a row's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ResultRecord {
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

/// Packs a result whose output line has `line_bytes` bytes; the chunk count is left for
/// [`set_chunks`].
///
/// # Errors
/// When the result is too large to be read back.
pub fn pack(result: &RowResult, line_bytes: u32) -> Result<Vec<u8>, RecordError> {
    let mut packed = vec![ResultRecord::VERSION, 0];
    packed.extend_from_slice(&line_bytes.to_be_bytes());
    packed.extend_from_slice(&[0, 0]);
    options().serialize_into(&mut packed, &ResultRecord::from(result)).map_err(RecordError::damaged::<ResultRecord>)?;
    if packed.len() >= COMPRESS_FROM
        && let Ok(body) = compress(&packed[HEADER..])
        && body.len() + 4 < packed.len() - HEADER
    {
        let unpacked = u32::try_from(packed.len() - HEADER).map_err(RecordError::damaged::<ResultRecord>)?;
        packed.truncate(HEADER);
        packed[1] |= COMPRESSED;
        packed.extend_from_slice(&unpacked.to_be_bytes());
        packed.extend_from_slice(&body);
    }
    Ok(packed)
}

fn compress(body: &[u8]) -> std::io::Result<Vec<u8>> {
    // Setting up a context costs more than compressing a usual row with it.
    thread_local! {
        static CONTEXT: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| match context {
        Some(context) => context.compress(body),
        None => context.insert(Compressor::new(LEVEL)?).compress(body),
    })
}

/// Unpacks results; keep one for many rows, setting it up costs more than a row.
pub struct Unpacker(Decompressor<'static>);

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// A new one.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new() -> Result<Self, RecordError> {
        Decompressor::new().map(Self).map_err(RecordError::damaged::<ResultRecord>)
    }

    fn decompress(&mut self, body: &[u8], size: u32) -> Result<Vec<u8>, RecordError> {
        if u64::from(size) > DECODE_LIMIT {
            return Err(RecordError::damaged::<ResultRecord>("the stated size is beyond any result"));
        }
        let unpacked = self.0.decompress(body, size as usize).map_err(RecordError::damaged::<ResultRecord>)?;
        if unpacked.len() != size as usize {
            return Err(RecordError::damaged::<ResultRecord>("the compressed body has another size than stated"));
        }
        Ok(unpacked)
    }
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
    pub fn unpack(self, batch: BatchId, row: u32, with: &mut Unpacker) -> Result<RowResult, RecordError> {
        if self.version != ResultRecord::VERSION {
            ResultRecord::decode_other(self.version, self.body)?;
        }
        let record: ResultRecord = if self.flags & COMPRESSED == 0 {
            decode_body(self.body)?
        } else {
            let Some((size, body)) = self.body.split_first_chunk::<4>() else {
                return Err(RecordError::damaged::<ResultRecord>("no size before the compressed body"));
            };
            decode_body(&with.decompress(body, u32::from_be_bytes(*size))?)?
        };
        record.into_result(RowKey { batch, row: RowIndex(row) })
    }
}

impl From<&Response> for ResponseRecord {
    fn from(response: &Response) -> Self {
        Self { status: response.status, request_id: response.request_id.clone(), body: response.body.to_vec() }
    }
}

impl From<ResponseRecord> for Response {
    fn from(record: ResponseRecord) -> Self {
        Self { status: record.status, request_id: record.request_id, body: Bytes::from(record.body) }
    }
}

impl From<&RowResult> for ResultRecord {
    fn from(result: &RowResult) -> Self {
        let outcome = match &result.outcome {
            Outcome::Succeeded(response) => OutcomeRecord::Succeeded(response.into()),
            Outcome::Rejected(response) => OutcomeRecord::Rejected(response.into()),
            Outcome::Failed { error, last } => OutcomeRecord::Failed {
                code: error.code.clone(),
                message: error.message.clone(),
                last: last.as_ref().map(ResponseRecord::from),
            },
            Outcome::Expired => OutcomeRecord::Expired,
            Outcome::Cancelled => OutcomeRecord::Cancelled,
        };
        let attempts = result.attempts.iter().map(|attempt| AttemptRecord {
            lane: attempt.lane.clone(),
            started_at: moment(attempt.started_at),
            latency_ms: attempt.latency_ms,
            status: attempt.status,
            failure: attempt.failure.clone(),
        });
        Self {
            custom_id: result.custom_id.clone(),
            outcome,
            usage: pack_usage(&result.usage),
            cost: result.cost.0.serialize(),
            attempts: attempts.collect(),
            finished_at: moment(result.finished_at),
        }
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

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(body: Vec<u8>, repeat in 1_usize..400) {
            let result = sample(body.repeat(repeat));
            let mut packed = pack(&result, 4711).unwrap();
            set_chunks(&mut packed, 12);
            let stored = Stored::open(&packed).unwrap();
            prop_assert_eq!((stored.line_bytes, stored.chunks), (4711, 12));
            prop_assert_eq!(stored.unpack(result.key.batch, 3, &mut Unpacker::new().unwrap()).unwrap(), result);
        }

        #[test]
        fn damage_is_an_error_or_another_result_and_never_a_panic(position in 0_usize..400, byte: u8, cut in 0_usize..400) {
            let mut packed = pack(&sample(b"0123456789".repeat(30)), 1).unwrap();
            let length = packed.len();
            packed[position % length] = byte;
            let _ = Stored::open(&packed).and_then(|stored| stored.unpack(BatchId::from_u128(9), 3, &mut Unpacker::new().unwrap()));
            let _ = Stored::open(&packed[..cut % length]).and_then(|stored| stored.unpack(BatchId::from_u128(9), 3, &mut Unpacker::new().unwrap()));
        }
    }
}
