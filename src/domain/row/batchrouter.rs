//! One BatchRouter item: a line of a file, or an element of the items in a request.
//!
//! An item has BatchRouter's own form (`customer_item_id`, `operation`, `model`, `input`) or the
//! form of OpenAI's lines (`custom_id`, `url`, `body`); both forms may be mixed in one input. Its
//! members decide which of OpenAI's request forms its content has, unless its `url` is that of
//! Anthropic's Messages. The models that may serve it are those named for all items, else its
//! `model_options`, else its `model`. Its body stays raw, like the body of any other row.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::openai::{
    MAX_MODEL_CHARS, MODEL_BREAK, ModelName, RowFault, RowRequest, check_id, check_id_text, check_stream, kind, parse_envelope, place,
    streams, string,
};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::endpoint::Endpoint;
use crate::domain::row::output_limits::{Holder, OutputLimits, with_limits};
use crate::domain::vocabulary::Operation;

/// The most models that one item may name.
pub const MAX_OPTIONS: usize = 256;
/// The most members and elements of one item. Each takes a hundred times its bytes in memory.
const MAX_MEMBERS: usize = 100_000;
/// The endpoints that an item can be for.
const ENDPOINTS: [Endpoint; 4] = [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Embeddings, Endpoint::Messages];

/// Settings that apply to all items at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The operation of items that do not name one.
    pub operation: Option<Operation>,
    /// The models that may serve every item, whatever the items name; empty if the items name their
    /// own.
    pub models: Vec<String>,
}

/// An item as written. Any member may hold any JSON value.
#[derive(Deserialize)]
struct RawItem<'a> {
    #[serde(borrow, default)]
    customer_item_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    operation: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model_options: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

with_limits! {
    /// The part of an item's request that decides where the item goes.
    struct RawInput {
        /// Kept even if it is null: the model's name takes its place.
        #[serde(borrow, default, deserialize_with = "written")]
        model,
        #[serde(borrow, default)]
        stream,
        #[serde(borrow, default)]
        messages,
        #[serde(borrow, default)]
        input,
    }
}

/// A member as written, null included.
fn written<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one item.
///
/// # Errors
/// Every independent fault of the item, at least one.
pub fn parse_item<'a>(text: &'a [u8], defaults: &'a Defaults) -> Result<RowRequest<'a>, Vec<RowFault>> {
    if members(text) > MAX_MEMBERS {
        let message = format!("the item has more than {MAX_MEMBERS} members and elements");
        return Err(vec![RowFault::new(ProblemCode::InvalidInput, None, message)]);
    }
    let raw: RawItem<'_> = parse_envelope(text).map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    let mut keep = |fault: RowFault| faults.push(fault);

    let (field, id) = match (raw.customer_item_id, raw.custom_id) {
        (None, Some(id)) => ("custom_id", Some(id)),
        (id, _) => ("customer_item_id", id),
    };
    let custom_id = check_id(id, field).map_err(&mut keep).ok();
    let operation = operation(&raw, defaults).map_err(&mut keep).ok();
    let input = input(&raw).map_err(&mut keep).ok();
    let model = models(&raw, input.as_ref(), defaults).map_err(&mut keep).ok();
    let mut limits = OutputLimits::default();
    if let Some(input) = &input {
        check_stream(input.members.stream, "input.stream").unwrap_or_else(&mut keep);
        let stated = OutputLimits::read(input.members.limits(), input.holder());
        limits = stated.map_err(|faults| faults.into_iter().for_each(&mut keep)).unwrap_or_default();
    }
    let endpoint = match (operation, &input) {
        (Some(operation), Some(input)) => endpoint(operation, input.asks(), url(&raw)).map_err(&mut keep).ok(),
        (_, _) => None,
    };
    match (custom_id, operation, input, model, endpoint) {
        (Some(custom_id), Some(operation), Some(input), Some(model), Some(endpoint)) if faults.is_empty() => {
            let name = input.model_name();
            Ok(RowRequest { custom_id, model, endpoint, operation: Some(operation), body: input.text, name, limits })
        }
        (_, _, _, _, _) => Err(faults),
    }
}

/// The facts that decide where an item goes, already read by its dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed<'a> {
    pub operation: Operation,
    pub endpoint: Endpoint,
    pub model: &'a str,
    pub limits: OutputLimits,
}

/// Checks an item whose parts were read before, as [`parse_item`] will check the `line` made of
/// them: `custom_id`, `url` and `body`, without any setting that applies to all items.
///
/// # Errors
/// Every independent fault of the item, at least one.
pub fn check_parsed<'a>(id: &str, url: Endpoint, body: &'a Map<String, Value>, line: &str) -> Result<Parsed<'a>, Vec<RowFault>> {
    if members(line.as_bytes()) > MAX_MEMBERS {
        let message = format!("the item has more than {MAX_MEMBERS} members and elements");
        return Err(vec![RowFault::new(ProblemCode::InvalidInput, None, message)]);
    }
    let mut faults = Vec::new();
    let mut keep = |fault: RowFault| faults.push(fault);
    check_id_text(id, "custom_id").unwrap_or_else(&mut keep);
    if !matches!(body.get("stream"), None | Some(Value::Null | Value::Bool(false))) {
        keep(streams("input.stream"));
    }
    let limits = OutputLimits::of(body, Holder::Body);
    let limits = limits.map_err(|faults| faults.into_iter().for_each(&mut keep)).unwrap_or_default();
    let model = body.get("model").and_then(Value::as_str).filter(|name| is_name(name));
    if model.is_none() {
        keep(no_model());
    }
    let operation = if url == Endpoint::Embeddings { Operation::Embeddings } else { Operation::Responses };
    let is_there = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    let asks = Asks { field: "body", messages: is_there("messages"), input: is_there("input") };
    let endpoint = endpoint(operation, asks, Some(url)).map_err(&mut keep).ok();
    match (model, endpoint) {
        (Some(model), Some(endpoint)) if faults.is_empty() => Ok(Parsed { operation, endpoint, model, limits }),
        (_, _) => Err(faults),
    }
}

fn operation(raw: &RawItem<'_>, defaults: &Defaults) -> Result<Operation, RowFault> {
    if let Some(operation) = raw.operation {
        return string(operation).and_then(|text| Operation::parse(&text)).ok_or_else(|| {
            let message = format!("`operation` must be one of {}", Operation::choices());
            RowFault::new(ProblemCode::InvalidOperation, Some("operation"), message)
        });
    }
    if raw.url.is_none() {
        return Ok(defaults.operation.unwrap_or(Operation::Responses));
    }
    match url(raw) {
        Some(Endpoint::Embeddings) => Ok(Operation::Embeddings),
        Some(_) => Ok(Operation::Responses),
        None => {
            let legal = ENDPOINTS.map(|url| format!("`{url}`")).join(", ");
            Err(RowFault::new(ProblemCode::InvalidOperation, Some("url"), format!("`url` must be one of {legal}")))
        }
    }
}

/// The endpoint that an item names in `url`.
fn url(raw: &RawItem<'_>) -> Option<Endpoint> {
    raw.url.and_then(string)?.parse().ok().filter(|url| ENDPOINTS.contains(url))
}

/// The request in an item.
struct Input<'a> {
    /// The member that holds the request: `input` or `body`.
    field: &'static str,
    text: &'a str,
    members: RawInput<'a>,
}

impl Input<'_> {
    fn holder(&self) -> Holder {
        if self.field == "body" { Holder::Body } else { Holder::Input }
    }

    fn asks(&self) -> Asks {
        let is_there = |value: Option<&RawValue>| value.is_some_and(|value| value.get() != "null");
        Asks { field: self.field, messages: is_there(self.members.messages), input: is_there(self.members.input) }
    }

    fn model_name(&self) -> ModelName {
        match self.members.model {
            // `model` borrows from the text, so its address gives its place in the text.
            Some(model) => {
                let start = model.get().as_ptr() as usize - self.text.as_ptr() as usize;
                ModelName::At(start..start + model.get().len())
            }
            None => ModelName::Absent,
        }
    }
}

fn input<'a>(raw: &RawItem<'a>) -> Result<Input<'a>, RowFault> {
    let (field, input) = match (raw.input, raw.body) {
        (None, Some(body)) => ("body", Some(body)),
        (input, _) => ("input", input),
    };
    let bad = |what: String| RowFault::new(ProblemCode::InvalidInput, Some(field), what);
    let Some(input) = input.filter(|input| input.get().starts_with('{')) else {
        let found = input.map_or("nothing", kind);
        return Err(bad(format!("`{field}` must be an object, what the model is asked; found {found}")));
    };
    match serde_json::from_str(input.get()) {
        Ok(members) => Ok(Input { field, text: input.get(), members }),
        Err(error) => Err(bad(format!("`{field}` is not usable: {}", place(&error)))),
    }
}

/// Which of the members that indicate the kind of request are present.
#[derive(Clone, Copy)]
struct Asks {
    /// The member that holds them: `input` or `body`.
    field: &'static str,
    messages: bool,
    input: bool,
}

fn endpoint(operation: Operation, asks: Asks, url: Option<Endpoint>) -> Result<Endpoint, RowFault> {
    let Asks { field, messages, input } = asks;
    let bad = |what: &str| Err(RowFault::new(ProblemCode::InvalidInput, Some(field), format!("`{field}` must have {what}")));
    match (operation, messages, input) {
        (Operation::Embeddings, _, true) => Ok(Endpoint::Embeddings),
        (Operation::Embeddings, _, false) => bad("`input`, the text to embed or an array of texts"),
        (Operation::Responses | Operation::Vision, true, _) if url == Some(Endpoint::Messages) => Ok(Endpoint::Messages),
        (Operation::Responses | Operation::Vision, false, _) if url == Some(Endpoint::Messages) => bad("`messages`, an array of messages"),
        (Operation::Responses | Operation::Vision, true, _) => Ok(Endpoint::ChatCompletions),
        (Operation::Responses | Operation::Vision, false, true) => Ok(Endpoint::Responses),
        (Operation::Responses | Operation::Vision, false, false) => {
            bad("`messages`, an array of messages, or `input`, a text or such an array")
        }
    }
}

fn models<'a>(raw: &RawItem<'a>, input: Option<&Input<'a>>, defaults: &'a Defaults) -> Result<Cow<'a, str>, RowFault> {
    match defaults.models.as_slice() {
        [] => {}
        [only] => return Ok(Cow::Borrowed(only)),
        several => return Ok(join(several)),
    }
    if let Some(options) = raw.model_options.filter(|options| !matches!(options.get(), "null" | "[]")) {
        return options_of(options).map(|options| join(&options));
    }
    let model = raw.model.or_else(|| input?.members.model).and_then(string);
    model.filter(|name| is_name(name)).ok_or_else(no_model)
}

fn no_model() -> RowFault {
    let message =
        format!("`model` must name a model, in 1 to {MAX_MODEL_CHARS} characters, unless `model` or `models` is said of all items");
    RowFault::new(ProblemCode::InvalidModel, Some("model"), message)
}

fn options_of(raw: &RawValue) -> Result<Vec<String>, RowFault> {
    let bad = |message: String| RowFault::new(ProblemCode::InvalidModel, Some("model_options"), message);
    let options: Vec<String> =
        serde_json::from_str(raw.get()).map_err(|_| bad("`model_options` must be an array of names of models".to_owned()))?;
    if options.len() > MAX_OPTIONS {
        return Err(bad(format!("`model_options` may have at most {MAX_OPTIONS} members, found {}", options.len())));
    }
    match options.iter().all(|name| is_name(name)) {
        true => Ok(options),
        false => Err(bad(format!("each member of `model_options` must name a model, in 1 to {MAX_MODEL_CHARS} characters"))),
    }
}

/// Whether a text can be the name of a model.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 4 * MAX_MODEL_CHARS && text.chars().count() <= MAX_MODEL_CHARS && !text.contains(MODEL_BREAK)
}

/// Joins the names of several models to one row's model name, each name once.
fn join(names: &[String]) -> Cow<'static, str> {
    let mut seen = HashSet::new();
    let names: Vec<_> = names.iter().map(String::as_str).filter(|name| seen.insert(*name)).collect();
    Cow::Owned(names.join("\n"))
}

/// The number of members and elements of a JSON text, or a few more.
pub fn members(json: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'{' | b'[' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// Parses the body of a row. The body must be JSON that can be read and written again, because that
/// happens where a lane takes another form or tools are added. Parsing takes some time.
///
/// # Errors
/// When a number in the body is too large, or the body is nested too deeply.
pub fn readable(row: &RowRequest<'_>) -> Result<Map<String, Value>, RowFault> {
    let unusable = |error| RowFault::new(ProblemCode::InvalidInput, Some("input"), format!("`input` is not usable: {}", place(&error)));
    serde_json::from_str(row.body).map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn described(text: &str, defaults: &Defaults) -> String {
        match parse_item(text.as_bytes(), defaults) {
            Ok(row) => {
                let body = String::from_utf8(row.body_for("up")).unwrap();
                format!("{:?} {:?} {} {} -> {body}", row.custom_id, row.model, row.operation.unwrap(), row.endpoint)
            }
            Err(faults) => {
                faults.iter().map(|f| format!("{} {:?}: {}", f.code.as_str(), f.param, f.message)).collect::<Vec<_>>().join("\n")
            }
        }
    }

    #[test]
    fn items_as_they_are_read_and_sent_and_all_that_is_wrong_with_others() {
        let all = Defaults { operation: Some(Operation::Embeddings), models: vec!["x".into(), "y".into()] };
        let none = Defaults::default();
        let items = [
            (r#"{"customer_item_id":"a","operation":"responses","model":"m","input":{"messages":[]}}"#, &none),
            (r#"{"customer_item_id":"a","model":"m","input":{ }}"#, &none),
            (r#"{"customer_item_id":"a","model":"m","input":{ "input":"text"}}"#, &none),
            (r#"{"customer_item_id":"a","model":"m","operation":"embeddings","input":{"input":"text", "model": "n"}}"#, &none),
            (r#"{"customer_item_id":"a","model":"m","input":{"model":null,"input":"text"}}"#, &none),
            (r#"{"customer_item_id":"a","model":"m","model_options":["m","n"],"input":{"input":"text"}}"#, &none),
            (r#"{"customer_item_id":"a","model":"m","input":{"input":"text"}}"#, &all),
            (r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[1]}}"#, &none),
            (r#"{"custom_id":"a","url":"/v1/responses","body":{"model":"up","input":"x"}}"#, &none),
            (r#"{"custom_id":"a","url":"/v1/messages","body":{"model":"up","max_tokens":5,"messages":[1]}}"#, &none),
            (r#"{"custom_id":"a","url":"/v1/messages","body":{"model":"up","input":"x"}}"#, &none),
            (r#"{"custom_id":"a","url":"/v1/moderations","body":{"model":"up","input":"x"}}"#, &none),
            (r#"{"customer_item_id":7,"operation":"speech","model":[],"input":[]}"#, &none),
            (r#"{"customer_item_id":"","model_options":"m","input":{"stream":true,"prompt":"x"}}"#, &none),
            (r#"{"customer_item_id":"a","model_options":["a\nb"],"input":{"input":1}}"#, &none),
            (r#"{"customer_item_id":"a","operation":"embeddings","input":{"messages":[]}}"#, &none),
            ("[]", &none),
            ("{", &none),
        ];
        insta::assert_snapshot!(items.map(|(text, defaults)| format!("{text}\n  {}", described(text, defaults))).join("\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_item_or_a_fault(bytes: Vec<u8>, position in 0_usize..90, byte: u8) {
            let mut item = br#"{"customer_item_id":"a","operation":"responses","model":"m","input":{"messages":[],"model":"m"}}"#.to_vec();
            item[position] = byte;
            for text in [bytes, item] {
                match parse_item(&text, &Defaults::default()) {
                    Ok(row) => _ = serde_json::from_slice::<serde_json::Value>(&row.body_for("other")).unwrap(),
                    Err(faults) => prop_assert!(!faults.is_empty()),
                }
            }
        }
    }
}
