//! The endpoint of a batch: in any spelling that Phaseo's server accepts, or as the rows determine
//! it.

use serde_json::Value;

use crate::catalog::Snapshot;
use crate::domain::endpoint::Endpoint;
use crate::http::phaseo::batches::common::{RowSyntax, body_of};
use crate::http::phaseo::error::Refusal;

/// The endpoints that a batch of this dialect can be for: those that its quotes can price.
pub const QUOTABLE: [Endpoint; 4] = [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Messages, Endpoint::Embeddings];

/// The endpoint that a text names: a URL or a path, with or without `/v1`, in upper or lower case.
/// The bare form without a slash, which stands in a sample of Phaseo's documents, is accepted as
/// well.
pub fn named(text: &str) -> Option<Endpoint> {
    let text = text.trim();
    let path = text.split_once("://").map_or(text, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
    let path = path.split(['?', '#']).next().unwrap_or(path).trim_matches('/').to_ascii_lowercase();
    let path = path.strip_prefix("v1/").unwrap_or(&path);
    Endpoint::HOSTED.into_iter().find(|endpoint| endpoint.tail().trim_start_matches('/') == path)
}

/// Reads an endpoint that a batch can be for.
///
/// # Errors
/// When the text names no endpoint, or an endpoint whose rows cannot be priced.
pub fn quotable(text: &str) -> Result<Endpoint, Refusal> {
    let shown: String = text.chars().take(100).collect();
    let choices = QUOTABLE.map(|endpoint| format!("`{endpoint}`")).join(", ");
    match named(text) {
        None => Err(Refusal::invalid("batch_endpoint_unsupported", format!("`{shown}` is no endpoint of a batch; they are {choices}"))),
        Some(endpoint) if !QUOTABLE.contains(&endpoint) => {
            let message = format!("rows for `{endpoint}` cannot be priced; a batch here is for one of {choices}");
            Err(Refusal::invalid("batch_endpoint_not_supported", message))
        }
        Some(endpoint) => Ok(endpoint),
    }
}

/// The endpoint of the first row: the row names the endpoint, or its body has an endpoint's form,
/// or a provider of its model serves the endpoint. `model` is the model of rows that name none, and
/// `provider` the requested one.
///
/// # Errors
/// When the row names an endpoint that a batch cannot be for.
pub fn of_rows(
    catalog: &Snapshot,
    rows: &[Value],
    kind: RowSyntax,
    model: Option<&str>,
    provider: Option<&String>,
) -> Result<Endpoint, Refusal> {
    let Some(first) = rows.first() else { return Ok(Endpoint::Responses) };
    if let Some(url) = first.get("url").and_then(Value::as_str) {
        return quotable(url);
    }
    let body = body_of(first);
    let model_of = |holder: Option<&Value>| holder?.get("model")?.as_str().map(str::to_owned);
    let model = model_of(body).or_else(|| model_of(Some(first))).or_else(|| model.map(str::to_owned)).unwrap_or_default();
    let as_messages = is_anthropics(catalog, provider, &model) && !rows.iter().any(|row| is_chat(body_of(row).unwrap_or(row)));
    match body {
        Some(body) if body.get("messages").is_some() => Ok(if as_messages { Endpoint::Messages } else { Endpoint::ChatCompletions }),
        Some(_) if kind == RowSyntax::Requests => Ok(Endpoint::Responses),
        None if as_messages => Ok(Endpoint::Messages),
        Some(_) | None => {
            let serves = |endpoint: Endpoint| {
                let model = catalog.model(&model);
                model.is_none_or(|model| {
                    catalog.offers(model).any(|offer| offer.takes_work() && offer.offering.endpoints.contains(&endpoint))
                })
            };
            let order = [Endpoint::Responses, Endpoint::ChatCompletions, Endpoint::Embeddings];
            Ok(order.into_iter().find(|endpoint| serves(*endpoint)).unwrap_or(Endpoint::Responses))
        }
    }
}

/// Whether rows go to Anthropic's API by default: the requested provider has this API, or, without
/// a requested provider, the model's name is one of Anthropic's (the rule of Phaseo's server).
fn is_anthropics(catalog: &Snapshot, provider: Option<&String>, model: &str) -> bool {
    match provider {
        Some(id) => catalog.provider(id).is_some_and(|provider| provider.has_messages()),
        None => {
            let name = model.strip_prefix("models/").unwrap_or(model);
            name.starts_with("anthropic/") || name.starts_with("claude-")
        }
    }
}

/// Whether a body is for Chat Completions and cannot be for Messages: it has a role that Messages
/// lacks, or other members or parts that only Chat Completions has.
fn is_chat(body: &Value) -> bool {
    const MEMBERS: [&str; 7] =
        ["response_format", "max_completion_tokens", "n", "seed", "logprobs", "frequency_penalty", "presence_penalty"];
    let each = |name: &str| body[name].as_array().map_or(&[][..], Vec::as_slice);
    let is_part = |part: &Value| matches!(part["type"].as_str(), Some("image_url" | "input_audio" | "file"));
    each("messages").iter().any(|message| {
        let parts = message["content"].as_array().map_or(&[][..], Vec::as_slice);
        !matches!(message["role"].as_str(), Some("user" | "assistant")) || message.get("tool_calls").is_some() || parts.iter().any(is_part)
    }) || each("tools").iter().any(|tool| tool["type"] == "function")
        || MEMBERS.iter().any(|name| body.get(*name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spellings_of_an_endpoint() {
        for text in ["/v1/responses", "/responses", "/v1/responses/", "HTTPS://host/v1/Responses?x=1", "responses", " /v1/RESPONSES#a "] {
            assert_eq!(named(text), Some(Endpoint::Responses), "{text}");
        }
        for text in ["", "/", "https://host", "/v2/responses", "/v1/responses/x", "://", "/v1"] {
            assert_eq!(named(text), None, "{text}");
        }
    }

    #[test]
    fn a_chat_is_told_from_messages() {
        let user = json!([{"role": "user", "content": "x"}]);
        for chat in [
            json!({"messages": [{"role": "system", "content": "x"}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            json!({"messages": user, "tools": [{"type": "function"}]}),
            json!({"messages": user, "max_completion_tokens": 1}),
        ] {
            assert!(is_chat(&chat), "{chat}");
        }
        for other in
            [json!({"messages": user, "max_tokens": 1, "system": "x", "tools": [{"name": "x"}]}), json!({"prompt": "x"}), json!("x")]
        {
            assert!(!is_chat(&other), "{other}");
        }
    }
}
