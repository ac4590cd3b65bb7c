//! Converts a request of Anthropic's Messages to one of Chat Completions (Anthropic, "Messages",
//! API version 2023-06-01; OpenAI, "Create chat completion").
//!
//! A request with a member that is unknown here is not converted. Messages gain members over time,
//! and dropping one silently would send a question that the client has not asked.

use serde_json::{Value, json};

use super::{LIMIT, Members, rename, take};

/// The members of a request that the conversion understands.
const MEMBERS: [&str; 15] = [
    "model",
    "messages",
    "max_tokens",
    LIMIT,
    "system",
    "temperature",
    "top_p",
    "stop_sequences",
    "stream",
    "tools",
    "tool_choice",
    "metadata",
    "service_tier",
    "thinking",
    "output_config",
];
/// A hint that concerns the price alone. Chat Completions have no word for it.
const HINT: &str = "cache_control";
/// The most stop texts that a chat request may name (OpenAI's document).
const MOST_STOPS: usize = 4;

/// Whether a request can be expressed as one of Chat Completions.
pub(super) fn is_sayable(request: &Members) -> bool {
    let says = |name: &str| request.get(name).filter(|value| !value.is_null());
    // If the last message is the model's own, the model continues it; in a chat, the model would
    // answer it.
    let answers_user = |messages: &[Value]| messages.last().is_some_and(|last| last["role"] == "user");
    request.iter().all(|(name, value)| MEMBERS.contains(&name.as_str()) || value.is_null())
        && says("messages").and_then(Value::as_array).is_some_and(|messages| answers_user(messages) && messages.iter().all(message))
        && says("system").is_none_or(texts)
        && says("tools").is_none_or(|tools| all(tools, tool))
        && says("tool_choice").is_none_or(choice)
        && says("metadata").is_none_or(Value::is_object)
        && says("thinking").is_none_or(|thinking| thinking["type"] == "disabled" && has_only(thinking, &["type"]))
        && says("output_config").is_none_or(output)
        && says("stop_sequences").is_none_or(|stops| stops.as_array().is_some_and(|stops| stops.len() <= MOST_STOPS))
}

/// Whether an object has only these members, apart from members that are null and the hint.
fn has_only(value: &Value, known: &[&str]) -> bool {
    let is_known = |(name, value): (&String, &Value)| name == HINT || known.contains(&name.as_str()) || value.is_null();
    value.as_object().is_some_and(|members| members.iter().all(is_known))
}

fn all(values: &Value, are: fn(&Value) -> bool) -> bool {
    values.as_array().is_some_and(|values| values.iter().all(are))
}

fn text(block: &Value) -> bool {
    block["type"] == "text" && block["text"].is_string() && has_only(block, &["type", "text"])
}

/// Whether a value is a text or a list of text blocks.
fn texts(value: &Value) -> bool {
    value.is_string() || all(value, text)
}

fn message(message: &Value) -> bool {
    let blocks = |are: fn(&Value) -> bool| {
        let content = &message["content"];
        content.is_string() || content.as_array().is_some_and(|blocks| !blocks.is_empty() && blocks.iter().all(are))
    };
    let said = match message["role"].as_str() {
        Some("user") => blocks(|block| text(block) || media(block) || result(block)),
        Some("assistant") => blocks(|block| text(block) || call(block)),
        _ => false,
    };
    said && has_only(message, &["role", "content"])
}

fn media(block: &Value) -> bool {
    let source = &block["source"];
    let is_text = |name: &str| source[name].is_string();
    match (block["type"].as_str(), source["type"].as_str()) {
        (Some("image"), Some("base64")) => is_text("media_type") && is_text("data") && has_only(block, &["type", "source"]),
        (Some("image"), Some("url")) => is_text("url") && has_only(block, &["type", "source"]),
        (Some("document"), Some("base64")) => is_text("media_type") && is_text("data") && has_only(block, &["type", "source", "title"]),
        (Some("document"), Some("text")) => is_text("data") && has_only(block, &["type", "source"]),
        (Some("image" | "document"), Some("file")) => is_text("file_id") && has_only(block, &["type", "source"]),
        _ => false,
    }
}

fn result(block: &Value) -> bool {
    block["type"] == "tool_result"
        && block["tool_use_id"].is_string()
        && (block["content"].is_null() || texts(&block["content"]))
        && (block["is_error"].is_null() || block["is_error"] == false)
        && has_only(block, &["type", "tool_use_id", "content", "is_error"])
}

fn call(block: &Value) -> bool {
    block["type"] == "tool_use" && block["id"].is_string() && block["name"].is_string() && has_only(block, &["type", "id", "name", "input"])
}

fn tool(tool: &Value) -> bool {
    // Tools of any other type are run by Anthropic, or are known to its models by name.
    let own = tool["type"].is_null() || tool["type"] == "custom";
    own && tool["name"].is_string() && has_only(tool, &["type", "name", "description", "input_schema", "strict"])
}

fn choice(choice: &Value) -> bool {
    chosen(choice).is_some() && has_only(choice, &["type", "name", "disable_parallel_tool_use"])
}

fn output(config: &Value) -> bool {
    let format = &config["format"];
    let is_schema = || format["type"] == "json_schema" && has_only(format, &["type", "schema"]) && is_strict(&format["schema"]);
    has_only(config, &["format"]) && (format.is_null() || is_schema())
}

/// Whether a chat can enforce the schema: each member of each object is required (OpenAI,
/// "Structured model outputs", supported schemas).
fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
            let properties = members.get("properties").and_then(Value::as_object).into_iter().flatten();
            properties.into_iter().all(|(name, _)| required.iter().any(|each| each == name)) && members.values().all(is_strict)
        }
        Value::Array(values) => values.iter().all(is_strict),
        _ => true,
    }
}

/// The tool choice in the form of Chat Completions.
fn chosen(choice: &Value) -> Option<Value> {
    match choice["type"].as_str()? {
        "auto" => Some(json!("auto")),
        "any" => Some(json!("required")),
        "none" => Some(json!("none")),
        "tool" => Some(json!({ "type": "function", "function": { "name": choice["name"].as_str()? } })),
        _ => None,
    }
}

/// Converts a request to one of Chat Completions.
pub(super) fn to_chat(mut request: Members) -> Members {
    // An empty list means the same as no list, and OpenAI refuses it.
    let says_nothing = |name: &str, value: &Value| value.is_null() || (name != "messages" && value.as_array().is_some_and(Vec::is_empty));
    request.retain(|name, value| !says_nothing(name, value));
    let mut messages = Vec::new();
    if let Some(system) = request.remove("system") {
        messages.push(json!({ "role": "system", "content": parts(system) }));
    }
    if let Some(Value::Array(said)) = request.remove("messages") {
        said.into_iter().for_each(|message| add(message, &mut messages));
    }
    request.insert("messages".to_owned(), Value::Array(messages));
    // The common name that each lane then replaces with its own; see `crate::provider::translate`.
    rename(&mut request, "max_tokens", LIMIT);
    rename(&mut request, "stop_sequences", "stop");
    request.remove("thinking");
    if let Some(Value::String(tier)) = request.get_mut("service_tier")
        && tier == "standard_only"
    {
        "default".clone_into(tier);
    }
    if let Some(mut format) = request.remove("output_config").map(|mut config| take(&mut config, "format"))
        && !format.is_null()
    {
        let schema = json!({ "name": "answer", "schema": take(&mut format, "schema"), "strict": true });
        request.insert("response_format".to_owned(), json!({ "type": "json_schema", "json_schema": schema }));
    }
    if let Some(Value::Object(mut metadata)) = request.remove("metadata") {
        if let Some(user) = metadata.remove("user_id").filter(|user| !user.is_null()) {
            request.insert("user".to_owned(), user);
        }
        if !metadata.is_empty() {
            request.insert("metadata".to_owned(), Value::Object(metadata));
        }
    }
    say_tools(&mut request);
    request
}

fn say_tools(request: &mut Members) {
    if let Some(Value::Array(tools)) = request.get_mut("tools") {
        tools.iter_mut().for_each(|tool| *tool = function(tool));
    }
    if let Some(choice) = request.remove("tool_choice") {
        if let Some(chosen) = chosen(&choice) {
            request.insert("tool_choice".to_owned(), chosen);
        }
        if choice["disable_parallel_tool_use"] == true {
            request.insert("parallel_tool_calls".to_owned(), Value::Bool(false));
        }
    }
}

fn function(tool: &mut Value) -> Value {
    let mut function = Members::new();
    for (from, to) in [("name", "name"), ("description", "description"), ("input_schema", "parameters"), ("strict", "strict")] {
        let value = take(tool, from);
        if !value.is_null() {
            function.insert(to.to_owned(), value);
        }
    }
    json!({ "type": "function", "function": function })
}

/// Adds what a message says. Tool results become messages of their own, in their place.
fn add(mut message: Value, messages: &mut Vec<Value>) {
    let (role, blocks) = match (take(&mut message, "role"), take(&mut message, "content")) {
        (role, Value::Array(blocks)) => (role, blocks),
        (role, content) => return messages.push(json!({ "role": role, "content": content })),
    };
    let (mut said, mut calls) = (Vec::new(), Vec::new());
    for mut block in blocks {
        match block["type"].as_str() {
            Some("tool_result") => {
                flush(&role, &mut said, messages);
                let content = parts(take(&mut block, "content"));
                messages.push(json!({ "role": "tool", "tool_call_id": take(&mut block, "tool_use_id"), "content": content }));
            }
            Some("tool_use") => {
                let arguments = match take(&mut block, "input") {
                    Value::Null => "{}".to_owned(),
                    input => input.to_string(),
                };
                let function = json!({ "name": take(&mut block, "name"), "arguments": arguments });
                calls.push(json!({ "id": take(&mut block, "id"), "type": "function", "function": function }));
            }
            _ => said.push(part(block)),
        }
    }
    if calls.is_empty() {
        return flush(&role, &mut said, messages);
    }
    let content = if said.is_empty() { Value::Null } else { shortest(said) };
    messages.push(json!({ "role": role, "content": content, "tool_calls": calls }));
}

fn flush(role: &Value, said: &mut Vec<Value>, messages: &mut Vec<Value>) {
    if !said.is_empty() {
        messages.push(json!({ "role": role, "content": shortest(std::mem::take(said)) }));
    }
}

fn parts(content: Value) -> Value {
    match content {
        Value::Array(blocks) => shortest(blocks.into_iter().map(part).collect()),
        Value::Null => json!(""),
        other => other,
    }
}

/// The parts of a content. A single text is written as a plain string, which every server
/// understands.
fn shortest(mut parts: Vec<Value>) -> Value {
    match parts.as_mut_slice() {
        [] => json!(""),
        [only] if only["type"] == "text" => take(only, "text"),
        _ => Value::Array(parts),
    }
}

fn part(mut block: Value) -> Value {
    let mut source = take(&mut block, "source");
    let url = |source: &mut Value| {
        let (mime, data) = (take(source, "media_type"), take(source, "data"));
        format!("data:{};base64,{}", mime.as_str().unwrap_or_default(), data.as_str().unwrap_or_default())
    };
    match (block["type"].as_str(), source["type"].as_str()) {
        (Some("image"), Some("base64")) => json!({ "type": "image_url", "image_url": { "url": url(&mut source) } }),
        (Some("image"), Some("url")) => json!({ "type": "image_url", "image_url": { "url": take(&mut source, "url") } }),
        // The content of the file replaces the id before the request is sent.
        (Some("image"), Some("file")) => json!({ "type": "input_image", "file_id": take(&mut source, "file_id") }),
        (Some("document"), Some("file")) => json!({ "type": "file", "file": { "file_id": take(&mut source, "file_id") } }),
        (Some("document"), Some("base64")) => {
            let filename = match take(&mut block, "title") {
                Value::Null => json!("document.pdf"),
                title => title,
            };
            json!({ "type": "file", "file": { "filename": filename, "file_data": url(&mut source) } })
        }
        (Some("document"), Some("text")) => json!({ "type": "text", "text": take(&mut source, "data") }),
        _ => json!({ "type": "text", "text": take(&mut block, "text") }),
    }
}
