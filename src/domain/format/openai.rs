//! Converts between Chat Completions and Responses, by OpenAI's migration guide and its reference
//! of both.
//!
//! Members that have the same name in both stay unchanged.

use serde_json::{Value, json};

use super::{Members, rename, take};
use crate::domain::endpoint::Endpoint;

/// The members that only Chat Completions have.
const CHAT_ONLY: [&str; 15] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "modalities",
    "n",
    "prediction",
    "presence_penalty",
    "seed",
    "stop",
    "stream_options",
    "top_logprobs",
    "web_search_options",
];
/// The members that only Responses have.
const RESPONSES_ONLY: [&str; 8] =
    ["background", "conversation", "include", "max_tool_calls", "previous_response_id", "prompt", "top_logprobs", "truncation"];

/// Whether a request of this endpoint can also be expressed in the other form.
pub(super) fn is_sayable(asked: Endpoint, request: &Members) -> bool {
    let says = |name: &&str| request.get(*name).is_some_and(|value| !value.is_null());
    match asked {
        Endpoint::ChatCompletions => {
            let one_answer = request.get("n").is_none_or(|n| n == 1);
            let messages = request.get("messages").and_then(Value::as_array).into_iter().flatten();
            let unnamed = messages.into_iter().all(|message| message.get("name").is_none());
            one_answer && unnamed && !CHAT_ONLY.iter().filter(|name| **name != "n").any(says)
        }
        Endpoint::Responses => {
            // Tools other than functions are run by the provider, and Chat Completions do not have
            // them.
            let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
            let functions = tools.into_iter().all(|tool| tool["type"] == "function");
            let items = request.get("input").and_then(Value::as_array).into_iter().flatten();
            let known = items.into_iter().all(|item| match item.get("type").and_then(Value::as_str) {
                None | Some("message") => item.get("role").is_some(),
                Some("function_call" | "function_call_output") => true,
                Some(_) => false,
            });
            let reasoning = request.get("reasoning").and_then(Value::as_object);
            let effort_alone = reasoning.is_none_or(|reasoning| reasoning.keys().all(|member| member == "effort"));
            functions && known && effort_alone && !RESPONSES_ONLY.iter().any(says)
        }
        _ => false,
    }
}

/// Converts a request of Chat Completions to one of Responses.
pub(super) fn to_responses(mut request: Members) -> Members {
    if let Some(messages) = request.remove("messages") {
        let input = match messages {
            Value::Array(messages) => messages.into_iter().flat_map(items_of).collect(),
            other => other,
        };
        request.insert("input".to_owned(), input);
    }
    request.remove("n");
    for limit in ["max_tokens", "max_completion_tokens"] {
        rename(&mut request, limit, "max_output_tokens");
    }
    if let Some(effort) = request.remove("reasoning_effort") {
        request.insert("reasoning".to_owned(), json!({ "effort": effort }));
    }
    let mut text = Members::new();
    if let Some(format) = request.remove("response_format") {
        text.insert("format".to_owned(), hoisted(format, "json_schema"));
    }
    if let Some(verbosity) = request.remove("verbosity") {
        text.insert("verbosity".to_owned(), verbosity);
    }
    if !text.is_empty() {
        request.insert("text".to_owned(), Value::Object(text));
    }
    if let Some(Value::Array(tools)) = request.get_mut("tools") {
        tools.iter_mut().for_each(|tool| *tool = strict_or_not(hoisted(tool.take(), "function")));
    }
    if let Some(choice) = request.get_mut("tool_choice") {
        *choice = hoisted(choice.take(), "function");
    }
    request
}

/// Turns `{"type": T, T: {...}}` into `{"type": T, ...}`.
fn hoisted(value: Value, name: &str) -> Value {
    let Value::Object(mut members) = value else { return value };
    if let Some(Value::Object(inner)) = members.remove(name) {
        members.extend(inner);
    }
    Value::Object(members)
}

/// Makes a function state whether its schema is strict: the default is strict in Responses and not
/// strict in Chat Completions.
fn strict_or_not(mut tool: Value) -> Value {
    if tool["type"] == "function"
        && let Some(members) = tool.as_object_mut()
    {
        members.entry("strict").or_insert(Value::Bool(false));
    }
    tool
}

/// The reverse of [`hoisted`].
fn nested(value: Value, name: &str) -> Value {
    let Value::Object(mut members) = value else { return value };
    if members.get("type").is_none_or(|kind| kind != name) {
        return Value::Object(members);
    }
    members.remove("type");
    json!({ "type": name, name: members })
}

/// Converts a message to items of the input.
fn items_of(message: Value) -> Vec<Value> {
    let Value::Object(mut message) = message else { return vec![message] };
    let role = message.get("role").and_then(Value::as_str).unwrap_or("user").to_owned();
    if role == "tool" {
        let output = parts_of(message.remove("content").unwrap_or_default(), false);
        return vec![json!({ "type": "function_call_output", "call_id": message.remove("tool_call_id"), "output": output })];
    }
    let calls = match message.remove("tool_calls") {
        Some(Value::Array(calls)) => calls.into_iter().map(call_item).collect(),
        _ => Vec::new(),
    };
    let mut items = Vec::new();
    if let Some(content) = message.remove("content").filter(|content| !content.is_null()) {
        message.insert("content".to_owned(), parts_of(content, role == "assistant"));
        items.push(Value::Object(message));
    }
    items.extend(calls);
    items
}

fn call_item(mut call: Value) -> Value {
    let id = take(&mut call, "id");
    let mut function = take(&mut call, "function");
    json!({ "type": "function_call", "call_id": id, "name": take(&mut function, "name"), "arguments": take(&mut function, "arguments") })
}

fn parts_of(content: Value, is_answer: bool) -> Value {
    let Value::Array(parts) = content else { return content };
    let part = |part: Value| {
        let Value::Object(mut part) = part else { return part };
        match part.get("type").and_then(Value::as_str) {
            Some("text") => _ = part.insert("type".to_owned(), if is_answer { "output_text" } else { "input_text" }.into()),
            Some("image_url") => {
                let mut image = part.remove("image_url").unwrap_or_default();
                part.insert("type".to_owned(), "input_image".into());
                // The image is an object, or its URL alone.
                let (url, detail) = match &mut image {
                    Value::Object(image) => (image.remove("url"), image.remove("detail")),
                    other => (Some(other.take()), None),
                };
                part.insert("image_url".to_owned(), url.unwrap_or_default());
                part.insert("detail".to_owned(), detail.unwrap_or_else(|| "auto".into()));
            }
            Some("file") => {
                part = match hoisted(Value::Object(part), "file") {
                    Value::Object(part) => part,
                    _ => Members::new(),
                };
                part.insert("type".to_owned(), "input_file".into());
            }
            Some(_) | None => {}
        }
        Value::Object(part)
    };
    parts.into_iter().map(part).collect()
}

/// Converts a request of Responses to one of Chat Completions.
pub(super) fn to_chat(mut request: Members) -> Members {
    let mut messages = Vec::new();
    if let Some(instructions) = request.remove("instructions").filter(|instructions| !instructions.is_null()) {
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    match request.remove("input") {
        Some(Value::Array(items)) => items.into_iter().for_each(|item| add_message(item, &mut messages)),
        Some(other) => messages.push(json!({ "role": "user", "content": other })),
        None => {}
    }
    request.insert("messages".to_owned(), Value::Array(messages));
    // Servers that serve only Chat Completions know the limit under this name.
    rename(&mut request, "max_output_tokens", "max_tokens");
    let effort = request.remove("reasoning").map(|mut reasoning| take(&mut reasoning, "effort"));
    if let Some(effort @ Value::String(_)) = effort {
        request.insert("reasoning_effort".to_owned(), effort);
    }
    if let Some(Value::Object(mut text)) = request.remove("text") {
        if let Some(format) = text.remove("format") {
            request.insert("response_format".to_owned(), nested(format, "json_schema"));
        }
        request.extend(text);
    }
    if let Some(Value::Array(tools)) = request.get_mut("tools") {
        tools.iter_mut().for_each(|tool| *tool = nested(tool.take(), "function"));
    }
    if let Some(choice) = request.get_mut("tool_choice") {
        *choice = nested(choice.take(), "function");
    }
    request
}

fn add_message(item: Value, messages: &mut Vec<Value>) {
    let Value::Object(mut item) = item else { return messages.push(item) };
    match item.get("type").and_then(Value::as_str) {
        Some("function_call") => {
            let call = json!({
                "id": item.remove("call_id"), "type": "function",
                "function": { "name": item.remove("name"), "arguments": item.remove("arguments") },
            });
            // Calls belong to the answer that precedes them.
            match messages.last_mut().and_then(Value::as_object_mut).filter(|last| last.get("role").is_some_and(|role| role == "assistant"))
            {
                Some(last) => match last.entry("tool_calls").or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(calls) => calls.push(call),
                    other => *other = Value::Array(vec![call]),
                },
                None => messages.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] })),
            }
        }
        Some("function_call_output") => {
            messages.push(json!({ "role": "tool", "tool_call_id": item.remove("call_id"), "content": item.remove("output") }));
        }
        Some(_) | None => {
            // An item of type `message`, which is also the meaning of an item without a type.
            item.remove("type");
            if let Some(content) = item.remove("content") {
                item.insert("content".to_owned(), chat_parts(content));
            }
            messages.push(Value::Object(item));
        }
    }
}

fn chat_parts(content: Value) -> Value {
    let Value::Array(parts) = content else { return content };
    let part = |part: Value| {
        let Value::Object(mut part) = part else { return part };
        match part.get("type").and_then(Value::as_str) {
            Some("input_text" | "output_text") => _ = part.insert("type".to_owned(), "text".into()),
            Some("input_image") if part.contains_key("image_url") => {
                let (url, detail) = (part.remove("image_url"), part.remove("detail").unwrap_or_else(|| "auto".into()));
                part.insert("type".to_owned(), "image_url".into());
                part.insert("image_url".to_owned(), json!({ "url": url, "detail": detail }));
            }
            Some("input_file") => {
                part.remove("type");
                return json!({ "type": "file", "file": part });
            }
            Some(_) | None => {}
        }
        Value::Object(part)
    };
    parts.into_iter().map(part).collect()
}
