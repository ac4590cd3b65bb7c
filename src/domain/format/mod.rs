//! What a conversation asks, in each of its possible forms: OpenAI's Chat Completions and
//! Responses, and Anthropic's Messages; and which other forms can express the same request.
//!
//! Which form a lane takes is decided elsewhere ([`crate::provider::translate`]).
//!
//! Invariant: [`forms`] names a form only if the form loses nothing of the request.

mod answer;
mod messages;
mod openai;
pub mod reading;
pub mod wire;

use serde_json::{Map, Value};

use super::endpoint::Endpoint;
pub use answer::{Unsayable, error_of_chat, message_of_chat};
use wire::WireFormat;

type Members = Map<String, Value>;

/// The name of the output token limit in BatchRouter's items, whatever form they have. A converted
/// request uses the same name until its lane replaces it with the lane's own.
pub const LIMIT: &str = "max_output_tokens";

/// The form in which a row asks, and the form in which it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub asked: Endpoint,
    pub sent: WireFormat,
}

impl Form {
    /// A row that is sent in the form in which it asks.
    pub const fn as_asked(endpoint: Endpoint) -> Self {
        Self { asked: endpoint, sent: WireFormat::of(endpoint) }
    }

    /// Whether the answer is converted back to the form in which the row asks. Answers in OpenAI's
    /// two forms are passed on unchanged.
    pub fn is_said_back(self) -> bool {
        self.asked == Endpoint::Messages && self.sent != WireFormat::AnthropicMessages
    }

    /// Whether the client gets the answer in the form in which it asked.
    pub fn is_kept(self) -> bool {
        self.sent == WireFormat::of(self.asked) || self.is_said_back()
    }
}

/// All forms in which a request of this endpoint may be sent. The endpoint's own form comes first. A
/// path that is passed through has no form but its own, and is not listed.
pub const fn every_form(asked: Endpoint) -> &'static [WireFormat] {
    match asked {
        Endpoint::ChatCompletions => &[WireFormat::ChatCompletions, WireFormat::Responses],
        Endpoint::Responses => &[WireFormat::Responses, WireFormat::ChatCompletions],
        Endpoint::Messages => &[WireFormat::AnthropicMessages, WireFormat::ChatCompletions],
        Endpoint::Completions => &[WireFormat::Completions],
        Endpoint::Embeddings => &[WireFormat::Embeddings],
        Endpoint::Moderations => &[WireFormat::Moderations],
        Endpoint::ImagesGenerations => &[WireFormat::ImagesGenerations],
        Endpoint::ImagesEdits => &[WireFormat::ImagesEdits],
        Endpoint::Videos => &[WireFormat::Videos],
        Endpoint::Rerank => &[WireFormat::Rerank],
        Endpoint::RerankV2 => &[WireFormat::RerankV2],
        Endpoint::Score => &[WireFormat::Score],
        Endpoint::Tokenize => &[WireFormat::Tokenize],
        Endpoint::AudioTranscriptions => &[WireFormat::AudioTranscriptions],
        Endpoint::AudioTranslations => &[WireFormat::AudioTranslations],
        Endpoint::PassedThrough(_) => &[],
    }
}

/// The endpoint's own form, where it is listed.
pub fn own_form(asked: Endpoint) -> &'static [WireFormat] {
    every_form(asked).get(..1).unwrap_or_default()
}

/// The forms of `every_form` in which this request can be sent.
pub fn forms(asked: Endpoint, request: &Members) -> &'static [WireFormat] {
    let is_sayable = match asked {
        Endpoint::Messages => messages::is_sayable(request),
        other => openai::is_sayable(other, request),
    };
    if is_sayable { every_form(asked) } else { own_form(asked) }
}

/// Converts a request to another of its [`forms`]; any other target leaves it unchanged.
pub fn said(form: Form, request: Members) -> Members {
    match (form.asked, form.sent) {
        (Endpoint::ChatCompletions, WireFormat::Responses) => openai::to_responses(request),
        (Endpoint::Responses, WireFormat::ChatCompletions) => openai::to_chat(request),
        (Endpoint::Messages, WireFormat::ChatCompletions) => messages::to_chat(request),
        _ => request,
    }
}

/// Takes a member out of a value and leaves null in its place; null if the value has no such
/// member.
fn take(value: &mut Value, name: &str) -> Value {
    value.get_mut(name).map(Value::take).unwrap_or_default()
}

fn rename(request: &mut Members, from: &str, to: &str) {
    if let Some(value) = request.remove(from) {
        request.insert(to.to_owned(), value);
    }
}
