//! Judges what came back from a call: a usable answer, or a failure with its class.
//!
//! The same rule applies to every kind of provider. What follows a failure is decided elsewhere:
//! [`crate::domain::row::retry`].
//!
//! Invariant: every response that leaves here has a body of one valid JSON value on one line,
//! whatever bytes the provider sent.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Answer, CallError};
use crate::domain::row::Response;
use crate::domain::row::output::embeddable;
use crate::domain::row::retry::FailureClass;
use crate::domain::usage::{self, Usage};

/// Characters of a provider's request id that are kept; a longer value is not an id but a mistake.
const MAX_REQUEST_ID_CHARS: usize = 256;
/// Characters of a provider's error message that are quoted. The whole body is also kept.
const MAX_EXCERPT_CHARS: usize = 200;

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A 2xx answer that is one complete JSON object.
    Succeeded { response: Response, usage: Usage },
    /// Any other outcome. `message` is one sentence for a person; `last` is the provider's answer,
    /// if one arrived in full.
    Failed { class: FailureClass, message: String, last: Option<Response> },
}

/// Judges the outcome of a call.
pub fn verdict(result: Result<Answer, CallError>) -> Verdict {
    match result {
        Ok(answer) if (200..300).contains(&answer.status) => accept(answer),
        Ok(answer) => reject(answer),
        Err(error) => Verdict::Failed { class: class_of(&error), message: error.to_string(), last: None },
    }
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

fn accept(answer: Answer) -> Verdict {
    // The JSON parser skips strings that it does not keep without decoding them, so invalid UTF-8
    // would pass the parser and spoil the output file.
    let fault = match std::str::from_utf8(&answer.body) {
        Ok("") => "it is empty".into(),
        // An array would be read as a usage by position.
        Ok(text) if !text.trim_ascii_start().starts_with('{') => "it does not start with a brace".into(),
        Ok(_) => match usage::read(&answer.body) {
            Ok(usage) => return Verdict::Succeeded { response: response(answer, true), usage },
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let message = format!("the provider answered {} with a body that is not a complete JSON object: {fault}", status_line(answer.status));
    Verdict::Failed { class: FailureClass::InvalidResponse, message, last: Some(judged(answer)) }
}

fn reject(answer: Answer) -> Verdict {
    let class = FailureClass::of_status(answer.status, answer.retry_after);
    let mut message = format!("the provider answered {}", status_line(answer.status));
    if let Some(excerpt) = excerpt(&answer.body) {
        message.push_str(": ");
        message.push_str(&excerpt);
    }
    Verdict::Failed { class, message, last: Some(judged(answer)) }
}

/// A response whose body may be anything.
fn judged(answer: Answer) -> Response {
    let is_json = std::str::from_utf8(&answer.body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    response(answer, is_json)
}

fn response(answer: Answer, is_json: bool) -> Response {
    // A missing body is no value, which is not the same as an empty text.
    let body = if answer.body.is_empty() { Bytes::from_static(b"null") } else { embeddable(answer.body, is_json) };
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
    #[derive(Deserialize)]
    struct ErrorEnvelope {
        error: Detail,
    }
    #[derive(Deserialize)]
    struct Detail {
        message: String,
    }
    let envelope: ErrorEnvelope = serde_json::from_slice(body).ok()?;
    let message = envelope.error.message.split_whitespace().collect::<Vec<_>>().join(" ");
    if message.is_empty() {
        return None;
    }
    match message.char_indices().nth(MAX_EXCERPT_CHARS) {
        Some((end, _)) => Some(format!("{}…", &message[..end])),
        None => Some(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn answer(status: u16, body: &[u8]) -> Answer {
        Answer { status, request_id: Some("r-1".into()), retry_after: None, allowances: None, body: Bytes::copy_from_slice(body) }
    }

    /// The verdict as one line of text.
    fn described(status: u16, body: &[u8]) -> String {
        match verdict(Ok(answer(status, body))) {
            Verdict::Succeeded { response, usage } => {
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
            described(200, b"{\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4},\n \"id\":1}\n"),
            described(201, b"{}"),
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
            assert_eq!(verdict(Err(error)), Verdict::Failed { class, message, last: None });
        }
    }

    #[test]
    fn the_wish_to_wait_is_passed_on() {
        let wish = Some(Duration::from_millis(1_500));
        let Verdict::Failed { class, .. } = verdict(Ok(Answer { retry_after: wish, ..answer(429, b"{}") })) else { panic!("429 failed") };
        assert_eq!(class.retry_after(), wish);
    }

    #[test]
    fn texts_of_the_provider_are_cut() {
        let id = Some("é".repeat(1_000));
        let body = format!("{{\"error\":{{\"message\":\"{}\"}}}}", "ü".repeat(1_000));
        let Verdict::Failed { message, last, .. } = verdict(Ok(Answer { request_id: id, ..answer(500, body.as_bytes()) })) else {
            panic!("500 failed")
        };
        assert_eq!(last.unwrap().request_id.unwrap().chars().count(), MAX_REQUEST_ID_CHARS);
        assert!(message.ends_with("ü…") && message.chars().count() < 260, "{message}");
    }

    proptest! {
        #[test]
        fn any_answer_becomes_one_valid_line(status: u16, body: Vec<u8>, wrap: bool) {
            let body = if wrap { [b"{\"error\":{\"message\":\"", &body[..], b"\"}}"].concat() } else { body };
            let response = match verdict(Ok(answer(status, &body))) {
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
