//! The contents of a request, read with errors that name the field: JSON objects, queries, ids in
//! paths.
//!
//! Fields are picked by hand instead of derived: a derived error says "invalid type at line 1", but
//! a client needs to know which field is wrong and what would be right. A field that a call does
//! not know is an error, as in the hosted API: a misspelt `output_expires_after` must not be taken
//! for a request to keep the output for ever. Unknown query parameters are ignored.

mod amount;
pub mod body_room;
pub mod file_upload;
pub mod forwarded;
pub mod held_body;
pub mod idempotency;
pub mod json_digest;
pub mod multipart;
pub mod multipart_window;
mod path_id;
mod spooling;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub use self::path_id::{Params, PathId, PathIds, PathText, named};
use super::layers::request_body::Fate;
use super::response::error::ApiError;
use super::state::Api;
use crate::domain::error::Code;
use crate::domain::file::ExpiresAfter;
use crate::domain::id::IdError;

/// The most bytes that a field of a larger body may have.
const MAX_FIELD: usize = 256 << 10;

/// A JSON object: the body of a request, or a part of one.
#[derive(Debug, Default)]
pub struct Object {
    /// The field names that lead from the body to this object.
    path: Vec<String>,
    fields: Map<String, Value>,
    /// The whole body as it arrived.
    body: Bytes,
}

impl FromRequest<Arc<Api>> for Object {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        Self::read(read_json(request, api, Self::MAX_BYTES).await?)
    }
}

/// The error for a body that is not JSON.
pub fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(Code::InvalidJson, format!("the body is not valid JSON: {error}"))
}

/// Reads the body of a request that sends JSON, of at most `most` bytes.
///
/// # Errors
/// When the body is not JSON by its content type, is too long, or is cut.
pub async fn read_json(request: Request, api: &Api, most: u64) -> Result<Bytes, ApiError> {
    check_json(request.headers())?;
    let body = read_small(request, api, most).await?;
    match body.is_empty() {
        true => Err(ApiError::new(Code::InvalidJson, "the body is empty; it must be a JSON object")),
        false => Ok(body.freeze()),
    }
}

/// The content type in lower case, without parameters.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase())
}

/// Checks that a request sends JSON, as it is.
fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    check_json_type(headers)?;
    check_encoding(headers)
}

fn check_json_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let found = media_type(headers);
    match found.as_deref() {
        Some(found) if found == "application/json" || found.ends_with("+json") => Ok(()),
        Some(found) => {
            let message = format!("the body must be sent as `content-type: application/json`, found `{found}`");
            Err(ApiError::new(Code::UnsupportedMediaType, message))
        }
        None => Err(ApiError::new(Code::UnsupportedMediaType, "the body must be sent with `content-type: application/json`")),
    }
}

/// Refuses a compressed body, which would otherwise be called malformed, or be stored compressed.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let values = headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?").trim());
    let Some(found) = values.into_iter().find(|value| !value.is_empty() && !value.eq_ignore_ascii_case("identity")) else {
        return Ok(());
    };
    let found: String = found.chars().take(100).collect();
    let message = format!("the body must be sent without `content-encoding`, found `{found}`");
    Err(ApiError::new(Code::UnsupportedMediaType, message).param("content-encoding"))
}

/// The announced size of the body, if there is one.
pub fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(most: u64) -> ApiError {
    ApiError::new(Code::TooLarge, format!("this JSON body may have at most {most} bytes"))
}

/// The error of a body that could not be read to its end.
fn cut_short(fate: &Fate, api: &Api) -> ApiError {
    fate.blame(api.limits.body_idle).unwrap_or_else(|| ApiError::incomplete("the body could not be read to its end"))
}

async fn read_small(request: Request, api: &Api, most: u64) -> Result<BytesMut, ApiError> {
    let too_large = || too_large(most);
    if announced_bytes(request.headers()).is_some_and(|bytes| bytes > most) {
        return Err(too_large());
    }
    let fate = request.extensions().get::<Fate>().cloned().unwrap_or_default();
    let mut body = request.into_body();
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| cut_short(&fate, api))?.into_data() else { continue };
        if (read.len() + data.len()) as u64 > most {
            return Err(too_large());
        }
        read.extend_from_slice(&data);
    }
    Ok(read)
}

/// Names the type of a value in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Object {
    /// The most bytes of a body that is held as a whole.
    pub const MAX_BYTES: u64 = 1 << 20;

    /// Reads a body as a JSON object.
    ///
    /// # Errors
    /// When the body is too long, or not a JSON object.
    pub fn read(body: Bytes) -> Result<Self, ApiError> {
        if body.len() as u64 > Self::MAX_BYTES {
            return Err(too_large(Self::MAX_BYTES));
        }
        match serde_json::from_slice::<Value>(&body) {
            Ok(Value::Object(fields)) => Ok(Self { path: Vec::new(), fields, body }),
            Ok(other) => Err(ApiError::new(Code::InvalidValue, format!("the body must be a JSON object, found {}", kind(&other)))),
            Err(error) => Err(not_json(&error)),
        }
    }

    /// Reads the `known` fields of a large body, and returns the `raw` fields as they were written.
    /// Other fields, however large, cost nothing.
    ///
    /// # Errors
    /// When the body is not a JSON object, or one of the fields is longer than any legitimate
    /// value.
    pub fn picking<const N: usize>(body: &Bytes, known: &[&str], raw: [&str; N]) -> Result<(Self, [Option<Bytes>; N]), ApiError> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(body).map_err(|error| match error.is_data() {
            true => ApiError::new(Code::InvalidValue, "the body must be a JSON object"),
            false => not_json(&error),
        })?;
        let left = raw.map(|name| members.get(name).map(|value| body.slice_ref(value.get().as_bytes())));
        let read = |(name, value): (&String, &&RawValue)| match value.get().len() > MAX_FIELD {
            true => Err(ApiError::invalid(name, format!("`{name}` may have at most {MAX_FIELD} bytes"))),
            false => Ok((name.clone(), serde_json::from_str(value.get()).map_err(|error| not_json(&error))?)),
        };
        let fields = members.iter().filter(|(name, _)| known.contains(&name.as_str())).map(read).collect::<Result<_, _>>()?;
        Ok((Self { path: Vec::new(), fields, body: body.clone() }, left))
    }

    /// Reads an array of strings; empty if the field is absent.
    ///
    /// # Errors
    /// When the field or one of its members is something else.
    pub fn texts(&self, field: &str) -> Result<Vec<String>, ApiError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let wrong = || self.wrong(field, "an array of strings", value);
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
        value.as_array().ok_or_else(wrong)?.iter().map(text).collect()
    }

    fn name(&self, field: &str) -> String {
        self.path.iter().map(String::as_str).chain([field]).collect::<Vec<_>>().join(".")
    }

    fn wrong(&self, field: &str, wanted: &str, found: &Value) -> ApiError {
        let name = self.name(field);
        let message = format!("`{name}` must be {wanted}, found {}", kind(found));
        ApiError::invalid(&name, message)
    }

    /// Refuses fields other than the `known` ones.
    ///
    /// # Errors
    /// When there is another field.
    pub fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        let Some(unknown) = self.fields.keys().find(|field| !known.contains(&field.as_str())) else { return Ok(()) };
        let shown: String = self.name(unknown).chars().take(100).collect();
        let message = match self.path.join(".").as_str() {
            "" => format!("`{shown}` is not a field of this call, whose fields are {}", quoted(known.iter())),
            path => format!("`{shown}` is not a field that this version knows; those of `{path}` are {}", quoted(known.iter())),
        };
        Err(ApiError::new(Code::UnknownParameter, message).param(&shown))
    }

    /// Returns a field as it is; null counts as absent.
    pub fn value(&self, field: &str) -> Option<&Value> {
        self.get(field)
    }

    /// Whether a field is there and is null.
    pub fn is_null(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    /// Looks up a field; null counts as absent.
    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn need<T>(&self, field: &str, what: &str, found: Option<T>) -> Result<T, ApiError> {
        found.ok_or_else(|| ApiError::missing(&self.name(field), what))
    }

    /// Reads a string, if the field is present.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn text(&self, field: &str) -> Result<Option<&str>, ApiError> {
        let read = |value: &'_ Value| value.as_str().is_none().then(|| self.wrong(field, "a string", value));
        match self.get(field) {
            Some(value) => read(value).map_or(Ok(value.as_str()), Err),
            None => Ok(None),
        }
    }

    /// Reads a string that must be present; `what` says what it is for.
    ///
    /// # Errors
    /// When the field is absent or something else.
    pub fn need_text(&self, field: &str, what: &str) -> Result<&str, ApiError> {
        self.need(field, what, self.text(field)?)
    }

    /// Reads a whole number, if the field is present.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn integer(&self, field: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| self.wrong(field, "a whole number", value))
    }

    /// An error about a field that says what the field must be.
    pub fn invalid(&self, field: &str, rule: &str) -> ApiError {
        let name = self.name(field);
        ApiError::invalid(&name, format!("`{name}` {rule}"))
    }

    /// Returns the members.
    pub fn into_fields(self) -> Map<String, Value> {
        self.fields
    }

    /// Reads `true` or `false`, if the field is present.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn flag(&self, field: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(field, "`true` or `false`", value))
    }

    /// Reads a whole number that must be present.
    ///
    /// # Errors
    /// When the field is absent or something else.
    pub fn need_integer(&self, field: &str, what: &str) -> Result<i64, ApiError> {
        let value = self.need(field, what, self.get(field))?;
        value.as_i64().ok_or_else(|| self.wrong(field, "a whole number", value))
    }

    /// Reads an object, if the field is present.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn object(&self, field: &str) -> Result<Option<Self>, ApiError> {
        match self.get(field) {
            Some(Value::Object(fields)) => {
                let path = self.path.iter().cloned().chain([field.to_owned()]).collect();
                Ok(Some(Self { path, fields: fields.clone(), body: self.body.clone() }))
            }
            Some(other) => Err(self.wrong(field, "an object", other)),
            None => Ok(None),
        }
    }

    /// Reads an object; `None` if the field is absent or something else.
    ///
    /// # Errors
    /// None of its own; it returns a result like the other readers.
    pub fn object_or_other(&self, field: &str) -> Result<Option<Self>, ApiError> {
        if self.get(field).is_some_and(Value::is_object) { self.object(field) } else { Ok(None) }
    }

    /// Reads an array that must be present.
    ///
    /// # Errors
    /// When the field is absent or something else.
    pub fn need_array(&self, field: &str, what: &str) -> Result<&[Value], ApiError> {
        let value = self.need(field, what, self.get(field))?;
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(field, "an array", value))
    }

    /// Reads an object whose values are strings.
    ///
    /// # Errors
    /// When the field or one of its values is something else.
    pub fn pairs(&self, field: &str) -> Result<Vec<(String, String)>, ApiError> {
        let Some(object) = self.object(field)? else { return Ok(Vec::new()) };
        let pair = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            other => Err(object.wrong(key, "a string", other)),
        };
        object.fields.iter().map(pair).collect()
    }

    /// Reads when a file should expire: `{"anchor": "created_at", "seconds": ...}`.
    ///
    /// # Errors
    /// When the field is present and something else.
    pub fn expires_after(&self, field: &str) -> Result<Option<ExpiresAfter>, ApiError> {
        let Some(wish) = self.object(field)? else { return Ok(None) };
        let anchor = wish.need_text("anchor", "it must be `created_at`")?;
        let seconds = wish.need_integer("seconds", "it says after how many seconds the file goes away")?;
        expires_after(anchor, &wish.name("anchor"), seconds, &wish.name("seconds")).map(Some)
    }
}

/// Checks the two parts of a request that a file expires.
pub fn expires_after(anchor: &str, anchor_name: &str, seconds: i64, seconds_name: &str) -> Result<ExpiresAfter, ApiError> {
    if anchor != "created_at" {
        return Err(unknown_choice(anchor_name, anchor, "`created_at`"));
    }
    let (from, to) = (ExpiresAfter::RANGE.start(), ExpiresAfter::RANGE.end());
    ExpiresAfter::from_seconds(seconds)
        .ok_or_else(|| ApiError::invalid(seconds_name, format!("`{seconds_name}` must be from {from} to {to}, found {seconds}")))
}

/// An error about a value that is none of the legal ones.
pub fn unknown_choice(param: &str, found: &str, choices: &str) -> ApiError {
    let found: String = found.chars().take(100).collect();
    ApiError::invalid(param, format!("`{param}` must be one of {choices}; found `{found}`"))
}

/// Parses an id in a body or a query.
pub fn parse_id<T: FromStr<Err = IdError>>(param: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error: IdError| ApiError::invalid(param, error.to_string()))
}

/// Returns a header as text, if it is text.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Formats words as `a`, `b`, `c`, each in backticks.
pub fn quoted(words: impl Iterator<Item = impl Display>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
