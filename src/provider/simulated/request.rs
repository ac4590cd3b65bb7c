//! What the simulated provider reads from a row's body, and how it refuses a row.
//!
//! Every field is kept as it stands in the body, and parsed only by the operation that needs it:
//! rows are many, and some are large.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::force::{self, Forced};
use super::json::Json;

type Raw<'a> = Option<&'a RawValue>;

/// A row's body.
#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    pub messages: Raw<'a>,
    #[serde(borrow)]
    pub input: Raw<'a>,
    #[serde(borrow)]
    pub prompt: Raw<'a>,
    #[serde(borrow)]
    pub instructions: Raw<'a>,
    #[serde(borrow)]
    pub system: Raw<'a>,
    #[serde(borrow)]
    pub output_config: Raw<'a>,
    #[serde(borrow)]
    pub n: Raw<'a>,
    #[serde(borrow)]
    pub max_tokens: Raw<'a>,
    #[serde(borrow)]
    pub max_completion_tokens: Raw<'a>,
    #[serde(borrow)]
    pub max_output_tokens: Raw<'a>,
    #[serde(borrow)]
    pub response_format: Raw<'a>,
    #[serde(borrow)]
    pub text: Raw<'a>,
    #[serde(borrow)]
    pub tools: Raw<'a>,
    #[serde(borrow)]
    pub tool_choice: Raw<'a>,
    #[serde(borrow)]
    pub parallel_tool_calls: Raw<'a>,
    #[serde(borrow)]
    pub previous_response_id: Raw<'a>,
    #[serde(borrow)]
    pub temperature: Raw<'a>,
    #[serde(borrow)]
    pub top_p: Raw<'a>,
    #[serde(borrow)]
    pub top_k: Raw<'a>,
    #[serde(borrow)]
    pub frequency_penalty: Raw<'a>,
    #[serde(borrow)]
    pub presence_penalty: Raw<'a>,
    #[serde(borrow)]
    pub stop: Raw<'a>,
    #[serde(borrow)]
    pub stop_sequences: Raw<'a>,
    #[serde(borrow)]
    pub logprobs: Raw<'a>,
    #[serde(borrow)]
    pub top_logprobs: Raw<'a>,
    #[serde(borrow)]
    pub include: Raw<'a>,
    #[serde(borrow)]
    pub dimensions: Raw<'a>,
    #[serde(borrow)]
    pub encoding_format: Raw<'a>,
    #[serde(borrow)]
    pub image: Raw<'a>,
    #[serde(borrow)]
    pub images: Raw<'a>,
    #[serde(borrow)]
    pub size: Raw<'a>,
    #[serde(borrow)]
    pub quality: Raw<'a>,
    #[serde(borrow)]
    pub seconds: Raw<'a>,
    #[serde(borrow)]
    pub query: Raw<'a>,
    #[serde(borrow)]
    pub documents: Raw<'a>,
    #[serde(borrow)]
    pub top_n: Raw<'a>,
    #[serde(borrow)]
    pub text_1: Raw<'a>,
    #[serde(borrow)]
    pub text_2: Raw<'a>,
    #[serde(borrow)]
    pub language: Raw<'a>,
    #[serde(borrow)]
    pub timestamp_granularities: Raw<'a>,
    #[serde(borrow)]
    metadata: Raw<'a>,
}

/// Reads a body.
pub(super) fn read(bytes: &[u8]) -> Result<Body<'_>, SimulatedRefusal> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(SimulatedRefusal::new("The body of the request must be a JSON object.", None::<&str>));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| SimulatedRefusal::new(format!("We could not parse the JSON body of your request: {error}"), None::<&str>))
}

impl<'a> Body<'a> {
    /// The row's metadata as written.
    pub fn metadata(&self) -> Raw<'a> {
        self.metadata
    }

    /// The directives in `metadata.simulate`; `None` if there are none.
    pub fn forced(&self, wait: Duration) -> Result<Option<Forced>, SimulatedRefusal> {
        #[derive(Deserialize)]
        struct Metadata<'a> {
            #[serde(borrow)]
            simulate: Raw<'a>,
        }
        let metadata = self.metadata.and_then(|raw| serde_json::from_str::<Metadata<'_>>(raw.get()).ok());
        let Some(simulate) = metadata.and_then(|m| m.simulate) else { return Ok(None) };
        let refuse = |message| SimulatedRefusal::new(message, Some("metadata.simulate"));
        let text = string(simulate).ok_or_else(|| refuse("Directives must be one string.".into()))?;
        force::parse(&text, wait).map(Some).map_err(|message| refuse(format!("Cannot simulate this: {message}.")))
    }
}

/// The text of a JSON string, borrowed if it contains no escapes; `None` for any other value.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct SimulatedText<'a>(#[serde(borrow)] Cow<'a, str>);
    if !raw.get().starts_with('"') {
        return None;
    }
    serde_json::from_str::<SimulatedText<'_>>(raw.get()).ok().map(|text| text.0)
}

/// A whole number within `range`, if the field is present.
pub(super) fn whole(raw: Raw<'_>, param: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, SimulatedRefusal> {
    let Some(raw) = raw else { return Ok(None) };
    let number = serde_json::from_str(raw.get()).ok().filter(|number| range.contains(number));
    match number {
        Some(number) => Ok(Some(number)),
        None => {
            let message = format!("Invalid '{param}': expected an integer from {} to {}.", range.start(), range.end());
            Err(SimulatedRefusal::new(message, Some(param)))
        }
    }
}

/// A field that must be present.
pub(super) fn required<'a>(raw: Raw<'a>, param: &'static str) -> Result<&'a RawValue, SimulatedRefusal> {
    let missing = || SimulatedRefusal::new(format!("Missing required parameter: '{param}'."), Some(param));
    raw.ok_or_else(|| missing().with_code("missing_required_parameter"))
}

/// Tokens of a text of this many bytes: an estimate that every part of an answer shares.
pub(super) const fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

/// Tokens of a field as written.
pub(super) fn raw_tokens(raw: Raw<'_>) -> u64 {
    raw.map_or(0, |raw| tokens(raw.get().len()))
}

/// A body that a hosted API would refuse with 400.
#[derive(Debug)]
pub(super) struct SimulatedRefusal {
    message: String,
    /// The field, as the hosted API names it.
    param: Option<Cow<'static, str>>,
    code: Option<&'static str>,
}

impl SimulatedRefusal {
    pub fn new<P: Into<Cow<'static, str>>>(message: impl Into<String>, param: Option<P>) -> Self {
        Self { message: message.into(), param: param.map(Into::into), code: None }
    }

    #[must_use]
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub fn body(&self) -> Vec<u8> {
        error_body(&self.message, "invalid_request_error", self.param.as_deref(), self.code)
    }
}

/// OpenAI's error envelope.
pub(super) fn error_body(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Vec<u8> {
    let mut json = Json::default();
    json.object(|json| {
        json.key("error").object(|json| {
            json.key("message").text(message);
            json.key("type").text(kind);
            for (key, value) in [("param", param), ("code", code)] {
                match value {
                    Some(value) => json.key(key).text(value),
                    None => json.key(key).null(),
                }
            }
        });
    });
    json.into_bytes()
}
