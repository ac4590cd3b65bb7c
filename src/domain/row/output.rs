//! The one place where a result becomes a line of an output or error file.
//!
//! The format is OpenAI's batch output: `{"id","custom_id","response","error"}`, with
//! `response: {"status_code","request_id","body"}`. The provider's body keeps its value. Rendering
//! is deterministic, so the exact size of a file is known before it is read.
//!
//! Invariant: a line has no character at which any reader would end it ([`line_ends`]).

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

use super::line_ends::{self, escape_from};
use super::{Attempt, Outcome, Response, RowResult};
use crate::domain::id::RowKey;
use crate::domain::usage;

/// The content of a line, independent of where the result is stored.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub key: RowKey,
    pub custom_id: &'a str,
    pub response: Option<LineResponse<'a>>,
    /// The code and the message.
    pub error: Option<(&'a str, &'a str)>,
}

/// The answer in a line.
#[derive(Debug, Clone, Copy)]
pub struct LineResponse<'a> {
    pub status: u16,
    pub request_id: Option<&'a str>,
    /// See [`Response::body`].
    pub body: &'a [u8],
}

/// The error of a row that was not done before the deadline.
pub const EXPIRED: (&str, &str) = ("batch_expired", "This request could not be executed before the completion window expired.");
/// The error of a row of a cancelled batch.
pub const CANCELLED: (&str, &str) = ("batch_cancelled", "This request was not executed because the batch was cancelled.");

impl<'a> From<&'a RowResult> for Line<'a> {
    fn from(result: &'a RowResult) -> Self {
        let error = match &result.outcome {
            Outcome::Succeeded(_) | Outcome::Rejected(_) => None,
            Outcome::Failed { error, .. } => Some((error.code.as_str(), error.message.as_str())),
            Outcome::Expired { .. } => Some(EXPIRED),
            Outcome::Cancelled { .. } => Some(CANCELLED),
        };
        let response = result.outcome.response().map(LineResponse::from);
        Self { key: result.key, custom_id: &result.custom_id, response, error }
    }
}

impl<'a> From<&'a Response> for LineResponse<'a> {
    fn from(response: &'a Response) -> Self {
        Self { status: response.status, request_id: response.request_id.as_deref(), body: &response.body }
    }
}

/// Appends the line of a result and its line break to `out`.
pub fn write_line<'a>(line: impl Into<Line<'a>>, out: &mut Vec<u8>) {
    let start = out.len();
    write_unescaped(&line.into(), out);
    escape_from(start, out);
}

/// Appends the line of a stored result, which counts as `length` bytes; returns whether the line
/// has that length. The body of a stored result has been escaped before, so that only short texts
/// are looked through.
///
/// A result that an earlier version has stored counts as what that version wrote, which escaped
/// nothing. Files that have such lines stay as they were shown.
pub fn write_stored_line(line: &Line<'_>, length: u32, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    write_parts(line, write_escaped_string, out);
    let has_length = |out: &Vec<u8>| out.len() - start == length as usize;
    if has_length(out) {
        return true;
    }
    out.truncate(start);
    write_unescaped(line, out);
    has_length(out)
}

fn write_unescaped(line: &Line<'_>, out: &mut Vec<u8>) {
    write_parts(line, write_string, out);
}

fn write_parts(line: &Line<'_>, write_string: fn(&str, &mut Vec<u8>), out: &mut Vec<u8>) {
    let key = line.key.to_string();
    out.extend_from_slice(b"{\"id\":\"batch_req_");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\",\"custom_id\":");
    write_string(line.custom_id, out);
    out.extend_from_slice(b",\"response\":");
    match line.response {
        Some(response) => write_response(response, &key, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"error\":");
    match line.error {
        Some((code, message)) => {
            out.extend_from_slice(b"{\"code\":");
            write_string(code, out);
            out.extend_from_slice(b",\"message\":");
            write_string(message, out);
            out.push(b'}');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}\n");
}

/// Appends the line of `result` with what else this daemon knows of the row: an object `batchd`
/// with its cost, its usage and its attempts. The object is our own extension; the files of a batch
/// do not contain it.
pub fn write_line_with_attempts(result: &RowResult, out: &mut Vec<u8>) {
    let start = out.len();
    write_unescaped(&result.into(), out);
    out.truncate(out.len() - "}\n".len());
    let usage = &result.usage;
    let extra = Extra {
        finished_at: millis(result.finished_at),
        cost_usd: result.cost.to_string(),
        input_tokens: usage.input_tokens,
        cached_tokens: usage.cached_tokens,
        output_tokens: usage.output_tokens,
        usage_note: usage_note(result),
        attempts: result.attempts.iter().map(AttemptLine::from).collect(),
    };
    out.extend_from_slice(b",\"batchd\":");
    // Writing strings and numbers to a vector cannot fail.
    if serde_json::to_writer(&mut *out, &extra).is_err() {
        out.extend_from_slice(b"null");
    }
    out.extend_from_slice(b"}\n");
    escape_from(start, out);
}

/// What there is to say about a row's usage; `None` if the provider's numbers count as they are.
pub fn usage_note(result: &RowResult) -> Option<String> {
    match &result.outcome {
        Outcome::Succeeded(response) => usage::note(&response.body, &result.usage),
        Outcome::Rejected(_) | Outcome::Failed { .. } | Outcome::Expired { .. } | Outcome::Cancelled { .. } => None,
    }
}

#[derive(Serialize)]
struct Extra<'a> {
    finished_at: String,
    cost_usd: String,
    input_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_note: Option<String>,
    attempts: Vec<AttemptLine<'a>>,
}

#[derive(Serialize)]
struct AttemptLine<'a> {
    lane: &'a str,
    started_at: String,
    latency_ms: u32,
    status: Option<u16>,
    failure: Option<&'a str>,
}

impl<'a> From<&'a Attempt> for AttemptLine<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        let Attempt { lane, started_at, latency_ms, status, failure } = attempt;
        Self { lane, started_at: millis(*started_at), latency_ms: *latency_ms, status: *status, failure: failure.as_deref() }
    }
}

/// RFC 3339 with milliseconds.
fn millis(at: crate::domain::time::Timestamp) -> String {
    format!("{at:.3}")
}

fn write_response(response: LineResponse<'_>, key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"status_code\":");
    out.extend_from_slice(response.status.to_string().as_bytes());
    out.extend_from_slice(b",\"request_id\":");
    match response.request_id {
        Some(id) => write_string(id, out),
        None => write_string(&format!("req_{key}"), out),
    }
    out.extend_from_slice(b",\"body\":");
    out.extend_from_slice(response.body);
    out.push(b'}');
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Serialising a string to a vector cannot fail.
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"\"\"");
    }
}

fn write_escaped_string(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    write_string(text, out);
    escape_from(start, out);
}

/// The result with an escaped body, if its body is not escaped yet.
pub fn with_escaped_body(result: &RowResult) -> Option<RowResult> {
    let (Outcome::Succeeded(Response { body, .. })
    | Outcome::Rejected(Response { body, .. })
    | Outcome::Failed { last: Some(Response { body, .. }), .. }) = &result.outcome
    else {
        return None;
    };
    let Cow::Owned(escaped) = line_ends::escaped(body) else { return None };
    let mut result = result.clone();
    if let Outcome::Succeeded(Response { body, .. })
    | Outcome::Rejected(Response { body, .. })
    | Outcome::Failed { last: Some(Response { body, .. }), .. } = &mut result.outcome
    {
        *body = escaped.into();
    }
    Some(result)
}

/// Turns a body as received into one JSON value that fits on one line.
///
/// `is_json` says whether the body is known to be valid JSON. JSON keeps every byte except raw
/// line breaks, which the grammar allows only between tokens and which become spaces. Anything
/// else becomes a JSON string, undecodable bytes replaced.
pub fn embeddable(body: Bytes, is_json: bool) -> Bytes {
    if !is_json {
        let mut out = Vec::with_capacity(body.len() + 2);
        write_string(&String::from_utf8_lossy(&body), &mut out);
        return Bytes::from(out);
    }
    let start = body.len() - body.trim_ascii_start().len();
    let body = body.slice(start..start + body.trim_ascii().len());
    if memchr::memchr2(b'\n', b'\r', &body).is_none() {
        return body;
    }
    Bytes::from_iter(body.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{BatchId, RowIndex, RowKey};
    use crate::domain::money::Usd;
    use crate::domain::row::RowError;
    use crate::domain::time::Timestamp;
    use crate::domain::usage::Usage;
    use proptest::prelude::*;

    fn result(outcome: Outcome) -> RowResult {
        RowResult {
            key: RowKey { batch: BatchId::from_u128(1), row: RowIndex(10) },
            operation: None,
            custom_id: "a \"quoted\" id".into(),
            outcome,
            usage: Usage::default(),
            cost: Usd::ZERO,
            attempts: vec![],
            finished_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn line(outcome: Outcome) -> String {
        let mut out = Vec::new();
        write_line(&result(outcome), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn response(status: u16, body: &'static str) -> Response {
        Response { status, request_id: Some("up-1".into()), body: embeddable(Bytes::from_static(body.as_bytes()), true) }
    }

    #[test]
    fn every_outcome_as_a_line() {
        let lines = [
            line(Outcome::Succeeded(response(200, "{\"n\": 1.0e0,\n \"z\":\"\\n\"}\n"))),
            line(Outcome::Rejected(Response { request_id: None, ..response(400, "{}") })),
            line(Outcome::Failed { error: RowError { code: "connection_error".into(), message: "refused".into() }, last: None }),
            line(Outcome::Failed {
                error: RowError { code: "server_error".into(), message: "gave up".into() },
                last: Some(response(503, "null")),
            }),
            line(Outcome::Expired { last: None }),
            line(Outcome::Cancelled { last: None }),
            line(Outcome::Expired { last: Some(response(401, "{}")) }),
        ];
        for text in &lines {
            serde_json::from_str::<serde_json::Value>(text).unwrap();
        }
        insta::assert_snapshot!(lines.concat());
    }

    #[test]
    fn a_line_can_tell_how_the_row_was_tried() {
        let at = |second, nanos| Timestamp::new(second, nanos).unwrap();
        let lane = "openai/gpt-4o".to_owned();
        let tried =
            Attempt { lane: lane.clone(), started_at: at(9, 0), latency_ms: 12, status: Some(503), failure: Some("server_error".into()) };
        let well = Attempt { lane, started_at: at(10, 500_000_000), latency_ms: 34, status: Some(200), failure: None };
        let row = RowResult {
            attempts: vec![tried, well],
            usage: Usage { input_tokens: 7, output_tokens: 5, ..Usage::default() },
            cost: Usd(rust_decimal::Decimal::new(125, 7)),
            finished_at: at(10, 534_000_000),
            ..result(Outcome::Succeeded(response(200, "{}")))
        };
        let mut out = Vec::new();
        write_line_with_attempts(&row, &mut out);
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    proptest! {
        #[test]
        fn any_body_fits_on_one_valid_line(body: Vec<u8>) {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
            let kept = embeddable(Bytes::from(body), is_json);
            prop_assert!(!kept.contains(&b'\n'));
            serde_json::from_slice::<serde::de::IgnoredAny>(&kept).unwrap();
        }
    }
}
