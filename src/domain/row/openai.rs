//! One line of an input file: parses it, reports everything that is wrong with it, and keeps the
//! body raw.
//!
//! The format is OpenAI's batch input (`custom_id`, `method`, `url`, `body`). The body is never
//! re-serialised: the provider receives what the client wrote, except for the value of `model`
//! where the provider has another name for the model.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::batch::problem::{Problem, ProblemCode};
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::row::audio::Recording;
use crate::domain::row::output_limits::{Holder, OutputLimits, with_limits};
use crate::domain::row::shape;
use crate::domain::vocabulary::Operation;

/// The most characters in a `custom_id`. OpenAI states no limit; this limit keeps records small.
pub const MAX_CUSTOM_ID_CHARS: usize = 512;
/// The most characters in a model name.
pub const MAX_MODEL_CHARS: usize = 256;

/// A line that passed every check that needs only the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRequest<'a> {
    pub custom_id: Cow<'a, str>,
    /// The model that the row names. An item may name several models: the text then holds all of
    /// them, with [`MODEL_BREAK`] between them.
    pub model: Cow<'a, str>,
    pub endpoint: Endpoint,
    /// The operation of an item, in BatchRouter's words; `None` for a row of an OpenAI batch.
    pub operation: Option<Operation>,
    /// The JSON object to send, exactly as written.
    pub body: &'a str,
    /// Where the body names the model.
    pub name: ModelName,
    pub limits: OutputLimits,
}

/// Separates the names of several models that may all serve a row.
pub const MODEL_BREAK: char = '\n';

/// Where the body of a row names its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// The bytes of the body that are the JSON string of the model's name.
    At(Range<usize>),
    /// The body does not name the model.
    Absent,
}

impl RowRequest<'_> {
    /// The body to send to a provider that calls the model `upstream`.
    pub fn body_for(&self, upstream: &str) -> Vec<u8> {
        let name = || serde_json::Value::from(upstream).to_string();
        let body = self.body.as_bytes();
        match &self.name {
            ModelName::At(_) if self.operation.is_none() && self.model == upstream => body.to_vec(),
            ModelName::At(span) => [&body[..span.start], name().as_bytes(), &body[span.end..]].concat(),
            ModelName::Absent => {
                let rest = self.body.strip_prefix('{').unwrap_or(self.body).trim_ascii_start();
                let comma = if rest.starts_with('}') { "" } else { "," };
                format!("{{\"model\":{}{comma}{rest}", name()).into_bytes()
            }
        }
    }
}

/// A fault of one line; [`RowFault::at`] adds the line number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    pub code: ProblemCode,
    pub param: Option<&'static str>,
    pub message: String,
}

impl RowFault {
    /// A fault of the named field.
    pub fn new(code: ProblemCode, param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { code, param, message: message.into() }
    }

    /// The problem that reports this fault on line `line`, counted from 1.
    pub fn at(self, line: u64) -> Problem {
        Problem { code: self.code, message: self.message, line: Some(line), param: self.param.map(String::from) }
    }
}

/// A line in OpenAI's form. Any member may hold any JSON value.
#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(borrow, default)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

with_limits! {
    struct RawBody {
        #[serde(borrow, default)]
        model,
        #[serde(borrow, default)]
        stream,
    }
}

/// Parses one line without its line break.
///
/// # Errors
/// Every independent fault of the line, at least one.
pub fn parse_line(line: &[u8], endpoint: RowEndpoint) -> Result<RowRequest<'_>, Vec<RowFault>> {
    let raw: RawLine<'_> = parse_envelope(line).map_err(|fault| vec![fault])?;
    if raw.body.is_none() && raw.url.is_none() && raw.method.is_none() {
        let text = std::str::from_utf8(line).unwrap_or_default();
        if let Some(fault) = shape::of_row(text, endpoint.one().unwrap_or(Endpoint::ChatCompletions).path()) {
            return Err(vec![fault]);
        }
    }
    let mut faults = Vec::new();
    let mut keep = |fault: RowFault| faults.push(fault);

    let custom_id = check_id(raw.custom_id, "custom_id").map_err(&mut keep).ok();
    check_method(raw.method).unwrap_or_else(&mut keep);
    let endpoint = check_url(raw.url, endpoint).map_err(&mut keep).ok();
    let body = match check_body(raw.body) {
        Ok((body, fields)) => {
            check_stream(fields.stream, "body.stream").unwrap_or_else(&mut keep);
            if endpoint.is_some_and(Endpoint::takes_audio) {
                Recording::of(body).map_or_else(&mut keep, drop);
            }
            let limits = OutputLimits::read(fields.limits(), Holder::Body);
            let limits = limits.map_err(|faults| faults.into_iter().for_each(&mut keep)).unwrap_or_default();
            check_model(fields.model).map_err(&mut keep).ok().map(|model| (body, model, fields.model, limits))
        }
        Err(fault) => {
            keep(fault);
            None
        }
    };
    match (custom_id, endpoint, body) {
        (Some(custom_id), Some(endpoint), Some((body, model, Some(raw_model), limits))) if faults.is_empty() => {
            // `raw_model` borrows from `body`, so its address gives its place in it.
            let start = raw_model.get().as_ptr() as usize - body.as_ptr() as usize;
            let name = ModelName::At(start..start + raw_model.get().len());
            Ok(RowRequest { custom_id, model, endpoint, operation: None, body, name, limits })
        }
        (_, _, _) => Err(faults),
    }
}

/// The endpoint that a line names in its `url`, if the endpoint is known; the rest of the line is
/// not checked.
pub fn endpoint_of(line: &[u8]) -> Option<Endpoint> {
    #[derive(Deserialize)]
    struct Address {
        url: String,
    }
    serde_json::from_slice::<Address>(line).ok()?.url.parse().ok()
}

/// The `custom_id` of a line that may have any faults, if it can be read.
pub fn custom_id_of(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        custom_id: &'a RawValue,
    }
    let named: Named<'_> = serde_json::from_slice(line).ok()?;
    check_id(Some(named.custom_id), "custom_id").ok().map(Cow::into_owned)
}

/// Parses the line as an object, with its members as written.
pub(super) fn parse_envelope<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, RowFault> {
    let text = std::str::from_utf8(line).map_err(|error| {
        let column = error.valid_up_to() + 1;
        RowFault::new(ProblemCode::InvalidUtf8, None, format!("byte {column} of the line is not UTF-8; the file must be UTF-8"))
    })?;
    match serde_json::from_str::<T>(text) {
        Ok(raw) if text.trim_ascii_start().starts_with('{') => Ok(raw),
        Err(error) if !error.is_data() => Err(not_json(&error)),
        Err(error) if text.trim_ascii_start().starts_with('{') => {
            Err(RowFault::new(ProblemCode::InvalidJsonLine, None, format!("the row is not usable: {}", place(&error))))
        }
        Ok(_) | Err(_) => match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Err(RowFault::new(ProblemCode::NotAnObject, None, "each line must be one JSON object, like {\"custom_id\": ...}")),
            Err(error) => Err(not_json(&error)),
        },
    }
}

fn not_json(error: &serde_json::Error) -> RowFault {
    RowFault::new(ProblemCode::InvalidJsonLine, None, format!("the line is not valid JSON: {}", place(error)))
}

/// The parser's message, with the position as a column: the parser's own "line 1" would mislead.
pub(super) fn place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    format!("{reason} at column {}", error.column())
}

fn required<'a>(value: Option<&'a RawValue>, param: &'static str, what: impl fmt::Display) -> Result<&'a RawValue, RowFault> {
    match value {
        Some(raw) if raw.get() != "null" => Ok(raw),
        Some(_) | None => Err(RowFault::new(ProblemCode::MissingField, Some(param), format!("`{param}` is missing; {what}"))),
    }
}

pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

pub(super) fn check_id<'a>(value: Option<&'a RawValue>, param: &'static str) -> Result<Cow<'a, str>, RowFault> {
    let raw = required(value, param, "every row needs its own, a string that is unique in the file")?;
    let id = string(raw).ok_or_else(|| no_id(param, kind(raw)))?;
    check_id_text(&id, param).map(|()| id)
}

pub(super) fn check_id_text(id: &str, param: &'static str) -> Result<(), RowFault> {
    match id.chars().count() {
        0 => Err(no_id(param, "an empty string")),
        count if count > MAX_CUSTOM_ID_CHARS => Err(no_id(param, &format!("{count} characters"))),
        _ => Ok(()),
    }
}

fn no_id(param: &'static str, found: &str) -> RowFault {
    let message = format!("`{param}` must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters, found {found}");
    RowFault::new(ProblemCode::InvalidCustomId, Some(param), message)
}

fn check_method(value: Option<&RawValue>) -> Result<(), RowFault> {
    let raw = required(value, "method", "it must be \"POST\"")?;
    if string(raw).is_some_and(|method| method.eq_ignore_ascii_case("POST")) {
        return Ok(());
    }
    Err(RowFault::new(ProblemCode::InvalidMethod, Some("method"), format!("`method` must be \"POST\", found {}", excerpt(raw))))
}

fn check_url(value: Option<&RawValue>, endpoint: RowEndpoint) -> Result<Endpoint, RowFault> {
    // Written only into a fault: most rows have none.
    let rule = fmt::from_fn(|f| match endpoint {
        RowEndpoint::One(endpoint) => write!(f, "be the endpoint of the batch, \"{endpoint}\""),
        RowEndpoint::Mixed => write!(f, "be one of {}, or a path that a provider passes through", Endpoint::choices(&Endpoint::ALL)),
    });
    let raw = required(value, "url", format_args!("it must {rule}"))?;
    let is_right = |asked: &Endpoint| endpoint.one().is_none_or(|one| one == *asked);
    let text = string(raw);
    if let Some(asked) = text.as_deref().and_then(|text| text.parse().ok()).filter(is_right) {
        return Ok(asked);
    }
    let meant = text.as_deref().and_then(shape::spelled_otherwise).filter(is_right);
    let hint = meant.map(|meant| format!("; write \"{meant}\"")).unwrap_or_default();
    let message = format!("`url` must {rule}, found {}{hint}", excerpt(raw));
    Err(RowFault::new(ProblemCode::MismatchedUrl, Some("url"), message))
}

fn check_body(value: Option<&RawValue>) -> Result<(&str, RawBody<'_>), RowFault> {
    let raw = required(value, "body", "it must be the JSON object to send")?;
    if !raw.get().starts_with('{') {
        let message = format!("`body` must be a JSON object, found {}", kind(raw));
        return Err(RowFault::new(ProblemCode::BodyNotAnObject, Some("body"), message));
    }
    let fields = serde_json::from_str::<RawBody<'_>>(raw.get())
        .map_err(|error| RowFault::new(ProblemCode::InvalidJsonLine, Some("body"), format!("`body` is not usable: {}", place(&error))))?;
    Ok((raw.get(), fields))
}

pub(super) fn check_stream(value: Option<&RawValue>, param: &'static str) -> Result<(), RowFault> {
    match value.map(RawValue::get) {
        None | Some("false" | "null") => Ok(()),
        Some(_) => Err(streams(param)),
    }
}

pub(super) fn streams(param: &'static str) -> RowFault {
    let message = format!("`{param}` must be false or absent; a batch row cannot be streamed");
    RowFault::new(ProblemCode::StreamNotSupported, Some(param), message)
}

fn check_model(value: Option<&RawValue>) -> Result<Cow<'_, str>, RowFault> {
    let raw = required(value, "body.model", "it must name the model that runs the row")?;
    let bad = |found: &str| {
        let message = format!("`body.model` must be a string of 1 to {MAX_MODEL_CHARS} characters, found {found}");
        RowFault::new(ProblemCode::InvalidModel, Some("body.model"), message)
    };
    let model = string(raw).ok_or_else(|| bad(kind(raw)))?;
    match model.chars().count() {
        0 => Err(bad("an empty string")),
        count if count > MAX_MODEL_CHARS => Err(bad(&format!("{count} characters"))),
        _ => Ok(model),
    }
}

pub(super) fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'"') => "a string that is not valid Unicode",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) | None => "a number",
    }
}

/// The value as written, cut to a length that fits in a message.
fn excerpt(raw: &RawValue) -> String {
    const MAX: usize = 60;
    let text = raw.get();
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","x":1.0}}"#;

    const CHAT: RowEndpoint = RowEndpoint::One(Endpoint::ChatCompletions);

    fn faults(line: &str) -> String {
        match parse_line(line.as_bytes(), CHAT) {
            Ok(row) => format!("ok {row:?}"),
            Err(faults) => {
                let text: Vec<_> = faults.into_iter().map(|f| format!("{} {:?}: {}", f.code.as_str(), f.param, f.message)).collect();
                text.join("\n")
            }
        }
    }

    #[test]
    fn the_body_is_kept_as_written_and_only_the_model_is_replaced() {
        let line = r#"{"custom_id":"\u00e9","method":"POST","url":"/v1/chat/completions","body": { "a":1e400, "model" : "m\u0031" ,"a ":0.10}, "extra":1}"#;
        let row = parse_line(line.as_bytes(), CHAT).unwrap();
        assert_eq!((row.custom_id.as_ref(), row.model.as_ref()), ("é", "m1"));
        assert_eq!(row.body_for("m1"), br#"{ "a":1e400, "model" : "m\u0031" ,"a ":0.10}"#);
        assert_eq!(row.body_for("x\"y"), br#"{ "a":1e400, "model" : "x\"y" ,"a ":0.10}"#);
    }

    #[test]
    fn every_fault_is_named_with_what_would_be_right() {
        let long = "x".repeat(600);
        let lines = [
            "not json".to_owned(),
            "[1]".into(),
            "\"text\"".into(),
            "{\"custom_id\":\"a\"".into(),
            "{}".into(),
            GOOD.replace("{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":", "").replace("}}", "}"),
            GOOD.replace("\"a\"", "7"),
            GOOD.replace("\"a\"", "\"\""),
            GOOD.replace("\"a\"", &format!("\"{long}\"")),
            GOOD.replace("POST", "post"),
            GOOD.replace("POST", "get"),
            GOOD.replace("/v1/chat", "/chat"),
            GOOD.replace("/v1/chat", "https://api.openai.com/v1/chat"),
            GOOD.replace("/v1/chat/completions", &format!("/v1/embeddings/{long}")),
            GOOD.replace("{\"model\":\"m\",\"x\":1.0}", "[]"),
            GOOD.replace("\"m\"", "null"),
            GOOD.replace("\"m\"", "[]"),
            GOOD.replace("1.0", "1,\"stream\":true"),
            GOOD.replace("\"method\"", "\"custom_id\":\"b\",\"method\""),
            GOOD.replace("1.0", "1,\"model\":\"again\""),
            GOOD.replace("\"a\"", "\"\\ud800\""),
        ];
        let text: Vec<_> = lines.iter().map(|line| faults(line)).collect();
        insta::assert_snapshot!(text.join("\n--\n"));
        let broken = parse_line(b"{\"custom_id\":\"\xff\"}", CHAT).unwrap_err();
        assert_eq!(broken[0].message, "byte 15 of the line is not UTF-8; the file must be UTF-8");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_row_or_a_fault(line: Vec<u8>) {
            if let Err(faults) = parse_line(&line, RowEndpoint::Mixed) {
                prop_assert!(!faults.is_empty());
            }
        }

        #[test]
        fn a_mutated_row_gives_a_row_or_a_fault(position in 0..GOOD.len(), byte: u8, cut in 0..GOOD.len()) {
            let mut line = GOOD.as_bytes().to_vec();
            line[position] = byte;
            if let Ok(row) = parse_line(&line, CHAT) {
                serde_json::from_slice::<serde_json::Value>(&row.body_for("other")).unwrap();
            }
            let _ = parse_line(&line[..cut], CHAT);
        }

        #[test]
        fn replacing_the_model_changes_nothing_else(model in "\\PC{1,20}", upstream in "\\PC{1,20}", pad in " {0,3}") {
            let name = serde_json::Value::from(model.clone());
            let line = GOOD.replace("\"m\"", &format!("{pad}{name}{pad}"));
            let row = parse_line(line.as_bytes(), CHAT).unwrap();
            let sent: serde_json::Value = serde_json::from_slice(&row.body_for(&upstream)).unwrap();
            prop_assert_eq!(&sent["model"], &upstream);
            prop_assert_eq!(&sent["x"], 1.0);
        }
    }
}
