//! Converts a Chat Completions answer, or an error of its server, to the form of Anthropic's
//! Messages.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::domain::usage::Usage;
use crate::domain::usage::reported::Reported;

/// Why an answer cannot be converted: it is no chat completion, or no message can express it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsayable(&'static str);

impl fmt::Display for Unsayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    model: Value,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    message: Value,
    #[serde(default)]
    finish_reason: Value,
    /// vLLM's member: the text at which the answer stopped.
    #[serde(default)]
    stop_reason: Value,
}

/// Converts the answer to `asked`, a chat request, to a message.
///
/// # Errors
/// When the answer has no choice, or calls a tool with arguments that are not an object.
pub fn message_of_chat(asked: &[u8], body: &[u8]) -> Result<Vec<u8>, Unsayable> {
    let completion: Completion = serde_json::from_slice(body).map_err(|_| Unsayable("it is not of that form"))?;
    let choice = completion.choices.into_iter().next().ok_or(Unsayable("it has no `choices`"))?;
    let is_cut = choice.finish_reason == "length";
    let refused = choice.message["refusal"].as_str().filter(|refusal| !refusal.is_empty());
    let mut content: Vec<_> =
        texts(&choice.message["content"]).chain(refused).map(|text| json!({ "type": "text", "text": text })).collect();
    let calls = choice.message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
    for call in calls {
        match used(call) {
            Ok(call) => content.push(call),
            // The arguments end in the middle, because the answer was cut off, as it says itself.
            Err(_) if is_cut => {}
            Err(unsayable) => return Err(unsayable),
        }
    }
    let stop_sequence = choice.stop_reason.as_str().filter(|text| is_stop(asked, text));
    let stop_reason = match (choice.finish_reason.as_str(), refused) {
        (_, Some(_)) | (Some("content_filter"), _) => "refusal",
        _ if is_cut => "max_tokens",
        // Servers report `stop` where the request prescribed a tool by its name.
        _ if !calls.is_empty() => "tool_use",
        _ if stop_sequence.is_some() => "stop_sequence",
        _ => "end_turn",
    };
    let message = json!({
        "id": completion.id, "type": "message", "role": "assistant", "model": completion.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": stop_sequence.filter(|_| stop_reason == "stop_sequence"),
        "usage": usage(completion.usage.as_deref()),
    });
    Ok(message.to_string().into_bytes())
}

/// The text of a content, or the texts of its parts.
fn texts(content: &Value) -> impl Iterator<Item = &str> {
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    content.as_str().into_iter().chain(parts).filter(|text| !text.is_empty())
}

fn used(call: &Value) -> Result<Value, Unsayable> {
    let function = &call["function"];
    let input = match &function["arguments"] {
        // Some servers write the arguments as an object instead of a string.
        Value::Object(input) => Some(Value::Object(input.clone())),
        Value::Null => Some(json!({})),
        Value::String(text) if text.is_empty() => Some(json!({})),
        Value::String(text) => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    };
    let input = input.ok_or(Unsayable("it calls a tool with arguments that are no JSON object"))?;
    Ok(json!({ "type": "tool_use", "id": call["id"], "name": function["name"], "input": input }))
}

/// Whether a chat request named this text as a stop: servers report other reasons under the same
/// name.
fn is_stop(asked: &[u8], text: &str) -> bool {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        stop: Value,
    }
    let asked = serde_json::from_slice::<Asked>(asked);
    asked.is_ok_and(|asked| asked.stop.as_array().is_some_and(|stops| stops.iter().any(|stop| stop == text)))
}

/// Converts the usage: Anthropic counts cached input beside the input, OpenAI as part of the input.
fn usage(usage: Option<&RawValue>) -> Value {
    let Usage { input_tokens, cached_tokens, output_tokens, .. } = Reported::read(usage).usage;
    let cached = cached_tokens.min(input_tokens);
    json!({
        "input_tokens": input_tokens - cached, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
        "output_tokens": output_tokens,
    })
}

/// Converts a server's error answer of this status: the message is the server's own, or its whole
/// answer.
pub fn error_of_chat(status: u16, body: &[u8]) -> Vec<u8> {
    let told: Value = serde_json::from_slice(body).unwrap_or_default();
    // The forms of OpenAI, and of servers that shorten it.
    let said = [&told["error"]["message"], &told["error"], &told["message"], &told["detail"], &told];
    let message = said.into_iter().find_map(Value::as_str).filter(|text| !text.trim().is_empty()).map(str::to_owned);
    let message = message.unwrap_or_else(|| if told.is_null() { format!("status {status}") } else { told.to_string() });
    // The kinds from Anthropic, "Errors".
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": message } }).to_string().into_bytes()
}
