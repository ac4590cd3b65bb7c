//! What a conversation asks, in each of the forms that there are for it: Chat Completions and Responses of
//! OpenAI, and Anthropic's Messages; and in which of them it can be said as well.
//!
//! Not here: which form a lane takes ([`crate::provider::translate`]).
//!
//! Invariant: [`forms`] names a form only if nothing of the request is lost in it.

mod answer;
mod messages;
mod openai;
pub mod wire;

use serde_json::{Map, Value};

use super::endpoint::Endpoint;
pub use answer::{Unsayable, error_of_chat, message_of_chat};
use wire::WireFormat;

type Members = Map<String, Value>;

/// What BatchRouter's items call the most tokens to be written, whatever form they have, and what those are called
/// that are said anew, until their lane has given them its own name for it.
pub const LIMIT: &str = "max_output_tokens";

/// The form in which a row asks, and that in which it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub asked: Endpoint,
    pub sent: WireFormat,
}

impl Form {
    /// Sent as it is asked.
    pub const fn as_asked(endpoint: Endpoint) -> Self {
        Self { asked: endpoint, sent: WireFormat::of(endpoint) }
    }

    /// Whether what is answered is said anew in the form in which it was asked. The answers of OpenAI's two
    /// forms are passed on as they are.
    pub fn is_said_back(self) -> bool {
        self.asked == Endpoint::Messages && self.sent != WireFormat::AnthropicMessages
    }

    /// Whether its client reads an answer in the form in which it has asked.
    pub fn is_kept(self) -> bool {
        self.sent == WireFormat::of(self.asked) || self.is_said_back()
    }
}

/// The forms that there are for what is asked in this one, which comes before the others.
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
    }
}

/// Those of them in which a request can be sent.
pub fn forms(asked: Endpoint, request: &Members) -> &'static [WireFormat] {
    let is_sayable = match asked {
        Endpoint::Messages => messages::is_sayable(request),
        other => openai::is_sayable(other, request),
    };
    if is_sayable { every_form(asked) } else { &every_form(asked)[..1] }
}

/// A request in another one of its [`forms`]; as it is if that is none.
pub fn said(form: Form, request: Members) -> Members {
    match (form.asked, form.sent) {
        (Endpoint::ChatCompletions, WireFormat::Responses) => openai::to_responses(request),
        (Endpoint::Responses, WireFormat::ChatCompletions) => openai::to_chat(request),
        (Endpoint::Messages, WireFormat::ChatCompletions) => messages::to_chat(request),
        _ => request,
    }
}

/// A member of what may be an object, which then has null there.
fn take(value: &mut Value, name: &str) -> Value {
    value.get_mut(name).map(Value::take).unwrap_or_default()
}

fn rename(request: &mut Members, from: &str, to: &str) {
    if let Some(value) = request.remove(from) {
        request.insert(to.to_owned(), value);
    }
}
