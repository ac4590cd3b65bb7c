//! Files that an item names by their ids: a provider does not know the ids, and gets the content in
//! their place, as a data URL in the form that the format has for it.
//!
//! The parts are those of Responses,
//! `{"type": "input_image" | "input_file", "file_id": ...}`, also among the messages of Chat
//! Completions; Chat Completions' own form, `{"type": "file", "file": {"file_id": ...}}`; and those
//! of
//! Messages, `{"type": "image" | "document", "source": {"type": "file", "file_id": ...}}`.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem::Finder;
use serde_json::{Map, Value, json};

use crate::domain::format::wire::WireFormat;

/// A file to send along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its media type.
    pub mime: String,
    pub filename: String,
    pub content: Vec<u8>,
}

impl Attached {
    fn url(&self) -> String {
        format!("data:{};base64,{}", self.mime, STANDARD.encode(&self.content))
    }
}

/// Puts the files that a body names into it; `find` returns each by its id.
///
/// # Errors
/// Errors of `find`: a missing file must not be dropped silently.
pub fn attach<E>(format: WireFormat, body: Vec<u8>, mut find: impl FnMut(&str) -> Result<Attached, E>) -> Result<Vec<u8>, E> {
    let Some(mut request) = read(format, &body) else { return Ok(body) };
    for part in parts(format, &mut request) {
        if let Some(id) = id_of(part) {
            let file = find(&id)?;
            *part = filled(format, part, &file);
        }
    }
    Ok(serde_json::to_vec(&request).unwrap_or(body))
}

/// The ids of the files that a body names, with repetitions.
pub fn named(format: WireFormat, body: &[u8]) -> Vec<String> {
    let Some(mut request) = read(format, body) else { return Vec::new() };
    parts(format, &mut request).filter_map(|part| id_of(part)).collect()
}

/// What a body that names files has. Each row is searched, so the search is prepared once.
static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"file_id\""));

/// Parses a body that may name files.
fn read(format: WireFormat, body: &[u8]) -> Option<Map<String, Value>> {
    let has_messages = matches!(format, WireFormat::ChatCompletions | WireFormat::Responses | WireFormat::AnthropicMessages);
    let may = has_messages && MARK.find(body).is_some();
    may.then(|| serde_json::from_slice(body).ok()).flatten()
}

/// The parts of a body's messages.
fn parts(format: WireFormat, request: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    let member = if format == WireFormat::Responses { "input" } else { "messages" };
    let messages = request.get_mut(member).and_then(Value::as_array_mut).into_iter().flatten();
    messages.filter_map(|message| message.get_mut("content")?.as_array_mut()).flatten().flat_map(with_inner)
}

/// A part, or the parts inside it: the answer of a tool, or a document in parts.
fn with_inner(part: &mut Value) -> Vec<&mut Value> {
    let has_parts = |holder: &Value| holder.get("content").is_some_and(Value::is_array);
    let holder = match part["type"].as_str() {
        Some("tool_result") if has_parts(part) => part,
        Some("document") if part.get("source").is_some_and(has_parts) => &mut part["source"],
        _ => return vec![part],
    };
    holder["content"].as_array_mut().into_iter().flatten().flat_map(with_inner).collect()
}

/// The file id that a part names in place of content.
fn id_of(part: &Value) -> Option<String> {
    let holder = match part["type"].as_str() {
        Some("file") => part.get("file")?,
        Some("image" | "document") => part.get("source").unwrap_or(part),
        _ => part,
    };
    holder.get("file_id")?.as_str().map(str::to_owned)
}

fn filled(format: WireFormat, part: &Value, file: &Attached) -> Value {
    let is_image = matches!(part["type"].as_str(), Some("input_image" | "image_url"));
    let detail = part.get("detail").cloned().unwrap_or_else(|| json!("auto"));
    match (format, is_image) {
        (WireFormat::AnthropicMessages, _) => {
            let mut block = part.clone();
            block["source"] = match std::str::from_utf8(&file.content).ok().filter(|_| file.mime.starts_with("text/")) {
                Some(text) => json!({ "type": "text", "media_type": "text/plain", "data": text }),
                None => json!({ "type": "base64", "media_type": file.mime, "data": STANDARD.encode(&file.content) }),
            };
            block
        }
        (WireFormat::ChatCompletions, true) => json!({ "type": "image_url", "image_url": { "url": file.url(), "detail": detail } }),
        (WireFormat::ChatCompletions, false) => json!({ "type": "file", "file": { "filename": file.filename, "file_data": file.url() } }),
        (_, true) => json!({ "type": "input_image", "image_url": file.url(), "detail": detail }),
        (_, false) => json!({ "type": "input_file", "filename": file.filename, "file_data": file.url() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(format: WireFormat, body: &Value) -> Result<Value, String> {
        let find = |id: &str| match id {
            "file_1" => Ok(Attached { mime: "image/png".into(), filename: "a.png".into(), content: b"png".to_vec() }),
            other => Err(format!("no {other}")),
        };
        attach(format, body.to_string().into_bytes(), find).map(|body| serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn files_stand_where_their_ids_stood_and_nothing_else_changes() {
        let parts = json!([
            {"type": "text", "text": "file_id"},
            {"type": "input_image", "file_id": "file_1", "detail": "low"},
            {"type": "input_file", "file_id": "file_1"},
            {"type": "file", "file": {"file_id": "file_1"}},
            {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
        ]);
        let chat = json!({"model": "m", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": parts}]});
        let responses = json!({"model": "m", "input": [{"role": "user", "content": parts}]});
        let blocks = json!([{"type": "text", "text": "file_id"}, {"type": "image", "source": {"type": "file", "file_id": "file_1"}, "cache_control": {"type": "ephemeral"}}, {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document", "source": {"type": "file", "file_id": "file_1"}}]}]);
        let messages = json!({"model": "m", "messages": [{"role": "user", "content": blocks}]});
        insta::assert_json_snapshot!([
            sent(WireFormat::ChatCompletions, &chat).unwrap(),
            sent(WireFormat::Responses, &responses).unwrap(),
            sent(WireFormat::AnthropicMessages, &messages).unwrap(),
        ]);
        let missing = json!({"messages": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_2"}]}]});
        assert_eq!(sent(WireFormat::ChatCompletions, &missing), Err("no file_2".to_owned()));
        for body in [json!({"messages": "file_id"}), json!({"messages": [7, {"content": [7]}], "file_id": "file_2"}), json!({"input": "x"})]
        {
            assert_eq!(sent(WireFormat::ChatCompletions, &body), Ok(body));
        }
    }
}
