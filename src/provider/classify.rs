//! Judges what came back from a call: a usable answer, or a failure with its class.
//!
//! The same rule applies to every kind of provider. What follows a failure is decided elsewhere:
//! [`crate::domain::row::retry`].
//!
//! Invariant: every response that leaves here has a body of one valid JSON value on one line,
//! whatever bytes the provider sent.

use bytes::{Buf, Bytes};
use http::StatusCode;
use serde::de::IgnoredAny;

use super::{Answer, CallError, finite};
use crate::domain::format::reading::{NoAnswer, Reading, message_of};
use crate::domain::format::wire::WireFormat;
use crate::domain::provider::denial::denial_of;
use crate::domain::row::Response;
use crate::domain::row::audio::PlainForm;
use crate::domain::row::output::embeddable;
use crate::domain::row::retry::FailureClass;
use crate::domain::usage::Usage;
use crate::domain::usage::reported::{Reported, UsageGaps};

/// Characters of a provider's request id that are kept; a longer value is not an id but a mistake.
const MAX_REQUEST_ID_CHARS: usize = 256;

/// What an answer is that puts the answer off.
const PUT_OFF: &str = "no answer, only that the request was accepted";

/// What a call has asked, as far as the judgement of its answer depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub format: WireFormat,
    /// The body of the request.
    pub body: &'a [u8],
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A 2xx answer that is one complete JSON object, or the text that was asked for, and answers what
    /// was asked. `gaps` are the
    /// sides of the usage that the provider does not state.
    Succeeded { response: Response, usage: Usage, gaps: UsageGaps },
    /// Any other outcome. `message` is one sentence for a person; `last` is the provider's answer,
    /// if one arrived in full.
    Failed { class: FailureClass, message: String, last: Option<Response> },
}

/// Judges the outcome of a call.
pub fn verdict(asked: Asked<'_>, result: Result<Answer, CallError>) -> Verdict {
    match result {
        Ok(answer) if (200..300).contains(&answer.status) => accept(asked, unmarked(answer)),
        Ok(answer) => reject(unmarked(answer)),
        Err(error) => Verdict::Failed { class: class_of(&error), message: error.to_string(), last: None },
    }
}

/// The answer without a byte order mark, which JSON does not have.
fn unmarked(mut answer: Answer) -> Answer {
    if answer.body.starts_with("\u{feff}".as_bytes()) {
        answer.body.advance("\u{feff}".len());
    }
    answer
}

/// The class of a call without an answer.
pub fn class_of(error: &CallError) -> FailureClass {
    match error {
        CallError::Connect { .. } => FailureClass::Connect,
        CallError::Interrupted { .. } => FailureClass::Interrupted,
        CallError::TimedOut { .. } => FailureClass::TimedOut,
        CallError::Undecodable { .. } => FailureClass::InvalidResponse,
        CallError::TooLarge { .. } => FailureClass::ResponseTooLarge,
    }
}

fn accept(asked: Asked<'_>, mut answer: Answer) -> Verdict {
    // Shares the bytes with the answer, which is given away with what was read of them.
    let mut body = answer.body.clone();
    let mut reading = read(&body);
    // Servers written in Python write numbers that JSON does not have.
    if let Some(finite) = reading.as_ref().err().and_then(|_| finite::repaired(&answer.body)) {
        drop(reading);
        body = finite;
        answer.body = body.clone();
        reading = read(&body);
    }
    let plain = if asked.format.takes_audio() { PlainForm::of(asked.body) } else { None };
    let (class, fault) = match (reading, plain) {
        (Err(_), Some(form)) => match plain_fault(form, &answer) {
            None => return Verdict::Succeeded { response: text_response(answer), usage: Usage::default(), gaps: UsageGaps::ALL },
            Some(fault) => (FailureClass::InvalidResponse, fault),
        },
        (Ok(reading), _) => match fault(asked, &answer, &reading) {
            None => {
                let Reported { usage, gaps, .. } = reading.reported();
                let usage = Usage { images: reading.images(), ..usage };
                return Verdict::Succeeded { response: response(answer, true), usage, gaps };
            }
            Some(NoAnswer { status, why }) => {
                let class = status.map_or(FailureClass::InvalidResponse, |status| class_at(status, &answer));
                (class, why)
            }
        },
        // The same request would be answered in the same way.
        (Err(_), None) if is_event_stream(&answer.body) => {
            (FailureClass::EventStream, "an event stream, which the row does not ask for; `\"stream\": false` in its body may help".into())
        }
        (Err(fault), None) => (FailureClass::InvalidResponse, format!("a body that is not a complete JSON object: {fault}")),
    };
    let message = format!("the provider answered {} with {fault}", status_line(answer.status));
    Verdict::Failed { class, message, last: Some(judged(answer)) }
}

/// Reads the body of a 2xx answer.
fn read(body: &[u8]) -> Result<Reading<'_>, String> {
    // The JSON parser skips strings that it does not keep without decoding them, so invalid UTF-8
    // would pass the parser and spoil the output file.
    match std::str::from_utf8(body) {
        Ok("") => Err("it is empty".into()),
        Ok(text) if !text.trim_ascii_start().starts_with('{') => Err("it does not start with a brace".into()),
        Ok(text) => Reading::of(text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Why the body of a 2xx answer is no answer, if it is none.
fn fault(asked: Asked<'_>, answer: &Answer, reading: &Reading<'_>) -> Option<NoAnswer> {
    reading.fault(asked.format, asked.body).or_else(|| {
        // A video is a job that goes on; of anything else the answer is expected here.
        let is_put_off = answer.status == 202 && asked.format != WireFormat::Videos;
        is_put_off.then(|| NoAnswer { status: None, why: PUT_OFF.into() })
    })
}

/// Why the body of a 2xx answer is not the text that was asked for, if it is not.
fn plain_fault(form: PlainForm, answer: &Answer) -> Option<String> {
    if answer.status == 202 {
        return Some(PUT_OFF.to_owned());
    }
    match std::str::from_utf8(&answer.body) {
        Ok(text) => form.fault(text).map(str::to_owned),
        Err(error) => Some(format!("a text that is not UTF-8: {error}")),
    }
}

/// Whether a body has the form of server-sent events.
fn is_event_stream(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    [&b"data:"[..], b"event:", b"id:", b"retry:", b":"].iter().any(|field| body.starts_with(field))
}

fn reject(answer: Answer) -> Verdict {
    let class = class_at(answer.status, &answer);
    let mut message = format!("the provider answered {}", status_line(answer.status));
    if let Some(excerpt) = excerpt(&answer.body) {
        message.push_str(": ");
        message.push_str(&excerpt);
    }
    Verdict::Failed { class, message, last: Some(judged(answer)) }
}

/// The class of an answer with this status, of its own or in its body.
fn class_at(status: u16, answer: &Answer) -> FailureClass {
    match denial_of(status, &answer.body) {
        Some(denial) => FailureClass::Denied { denial, status },
        None => FailureClass::of_status(status, answer.retry_after),
    }
}

/// A response whose body may be anything.
fn judged(answer: Answer) -> Response {
    let is_json = std::str::from_utf8(&answer.body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    response(answer, is_json)
}

fn response(answer: Answer, is_json: bool) -> Response {
    // A missing body is no value, which is not the same as an empty text.
    let body = if answer.body.is_empty() { Bytes::from_static(b"null") } else { embeddable(answer.body.clone(), is_json) };
    with_body(answer, body)
}

/// A response whose body is a text, empty or not.
fn text_response(answer: Answer) -> Response {
    let body = embeddable(answer.body.clone(), false);
    with_body(answer, body)
}

fn with_body(answer: Answer, body: Bytes) -> Response {
    let request_id = answer.request_id.map(|mut id| {
        if let Some((end, _)) = id.char_indices().nth(MAX_REQUEST_ID_CHARS) {
            id.truncate(end);
        }
        id
    });
    Response { status: answer.status, request_id, body }
}

fn status_line(status: u16) -> String {
    match StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

/// The provider's own description of the error, on one line.
fn excerpt(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    message_of(body.get("error").filter(|error| !error.is_null()).unwrap_or(&body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const ASKED: Asked<'static> = Asked { format: WireFormat::ChatCompletions, body: b"{}" };

    fn answer(status: u16, body: &[u8]) -> Answer {
        Answer { status, request_id: Some("r-1".into()), retry_after: None, allowances: None, body: Bytes::copy_from_slice(body) }
    }

    /// The verdict as one line of text.
    fn described(status: u16, body: &[u8]) -> String {
        match verdict(ASKED, Ok(answer(status, body))) {
            Verdict::Succeeded { response, usage, .. } => {
                format!("succeeded, {} tokens, body {}", usage.total_tokens(), String::from_utf8_lossy(&response.body))
            }
            Verdict::Failed { class, message, last } => {
                format!("{}: {message}; body {}", class.code(), String::from_utf8_lossy(&last.unwrap().body))
            }
        }
    }

    #[test]
    fn answers_and_their_verdicts() {
        let lines = [
            described(200, b"{\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4},\n \"choices\":[{}]}\n"),
            described(201, b"{\"choices\":[{}]}"),
            described(200, b"\xef\xbb\xbf{\"choices\":[{\"logprob\":-Infinity}],\"x\":[NaN,\"NaN\"]}"),
            described(200, b"{}"),
            described(202, b"{\"choices\":[{}]}"),
            described(202, b"{\"id\":\"j\",\"status\":\"queued\"}"),
            described(200, b"{\"error\":{\"message\":\"Provider returned error\",\"code\":502}}"),
            described(200, b"{\"error\":{\"message\":\"no such model\",\"code\":\"404\"}}"),
            described(200, b"{\"error\":{\"message\":\"slow down\",\"code\":429}}"),
            described(200, b"{\"choices\":[{\"finish_reason\":\"error\"}]}"),
            described(200, b"event: response.created\ndata: {}\n\n"),
            described(200, b": ping\n\ndata: [DONE]\n\n"),
            described(200, b"NaN"),
            described(200, b"{\"usage\":{"),
            described(200, b"[]"),
            described(200, b""),
            described(204, b""),
            described(200, b"{\"a\":\"\xff\"}"),
            described(200, b"<html>"),
            described(302, b"moved"),
            described(400, b"{\"error\":{\"message\":\"no such\\nmodel\",\"code\":null}}"),
            described(429, b"{\"error\":{\"message\":\"slow down\"}}"),
            described(500, b"{\"error\":\"plain\"}"),
            described(503, b""),
            described(529, b"{\"error\":{\"message\":\" \"}}\r\n"),
            described(999, b"\xfe\xff"),
        ];
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_plain_text_is_an_answer_where_one_was_asked_for() {
        let heard = |form: &str, status, body: &[u8]| {
            let asked = format!(r#"{{"response_format":"{form}"}}"#);
            let asked = Asked { format: WireFormat::AudioTranscriptions, body: asked.as_bytes() };
            match verdict(asked, Ok(answer(status, body))) {
                Verdict::Succeeded { response, .. } => format!("succeeded, body {}", String::from_utf8_lossy(&response.body)),
                Verdict::Failed { class, message, .. } => format!("{}: {message}", class.code()),
            }
        };
        assert_eq!(heard("text", 200, b"Hello, \"you\".\n"), r#"succeeded, body "Hello, \"you\".\n""#);
        assert_eq!(heard("text", 200, b""), "succeeded, body \"\"");
        assert_eq!(heard("text", 200, b"{\"text\":\"Hello.\"}"), "succeeded, body {\"text\":\"Hello.\"}");
        assert_eq!(heard("json", 200, b"{\"text\":\"\"}"), "succeeded, body {\"text\":\"\"}");
        for (form, status, body, fault) in [
            ("json", 200, &b"Hello."[..], "a body that is not a complete JSON object: it does not start with a brace"),
            ("json", 200, b"{}", "no `text`"),
            ("text", 200, b"<!doctype html><p>Bad gateway", "a page of HTML"),
            ("text", 202, b"Hello.", "no answer, only that the request was accepted"),
            ("vtt", 200, b"Hello.", "a text that does not begin with `WEBVTT`"),
            ("text", 200, b"{\"error\":\"no speech model\"}", "an error: no speech model"),
        ] {
            let told = heard(form, status, body);
            assert!(told.starts_with("invalid_response: ") && told.ends_with(fault), "{told}");
        }
    }

    #[test]
    fn failed_calls_have_no_answer() {
        let host = String::from("api.example");
        let table = [
            (CallError::Connect { host: host.clone(), reason: "refused".into() }, FailureClass::Connect),
            (CallError::Interrupted { host: host.clone(), reason: "eof".into() }, FailureClass::Interrupted),
            (CallError::TimedOut { host: host.clone(), what: "begin its answer", limit_ms: 5 }, FailureClass::TimedOut),
            (CallError::Undecodable { host: host.clone(), reason: "gzip".into() }, FailureClass::InvalidResponse),
            (CallError::TooLarge { host, limit: 9 }, FailureClass::ResponseTooLarge),
        ];
        for (error, class) in table {
            let message = error.to_string();
            assert_eq!(verdict(ASKED, Err(error)), Verdict::Failed { class, message, last: None });
        }
    }

    #[test]
    fn the_wish_to_wait_is_passed_on() {
        let wish = Some(Duration::from_millis(1_500));
        let Verdict::Failed { class, .. } = verdict(ASKED, Ok(Answer { retry_after: wish, ..answer(429, b"{}") })) else {
            panic!("429 failed")
        };
        assert_eq!(class.retry_after(), wish);
    }

    #[test]
    fn texts_of_the_provider_are_cut() {
        let id = Some("é".repeat(1_000));
        let body = format!("{{\"error\":{{\"message\":\"{}\"}}}}", "ü".repeat(1_000));
        let Verdict::Failed { message, last, .. } = verdict(ASKED, Ok(Answer { request_id: id, ..answer(500, body.as_bytes()) })) else {
            panic!("500 failed")
        };
        assert_eq!(last.unwrap().request_id.unwrap().chars().count(), MAX_REQUEST_ID_CHARS);
        assert!(message.ends_with("ü…") && message.chars().count() < 260, "{message}");
    }

    proptest! {
        #[test]
        fn any_answer_becomes_one_valid_line(status: u16, body: Vec<u8>, wrap: bool) {
            let body = if wrap { [b"{\"error\":{\"message\":\"", &body[..], b"\"}}"].concat() } else { body };
            let response = match verdict(ASKED, Ok(answer(status, &body))) {
                Verdict::Succeeded { response, .. } => response,
                Verdict::Failed { last, message, .. } => {
                    prop_assert!(!message.contains('\n'));
                    last.unwrap()
                }
            };
            prop_assert!(!response.body.iter().any(|b| matches!(b, b'\n' | b'\r')));
            prop_assert!(serde_json::from_str::<serde_json::Value>(std::str::from_utf8(&response.body).unwrap()).is_ok());
        }
    }
}
