//! Turns the rows of a create into the lines of an input file: `requests` are taken as they are
//! written, `prompts` and `items` are expanded from their shorthand. From then on, both kinds take
//! the same path.
//!
//! The rules and their codes are those of Phaseo's server (Phaseo's reference of rows).

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::endpoint::named;
use crate::domain::endpoint::Endpoint;
use crate::http::phaseo::batches::common::{Common, RowSyntax};
use crate::service::quotes::items::ParsedRow;

type Members = Map<String, Value>;

/// The most output tokens of a row that states no limit (the rule of Phaseo's server for rows that
/// come with a create), unless its model writes less.
const OUTPUT_LIMIT: u64 = 16_384;
/// The same limit for a shorthand row of `/v1/messages`: that endpoint requires a limit.
const MESSAGE_LIMIT: u64 = 1_024;
/// The most bytes of a row's id.
const MAX_ID: usize = 512;
/// Members that are shorthand for the prompt, and not part of a body.
const TEXTS: [&str; 4] = ["prompt", "input", "text", "content"];

/// Looks up the most output tokens of a model by its name, if known.
pub type MostOutput<'a> = &'a dyn Fn(&str) -> Option<u64>;

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShorthandFault {
    pub reason: &'static str,
    /// The row's place, counted from 0.
    pub row: usize,
    pub message: String,
}

/// Parses rows into the form in which they are kept: for each row a line, a JSON object, and the
/// line's contents.
///
/// # Errors
/// The first fault.
pub fn parse(
    rows: Vec<Value>,
    kind: RowSyntax,
    endpoint: Endpoint,
    common: &Common,
    most: MostOutput<'_>,
) -> Result<Vec<ParsedRow>, ShorthandFault> {
    let mut ids = HashSet::new();
    let parse = |(place, row): (usize, Value)| {
        let (id, body) = match kind {
            RowSyntax::Requests => advanced(row, place, endpoint, common),
            RowSyntax::Prompts | RowSyntax::Items => shorthand(row, place, endpoint, common),
        }
        .map_err(|(reason, message)| ShorthandFault { reason, row: place, message })?;
        let fault = |reason, message: String| Err(ShorthandFault { reason, row: place, message });
        if id.len() > MAX_ID {
            return fault("batch_custom_id_too_long", format!("`custom_id` may have at most {MAX_ID} bytes"));
        }
        if !ids.insert(id.clone()) {
            return fault("duplicate_custom_id", format!("`custom_id` `{id}` stands before another row, too; it must be unique"));
        }
        let body = normalised(body, endpoint, common, most).map_err(|(reason, message)| ShorthandFault { reason, row: place, message })?;
        Ok(parsed(id, endpoint, body))
    };
    rows.into_iter().enumerate().map(parse).collect()
}

fn parsed(id: String, endpoint: Endpoint, body: Members) -> ParsedRow {
    let text = Value::Object(body);
    let written = text.to_string();
    let line = format!(r#"{{"body":{written},"custom_id":{},"method":"POST","url":"{}"}}"#, json!(id), endpoint.path());
    let body = if let Value::Object(body) = text { body } else { Members::new() };
    ParsedRow { id, body, line, body_bytes: written.len() }
}

type Problem = (&'static str, String);

fn problem<T>(reason: &'static str, message: impl Into<String>) -> Result<T, Problem> {
    Err((reason, message.into()))
}

fn text<'a>(row: &'a Members, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| row.get(*name)?.as_str()).filter(|text| !text.is_empty())
}

fn default_id(place: usize) -> String {
    format!("request-{}", place + 1)
}

/// A row with a body of its own.
fn advanced(row: Value, place: usize, endpoint: Endpoint, common: &Common) -> Result<(String, Members), Problem> {
    let Value::Object(mut row) = row else { return problem("invalid_request", "a row must be an object") };
    let Some(Value::Object(mut body)) = take_body(&mut row) else {
        return problem("invalid_request_body", "a row must have a `body`, an object");
    };
    if let Some(url) = row.get("url").filter(|url| !url.is_null()) {
        let asked = url.as_str().and_then(named);
        let Some(asked) = asked else {
            return problem("batch_endpoint_unsupported", format!("`url` {url} is no endpoint that a batch can run"));
        };
        if asked != endpoint {
            return problem("batch_mixed_endpoints_not_supported", format!("`url` is `{asked}`, and the batch is for `{endpoint}`"));
        }
    }
    if let Some(method) = row.get("method").filter(|method| !method.is_null())
        && !method.as_str().is_some_and(|method| method.eq_ignore_ascii_case("POST"))
    {
        return problem("batch_method_not_supported", format!("`method` must be `POST`, found {method}"));
    }
    let id = text(&row, &["custom_id", "customId"]).map_or_else(|| default_id(place), str::to_owned);
    add_model(&mut body, common);
    Ok((id, body))
}

/// The body of a row, taken out of it: the counterpart of `body_of`.
fn take_body(row: &mut Members) -> Option<Value> {
    row.remove("body").or_else(|| row.remove("request"))
}

fn add_model(body: &mut Members, common: &Common) {
    let has_one = body.get("model").is_some_and(|model| !model.is_null());
    if let Some(model) = common.model.as_ref().filter(|_| !has_one) {
        body.insert("model".to_owned(), json!(model));
    }
}

/// A row in shorthand: a prompt, or an object that states the request in short form.
fn shorthand(row: Value, place: usize, endpoint: Endpoint, common: &Common) -> Result<(String, Members), Problem> {
    let (mut row, prompt) = match row {
        Value::String(prompt) if !prompt.trim().is_empty() => (Members::new(), Some(prompt)),
        Value::Object(row) => (row, None),
        _ => return problem("invalid_prompt_item", "a row must be a text that is not blank, or an object"),
    };
    let body = take_body(&mut row);
    let (row, prompt) = (&row, prompt.as_deref());
    let id = text(row, &["custom_id", "customId", "id"]).map_or_else(|| default_id(place), str::to_owned);
    let model = text(row, &["model"]).or(common.model.as_deref());
    if let Some(Value::Object(mut body)) = body {
        let own = Common { model: model.map(str::to_owned), ..Common::default() };
        add_model(&mut body, &own);
        return Ok((id, body));
    }
    let Some(model) = model else { return problem("missing_model", "a row must name a `model`, or the batch must") };
    let asked = ShorthandRow {
        model,
        prompt: prompt.or_else(|| text(row, &TEXTS).filter(|text| !text.trim().is_empty())),
        messages: row.get("messages").and_then(Value::as_array).filter(|messages| !messages.is_empty()),
        system: text(row, &["system"]).or(common.system.as_deref()),
        limit: row.get("max_output_tokens").or_else(|| row.get("max_tokens")).or(common.max_tokens.as_ref()),
        temperature: row.get("temperature").or(common.temperature.as_ref()),
    };
    if asked.prompt.is_none() && asked.messages.is_none() {
        return problem("invalid_prompt_item", "a row must have a text in `prompt`, `input`, `text` or `content`, or `messages`");
    }
    Ok((id, asked.body(endpoint)))
}

/// What a shorthand row asks.
struct ShorthandRow<'a> {
    model: &'a str,
    prompt: Option<&'a str>,
    messages: Option<&'a Vec<Value>>,
    system: Option<&'a str>,
    limit: Option<&'a Value>,
    temperature: Option<&'a Value>,
}

impl ShorthandRow<'_> {
    /// The body in the form of the endpoint.
    fn body(&self, endpoint: Endpoint) -> Members {
        let mut body = Members::new();
        let mut put = |name: &str, value: Value| _ = body.insert(name.to_owned(), value);
        put("model", json!(self.model));
        let said = |role: &str, text: &str| json!({ "role": role, "content": text });
        let mut messages: Vec<Value> = self.messages.cloned().unwrap_or_default();
        match endpoint {
            Endpoint::Embeddings => put("input", json!(self.prompt.unwrap_or_default())),
            Endpoint::Responses => {
                // Phaseo's documents say that `system` applies; Phaseo's server drops it.
                if let Some(system) = self.system {
                    put("instructions", json!(system));
                }
                match (messages.is_empty(), self.prompt) {
                    (true, Some(prompt)) => put("input", json!(prompt)),
                    (_, prompt) => {
                        messages.extend(prompt.map(|prompt| said("user", prompt)));
                        put("input", json!(messages));
                    }
                }
            }
            Endpoint::Messages => {
                if let Some(system) = self.system {
                    put("system", json!(system));
                }
                messages.extend(self.prompt.map(|prompt| said("user", prompt)));
                put("messages", json!(messages));
                put("max_tokens", json!(MESSAGE_LIMIT));
            }
            _ => {
                let system = self.system.map(|system| said("system", system));
                messages.extend(self.prompt.map(|prompt| said("user", prompt)));
                put("messages", json!(system.into_iter().chain(messages).collect::<Vec<_>>()));
            }
        }
        if endpoint != Endpoint::Embeddings {
            if let Some(limit) = self.limit {
                put(limit_names(endpoint).0, limit.clone());
            }
            if let Some(temperature) = self.temperature {
                put("temperature", temperature.clone());
            }
        }
        body
    }
}

/// The endpoint's name for the limit of output tokens, and the name that other endpoints use.
const fn limit_names(endpoint: Endpoint) -> (&'static str, &'static str) {
    match endpoint {
        Endpoint::Responses => ("max_output_tokens", "max_tokens"),
        _ => ("max_tokens", "max_output_tokens"),
    }
}

/// Normalises the body of a row: the body is complete and has a limit of output tokens.
fn normalised(mut body: Members, endpoint: Endpoint, common: &Common, most: MostOutput<'_>) -> Result<Members, Problem> {
    if body.get("stream") == Some(&Value::Bool(true)) {
        return problem("batch_streaming_not_supported", "`stream` is true; the answers of a batch are read when they are complete");
    }
    let has = |name: &str| match body.get(name) {
        Some(Value::Array(values)) => !values.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        _ => false,
    };
    match endpoint {
        Endpoint::Responses if !has("input") => {
            return problem("batch_responses_input_required", "a row for `/v1/responses` must have `input`");
        }
        Endpoint::Embeddings if !has("input") => {
            return problem("batch_embeddings_input_required", "a row for `/v1/embeddings` must have `input`");
        }
        Endpoint::ChatCompletions | Endpoint::Messages if !body.get("messages").is_some_and(Value::is_array) || !has("messages") => {
            return problem("batch_messages_required", format!("a row for `{endpoint}` must have `messages`"));
        }
        _ => {}
    }
    let Some(model) = body.get("model").and_then(Value::as_str).filter(|model| !model.is_empty()) else {
        return problem("missing_model", "a row must name a `model` in its body, or the batch must");
    };
    if let Some(declared) = common.model.as_deref().filter(|declared| bare(declared) != bare(model)) {
        let message = format!("the row is for `{model}`, and the batch for `{declared}`; leave the batch's `model` out to mix models");
        return problem("batch_model_conflict", message);
    }
    if endpoint != Endpoint::Embeddings {
        let limit = most(model).map_or(OUTPUT_LIMIT, |most| most.min(OUTPUT_LIMIT));
        let (own, other) = limit_names(endpoint);
        let stated = |body: &Members, name: &str| body.get(name).is_some_and(|value| !value.is_null());
        let other = body.remove(other).filter(|value| !value.is_null());
        let newer = endpoint == Endpoint::ChatCompletions && stated(&body, "max_completion_tokens");
        if !newer && !stated(&body, own) {
            body.insert(own.to_owned(), other.unwrap_or_else(|| json!(limit)));
        }
    }
    Ok(body)
}

/// A model's name without the prefix of its organisation.
fn bare(model: &str) -> &str {
    model.rsplit('/').next().unwrap_or(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::row::batchrouter::{Defaults, check_parsed, parse_item};
    use crate::http::phaseo::batches::endpoint::QUOTABLE;
    use proptest::prelude::*;

    fn described(rows: Value, kind: RowSyntax, endpoint: Endpoint, common: &Common) -> String {
        let most = |model: &str| (model == "n").then_some(4_096);
        match parse(rows.as_array().unwrap().clone(), kind, endpoint, common, &most) {
            Ok(rows) => rows.into_iter().map(|row| row.line).collect::<Vec<_>>().join("\n"),
            Err(fault) => format!("{} in row {}: {}", fault.reason, fault.row, fault.message),
        }
    }

    #[test]
    fn rows_as_they_are_run_and_what_is_wrong_with_others() {
        let none = Common::default();
        let model = Common { model: Some("openai/m".into()), ..Common::default() };
        let all = Common { system: Some("Be brief.".into()), max_tokens: Some(json!(64)), temperature: Some(json!(0.5)), ..model.clone() };
        let (chat, responses, embeddings) = (Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Embeddings);
        let messages = Endpoint::Messages;
        let say = json!([{"role": "user", "content": "x"}]);
        let told = [
            described(
                json!([{"custom_id": "a", "body": {"input": "x", "max_output_tokens": 32}}, {"url": "/Responses/", "method": "post", "request": {"input": "y", "max_tokens": 7}}]),
                RowSyntax::Requests,
                responses,
                &model,
            ),
            described(
                json!([{"customId": "a", "body": {"model": "m", "messages": say}}, {"body": {"model": "n", "messages": say, "max_completion_tokens": 5}}, {"body": {"model": "n", "messages": say}}]),
                RowSyntax::Requests,
                chat,
                &none,
            ),
            described(json!([{"body": {"model": "e", "input": ["x"]}}]), RowSyntax::Requests, embeddings, &none),
            described(
                json!(["One?", {"id": "b", "text": "Two?", "max_output_tokens": 5, "system": "Be long."}]),
                RowSyntax::Prompts,
                responses,
                &all,
            ),
            described(json!(["One?", {"messages": say, "prompt": "more"}]), RowSyntax::Items, chat, &all),
            described(json!([{"id": "x", "body": {"messages": say}}]), RowSyntax::Items, chat, &model),
            described(json!(["text"]), RowSyntax::Items, embeddings, &all),
            described(
                json!([{"body": {"model": "m", "messages": say, "system": "x"}}, {"body": {"model": "n", "messages": say, "max_output_tokens": 5}}]),
                RowSyntax::Requests,
                messages,
                &none,
            ),
            described(
                json!(["One?", {"messages": say, "prompt": "more", "max_tokens": 7}]),
                RowSyntax::Prompts,
                messages,
                &Common { max_tokens: None, ..all.clone() },
            ),
            described(json!([{"body": {"model": "m", "input": "x"}}]), RowSyntax::Requests, messages, &none),
            described(json!([7]), RowSyntax::Requests, chat, &none),
            described(json!([{"body": []}]), RowSyntax::Requests, chat, &none),
            described(json!([{"url": "/v1/nothing", "body": {}}]), RowSyntax::Requests, chat, &none),
            described(json!([{"url": "/v1/responses", "body": {}}]), RowSyntax::Requests, chat, &none),
            described(json!([{"method": "GET", "body": {}}]), RowSyntax::Requests, chat, &none),
            described(json!([{"custom_id": "é".repeat(257), "body": {}}]), RowSyntax::Requests, chat, &none),
            described(
                json!([{"custom_id": "a", "body": {"model": "m", "messages": say}}, {"custom_id": "a", "body": {}}]),
                RowSyntax::Requests,
                chat,
                &none,
            ),
            described(json!([{"body": {"model": "m", "messages": say, "stream": true}}]), RowSyntax::Requests, chat, &none),
            described(json!([{"body": {"model": "m", "messages": []}}]), RowSyntax::Requests, chat, &none),
            described(json!([{"body": {"model": "m"}}]), RowSyntax::Requests, responses, &none),
            described(json!([{"body": {"model": "m"}}]), RowSyntax::Requests, embeddings, &none),
            described(json!([{"body": {"messages": say}}]), RowSyntax::Requests, chat, &none),
            described(json!([{"body": {"model": "n", "messages": say}}]), RowSyntax::Requests, chat, &model),
            described(json!([" "]), RowSyntax::Prompts, chat, &model),
            described(json!([{"id": "a"}]), RowSyntax::Items, chat, &model),
            described(json!(["x"]), RowSyntax::Prompts, chat, &none),
        ];
        insta::assert_snapshot!(told.join("\n--\n"));
    }

    /// The parsed row must pass the same check, with the same outcome, as its line will when the
    /// batch is validated.
    fn is_read_as_its_line_is(row: &ParsedRow, endpoint: Endpoint) {
        let defaults = Defaults::default();
        let before = check_parsed(&row.id, endpoint, &row.body, &row.line);
        match (before, parse_item(row.line.as_bytes(), &defaults)) {
            (Ok(before), Ok(line)) => {
                assert_eq!((Some(before.operation), before.endpoint, before.model), (line.operation, line.endpoint, line.model.as_ref()));
                assert_eq!((row.id.as_str(), row.body_bytes), (line.custom_id.as_ref(), line.body.len()));
                assert_eq!(serde_json::from_str::<Members>(line.body).unwrap(), row.body);
            }
            (before, line) => assert_eq!(before.unwrap_err(), line.unwrap_err(), "{}", row.line),
        }
    }

    proptest! {
        #[test]
        fn any_row_gives_a_line_or_a_fault(text in ".{0,20}", number: i64, kind in 0_usize..3) {
            let rows = [
                json!(text), json!(number), json!({"body": {"model": text, "input": text, "messages": [text], "max_tokens": number}}),
                json!({"custom_id": number, "prompt": text, "model": text}), json!({"url": text, "body": {}}),
            ];
            for endpoint in QUOTABLE {
                let kind = [RowSyntax::Requests, RowSyntax::Prompts, RowSyntax::Items][kind];
                for row in &rows {
                    for row in parse(vec![row.clone()], kind, endpoint, &Common::default(), &|_| None).into_iter().flatten() {
                        prop_assert!(serde_json::from_str::<Value>(&row.line).is_ok() && !row.line.contains('\n'));
                        is_read_as_its_line_is(&row, endpoint);
                    }
                }
            }
        }
    }
}
