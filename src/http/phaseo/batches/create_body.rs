//! What the body of a create says, checked in the same order as by Phaseo's server: the first fault
//! is reported.

use bytes::Bytes;
use serde_json::Value;

use super::endpoint::quotable;
use super::routing;
use super::subscription::{self, Wish};
use crate::domain::endpoint::Endpoint;
use crate::domain::file::ExpiresAfter;
use crate::domain::id::FileId;
use crate::domain::quote::constraints::{Constraints, RoutingPreferences};
use crate::domain::time::CompletionWindow;
use crate::http::phaseo::batches::common::{Common, RowSyntax};
use crate::http::phaseo::error::Refusal;
use crate::http::request::{Object, not_json};

/// The fields that are read, except the rows. Other fields are tolerated: `debug`, `beta` and
/// `routing` have no effect here, and fields that are not read are passed on to no other place.
const FIELDS: [&str; 16] = [
    "model",
    "input_file_id",
    "system",
    "max_tokens",
    "max_output_tokens",
    "temperature",
    "endpoint",
    "completion_window",
    "metadata",
    "output_expires_after",
    "session_id",
    "sessionId",
    "webhook",
    "webhook_endpoint_id",
    "provider",
    "provider_options",
];
/// The fields that can hold rows in the create itself.
const ROWS: [(&str, RowSyntax); 3] = [("requests", RowSyntax::Requests), ("prompts", RowSyntax::Prompts), ("items", RowSyntax::Items)];
/// The most characters of a session's id (Phaseo's documents).
const MAX_SESSION: usize = 256;
/// The most pairs of metadata, and the most characters of each name and value (Phaseo's rule for
/// OpenAI, where the rule comes from).
const METADATA: (usize, usize, usize) = (16, 64, 512);

/// Where the rows are.
#[derive(Debug, Clone)]
pub enum RowSource {
    File(FileId),
    /// An array, as it stands in the body.
    Rows(RowSyntax, Bytes),
}

/// The body of a create, after reading.
#[derive(Debug)]
pub struct CreateBody {
    pub source: RowSource,
    pub common: Common,
    /// `None` if the rows determine the endpoint.
    pub endpoint: Option<Endpoint>,
    pub window: CompletionWindow,
    pub metadata: Vec<(String, String)>,
    pub output_expires_after: Option<ExpiresAfter>,
    pub session: Option<String>,
    pub constraints: Constraints,
    pub preferences: RoutingPreferences,
    pub subscription: Option<Wish>,
}

impl CreateBody {
    /// Reads a body.
    ///
    /// # Errors
    /// The first fault.
    pub fn read(body: &Bytes) -> Result<Self, Refusal> {
        if !body.trim_ascii_start().starts_with(b"{") {
            // A body that is not JSON at all gets the error for that.
            serde_json::from_slice::<serde::de::IgnoredAny>(body).map_err(|error| not_json(&error))?;
            return Err(Refusal::invalid("batch_body_must_be_object", "the body must be a JSON object"));
        }
        let (object, rows) = Object::picking(body, &FIELDS, ROWS.map(|(name, _)| name))?;
        let subscription = subscription::read(&object)?;
        let source = source(&object, rows)?;
        let (constraints, preferences) = routing::read(&object)?;
        Ok(Self {
            source,
            common: common(&object)?,
            endpoint: object.text("endpoint")?.map(quotable).transpose()?,
            window: window(&object)?,
            metadata: metadata(&object)?,
            output_expires_after: expiry(&object)?,
            session: session(&object)?,
            constraints,
            preferences,
            subscription,
        })
    }
}

/// The source of the rows: exactly one, and not empty.
fn source(object: &Object, rows: [Option<Bytes>; ROWS.len()]) -> Result<RowSource, Refusal> {
    let mut sources = Vec::new();
    if let Some(id) = object.text("input_file_id")?.filter(|id| !id.is_empty()) {
        let file = id.parse().map_err(|_| Refusal::not_found("batch_input_file_not_found_or_not_owned", "file_id", id))?;
        sources.push(RowSource::File(file));
    }
    for ((_, kind), raw) in ROWS.into_iter().zip(rows) {
        sources.extend(raw.filter(|raw| raw.as_ref() != b"null").map(|raw| RowSource::Rows(kind, raw)));
    }
    let names = "`input_file_id`, `requests`, `prompts` and `items`";
    let mut sources = sources.into_iter();
    match (sources.next(), sources.next()) {
        (None, _) => Err(Refusal::invalid("missing_batch_input", format!("a batch has one of {names}"))),
        (Some(_), Some(_)) => Err(Refusal::invalid("ambiguous_batch_input", format!("a batch has exactly one of {names}"))),
        (Some(RowSource::Rows(_, raw)), None) if !is_filled(&raw) => {
            Err(Refusal::invalid("invalid_requests", "the rows must be an array with at least one member"))
        }
        (Some(source), None) => Ok(source),
    }
}

/// Whether a JSON text is an array with members.
fn is_filled(raw: &[u8]) -> bool {
    raw.strip_prefix(b"[").is_some_and(|rest| !rest.trim_ascii_start().starts_with(b"]"))
}

fn common(object: &Object) -> Result<Common, Refusal> {
    let number = |name: &str| match object.value(name) {
        None => Ok(None),
        Some(value @ Value::Number(_)) => Ok(Some(value.clone())),
        Some(other) => Err(Refusal::invalid("invalid_request_body", format!("`{name}` must be a number, found {other}"))),
    };
    let limit = number("max_output_tokens")?;
    Ok(Common {
        model: object.text("model")?.filter(|model| !model.is_empty()).map(str::to_owned),
        system: object.text("system")?.filter(|system| !system.is_empty()).map(str::to_owned),
        max_tokens: limit.or(number("max_tokens")?),
        temperature: number("temperature")?,
    })
}

/// `24h`, `2d`, `36 hours`, `3 days`, or a bare number of hours; minutes are our own extension.
fn window(object: &Object) -> Result<CompletionWindow, Refusal> {
    let unsupported = |found: &Value| {
        let rule = "a number of hours (`24h`, `36 hours`), days (`2d`, `3 days`) or minutes (`90m`), from `1m` to `30d`";
        Refusal::invalid("batch_completion_window_unsupported", format!("`completion_window` must be {rule}; found {found}"))
    };
    let Some(value) = object.value("completion_window") else { return Ok(CompletionWindow::DAY) };
    let text = match value {
        Value::String(text) => text.trim().to_ascii_lowercase(),
        Value::Number(hours) => hours.to_string(),
        _ => return Err(unsupported(value)),
    };
    let units = [(" hours", "h"), (" hour", "h"), (" days", "d"), (" day", "d")];
    let short = units.iter().find_map(|(long, short)| Some(format!("{}{short}", text.strip_suffix(long)?)));
    let bare = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{text}h"));
    short.or(bare).unwrap_or(text).parse().map_err(|_| unsupported(value))
}

fn metadata(object: &Object) -> Result<Vec<(String, String)>, Refusal> {
    let (most, key_chars, value_chars) = METADATA;
    let rule =
        format!("at most {most} members, names of at most {key_chars} and values, all of them texts, of at most {value_chars} characters");
    let invalid = || Refusal::invalid("invalid_batch_metadata", format!("`metadata` must be an object: {rule}"));
    let members = match object.value("metadata") {
        None => return Ok(Vec::new()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(invalid()),
    };
    let pair = |(name, value): (&String, &Value)| {
        let value = value.as_str().filter(|value| value.chars().count() <= value_chars && name.chars().count() <= key_chars);
        value.map(|value| (name.clone(), value.to_owned())).ok_or_else(invalid)
    };
    if members.len() > most { Err(invalid()) } else { members.iter().map(pair).collect() }
}

/// The expiry, at the top level or as `provider_options.openai.output_expires_after`, which means
/// the same.
fn expiry(object: &Object) -> Result<Option<ExpiresAfter>, Refusal> {
    let invalid = |message: String| Refusal::invalid("invalid_openai_batch_output_expiry", message);
    let own = object.expires_after("output_expires_after").map_err(|error| invalid(error.message().to_owned()))?;
    let options = match object.value("provider_options") {
        None => return Ok(own),
        Some(_) => object.object("provider_options"),
    };
    let wrong = |message: &str| Refusal::invalid("invalid_batch_provider_options", message.to_owned());
    let options = options.map_err(|error| wrong(error.message()))?.unwrap_or_default();
    options.only(&["openai", "mistral"]).map_err(|error| wrong(error.message()))?;
    let openai = options.object("openai").map_err(|error| wrong(error.message()))?.unwrap_or_default();
    openai.only(&["output_expires_after"]).map_err(|error| wrong(error.message()))?;
    let nested = openai.expires_after("output_expires_after").map_err(|error| invalid(error.message().to_owned()))?;
    match (own, nested) {
        (Some(_), Some(_)) => Err(wrong("`output_expires_after` stands at the top and in `provider_options`")),
        (own, nested) => Ok(own.or(nested)),
    }
}

fn session(object: &Object) -> Result<Option<String>, Refusal> {
    let id = object.text("session_id")?.or(object.text("sessionId")?).filter(|id| !id.is_empty());
    match id {
        Some(id) if id.chars().count() > MAX_SESSION => {
            Err(Refusal::invalid("invalid_session_id", format!("`session_id` may have at most {MAX_SESSION} characters")))
        }
        id => Ok(id.map(str::to_owned)),
    }
}
