//! The result of one row on disk, version 1. Small results are packed together in a run
//! ([`super::run`]). A large result is packed by itself, and the number in its envelope is the
//! exact size of its line, so that a reader can find a byte of the file without unpacking every
//! row.

use bincode::Options;
use bytes::Bytes;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize, Serializer};

use super::page::{pack_usage, unpack_usage};
use super::{Record, moment, options, timestamp};
use crate::domain::id::RowKey;
use crate::domain::money::Usd;
use crate::domain::row::output::{CANCELLED, EXPIRED, Line, LineResponse};
use crate::domain::row::{Attempt, Outcome, Response, RowError, RowResult};
use crate::domain::vocabulary::Operation;
use crate::store::record::error::RecordError;

/// Bytes that usually surround an answer.
const USUAL_REST: usize = 160;

/// Version 1 of a row's result, in the form for reading. [`ResultRef`] is the form for writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRecord {
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
    Failed {
        code: String,
        message: String,
        last: Option<ResponseRecord>,
    },
    Expired,
    Cancelled,
    /// As the two above, with the last response. Not in data of formats before 7.
    ExpiredAfter(ResponseRecord),
    CancelledAfter(ResponseRecord),
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

/// The fields of a record that its line needs, borrowed instead of copied.
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
            OutcomeRef::ExpiredAfter(last) => (Some(last), Some(EXPIRED)),
            OutcomeRef::CancelledAfter(last) => (Some(last), Some(CANCELLED)),
        };
        let response = response.map(|ResponseRef { status, request_id, body }| LineResponse { status, request_id, body });
        Line { key, custom_id: self.custom_id, response, error }
    }
}

/// The same bytes as a [`ResultRecord`], made without copying the result.
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
    ExpiredAfter(ResponseRef<'a>),
    CancelledAfter(ResponseRef<'a>),
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
            Outcome::Expired { last } => last.as_ref().map_or(OutcomeRef::Expired, |last| OutcomeRef::ExpiredAfter(last.into())),
            Outcome::Cancelled { last } => last.as_ref().map_or(OutcomeRef::Cancelled, |last| OutcomeRef::CancelledAfter(last.into())),
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

/// Encodes the body of a result, ready to be packed.
///
/// # Errors
/// When the result is too large to be read back.
pub fn body(result: &RowResult) -> Result<Vec<u8>, RecordError> {
    let answer = result.outcome.response().map_or(0, |response| response.body.len());
    let mut body = Vec::with_capacity(answer + result.custom_id.len() + USUAL_REST);
    options().serialize_into(&mut body, &ResultRef::from(result)).map_err(RecordError::damaged::<ResultRecord>)?;
    body.extend(result.operation.map(code));
    Ok(body)
}

/// The byte that follows an item's record and states its operation; rows of OpenAI's have none.
const fn code(operation: Operation) -> u8 {
    match operation {
        Operation::Responses => 1,
        Operation::Embeddings => 2,
        Operation::Vision => 3,
    }
}

fn operation(byte: u8) -> Option<Operation> {
    Operation::ALL.iter().copied().find(|operation| code(*operation) == byte)
}

/// Reads the whole result from its body.
///
/// # Errors
/// When the bytes are damaged.
pub fn unpack(body: &[u8], key: RowKey) -> Result<RowResult, RecordError> {
    let mut rest = body;
    let record: ResultRecord = options().deserialize_from(&mut rest).map_err(RecordError::damaged::<ResultRecord>)?;
    let operation = match rest {
        [] => None,
        [code] => Some(operation(*code).ok_or_else(|| RecordError::damaged::<ResultRecord>("unknown operation"))?),
        _ => return Err(RecordError::damaged::<ResultRecord>("bytes after its end")),
    };
    record.into_result(key, operation)
}

/// Reads the line of a result from the result's body.
///
/// # Errors
/// As [`unpack`], except that fields which the line does not need are not checked.
pub fn line(body: &[u8], key: RowKey) -> Result<Line<'_>, RecordError> {
    let shown: Shown<'_> = options().allow_trailing_bytes().deserialize(body).map_err(RecordError::damaged::<ResultRecord>)?;
    Ok(shown.line(key))
}

impl From<ResponseRecord> for Response {
    fn from(record: ResponseRecord) -> Self {
        Self { status: record.status, request_id: record.request_id, body: Bytes::from(record.body) }
    }
}

impl ResultRecord {
    fn into_result(self, key: RowKey, operation: Option<Operation>) -> Result<RowResult, RecordError> {
        let outcome = match self.outcome {
            OutcomeRecord::Succeeded(response) => Outcome::Succeeded(response.into()),
            OutcomeRecord::Rejected(response) => Outcome::Rejected(response.into()),
            OutcomeRecord::Failed { code, message, last } => {
                Outcome::Failed { error: RowError { code, message }, last: last.map(Response::from) }
            }
            OutcomeRecord::Expired => Outcome::Expired { last: None },
            OutcomeRecord::Cancelled => Outcome::Cancelled { last: None },
            OutcomeRecord::ExpiredAfter(last) => Outcome::Expired { last: Some(last.into()) },
            OutcomeRecord::CancelledAfter(last) => Outcome::Cancelled { last: Some(last.into()) },
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
            operation,
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
    use crate::domain::id::{BatchId, RowIndex};
    use crate::domain::row::output;
    use crate::domain::time::Timestamp;
    use crate::domain::usage::Usage;
    use proptest::prelude::*;

    fn sample(body: Vec<u8>) -> RowResult {
        RowResult {
            key: RowKey { batch: BatchId::from_u128(9), row: RowIndex(3) },
            operation: None,
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
            Outcome::Expired { last: None },
            Outcome::Cancelled { last: None },
            Outcome::Expired { last: Some(response()) },
            Outcome::Cancelled { last: Some(response()) },
        ] {
            let result = RowResult { outcome, ..sample(Vec::new()) };
            let written = body(&result).unwrap();
            let record: ResultRecord = crate::store::record::decode_body(&written).unwrap();
            assert_eq!(bytes(&record), written);
            let (mut shown, mut expected) = (Vec::new(), Vec::new());
            output::write_line(line(&written, result.key).unwrap(), &mut shown);
            output::write_line(&result, &mut expected);
            assert_eq!(String::from_utf8(shown), String::from_utf8(expected));
            assert_eq!(record.into_result(result.key, None).unwrap(), result);
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(answer: Vec<u8>, asked in 0_u8..4) {
            let result = RowResult { operation: operation(asked), ..sample(answer) };
            prop_assert_eq!(unpack(&body(&result).unwrap(), result.key).unwrap(), result);
        }

        #[test]
        fn damage_is_an_error_or_another_result_and_never_a_panic(position in 0_usize..400, byte: u8, cut in 0_usize..400) {
            let result = sample(b"0123456789".repeat(3));
            let mut body = body(&result).unwrap();
            let length = body.len();
            let _ = unpack(&body[..cut % length], result.key);
            body[position % length] = byte;
            let _ = (unpack(&body, result.key), line(&body, result.key));
        }
    }
}
