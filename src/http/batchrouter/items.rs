//! The items of a quote: read one by one, with everything that is wrong told at once.
//!
//! An item is BatchRouter's (`customer_item_id`, `operation`, `model`, `input`) or a line of OpenAI's
//! batch input (`custom_id`, `url`, `body`). Which models may serve it: the request's `models`, else
//! its `model`, else the item's `model_options`, else the item's `model`. Items with the same models
//! and operation are a group.
//!
//! Everything that a request can make long has a bound: names in a list, groups, and members of an
//! item's JSON, each of which takes a hundred times its bytes in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::refusal::{Issue, MAX_ISSUES};
use crate::catalog::Snapshot;
use crate::domain::endpoint::Endpoint;
use crate::domain::request::{MAX_CUSTOM_ID_CHARS, MAX_MODEL_CHARS};
use crate::domain::words::Operation;
use crate::route::quote::{Content, Group, Item, Misread, OutputBasis};
use crate::route::tokens::{Basis, Counter, Tokenizer};

/// Models that one item may name.
const MAX_OPTIONS: usize = 256;
/// Lists of models that items may name.
const MAX_GROUPS: usize = 256;
/// Members and elements of one item.
const MAX_MEMBERS: usize = 100_000;

/// What the request says of all its items.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    pub operation: Option<Operation>,
    /// The models that may serve every item, if the request names them.
    pub models: Vec<String>,
}

/// The items, read.
#[derive(Debug)]
pub struct Read {
    pub items: Vec<Item>,
    pub groups: Vec<Group>,
    /// Parallel to the groups: the models as they were asked for, as often as they were.
    pub asked: Vec<Vec<String>>,
    /// Parallel to the models of each group: how it was asked for first.
    pub names: Vec<Vec<String>>,
    /// Parallel to the groups: the operation of the group's first item.
    pub operations: Vec<Operation>,
    /// How sure the input tokens are: the least of it.
    pub input_basis: Basis,
    /// The same of the output tokens.
    pub output_basis: OutputBasis,
    pub tokenizers: Vec<Tokenizer>,
}

/// An item as it is written. Any of it may be anything.
#[derive(Deserialize)]
struct Written<'a> {
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

/// Reads all items; takes time, most of it for counting tokens.
///
/// # Errors
/// Everything that is wrong with them, at most [`MAX_ISSUES`].
pub fn read(items: &[&RawValue], defaults: &Defaults, catalog: &Snapshot) -> Result<Read, Vec<Issue>> {
    let mut reader = Reader {
        catalog,
        defaults,
        ids: HashMap::new(),
        issues: Vec::new(),
        places: HashMap::new(),
        groups: HashMap::new(),
        tokenizers: Vec::new(),
        counters: BTreeMap::new(),
        read: Read {
            items: Vec::with_capacity(items.len()),
            groups: Vec::new(),
            asked: Vec::new(),
            names: Vec::new(),
            operations: Vec::new(),
            input_basis: Basis::Counted,
            output_basis: OutputBasis::Nothing,
            tokenizers: Vec::new(),
        },
    };
    for (place, item) in (0_u32..).zip(items) {
        if reader.issues.len() >= MAX_ISSUES {
            break;
        }
        reader.item(place, item);
    }
    reader.finish()
}

struct Reader<'a> {
    catalog: &'a Snapshot,
    defaults: &'a Defaults,
    /// Ids, and the places of the items that have them.
    ids: HashMap<String, u32>,
    issues: Vec<Issue>,
    /// Groups by operation and models as asked; `None` for models that nobody knows.
    places: HashMap<Operation, HashMap<Vec<String>, Option<usize>>>,
    /// The same by the models' canonical names.
    groups: HashMap<(Operation, Vec<String>), usize>,
    /// Parallel to the groups: those of its models.
    tokenizers: Vec<Vec<Tokenizer>>,
    counters: BTreeMap<Tokenizer, Counter>,
    read: Read,
}

impl<'a> Reader<'a> {
    fn issue(&mut self, code: &'static str, path: String, message: impl Into<String>) {
        self.issues.push(Issue { code, path, message: message.into() });
    }

    fn item(&mut self, place: u32, raw: &RawValue) {
        if members(raw.get()) > MAX_MEMBERS {
            let message = format!("has more than {MAX_MEMBERS} members and elements");
            return self.issue("invalid_item", format!("items[{place}]"), message);
        }
        let Ok(written) = serde_json::from_str::<Written<'_>>(raw.get()) else {
            return self.issue("invalid_item", format!("items[{place}]"), "must be an object with `customer_item_id`, `model` and `input`");
        };
        let before = self.issues.len();
        self.id(place, &written);
        let operation = self.operation(place, &written);
        let (field, input) = match (written.input, written.body) {
            (None, Some(body)) => ("body", Some(body)),
            (input, _) => ("input", input),
        };
        let input = input.and_then(|input| serde_json::from_str::<Map<String, Value>>(input.get()).ok());
        if input.is_none() {
            self.issue("invalid_input", format!("items[{place}].{field}"), "must be an object: what the model is asked");
        }
        let models = self.models(place, &written, input.as_ref());
        let (Some(operation), Some(input), Some(models)) = (operation, input, models) else { return };
        match Content::read(operation, &input) {
            Ok(content) => {
                // What is wrong with its models is told, whatever else is.
                let group = self.group_of(place, operation, &models);
                if let Some(group) = group.filter(|_| self.issues.len() == before) {
                    self.place(group, content);
                }
            }
            Err(Misread { member, message }) => {
                let path = if member.is_empty() { format!("items[{place}].{field}") } else { format!("items[{place}].{field}.{member}") };
                self.issue("invalid_input", path, message);
            }
        }
    }

    fn id(&mut self, place: u32, written: &Written<'_>) {
        let (field, id) = match (written.customer_item_id, written.custom_id) {
            (None, Some(id)) => ("custom_id", Some(id)),
            (id, _) => ("customer_item_id", id),
        };
        let path = format!("items[{place}].{field}");
        let id = id.and_then(|id| serde_json::from_str::<String>(id.get()).ok()).filter(|id| !id.is_empty());
        let Some(id) = id.filter(|id| id.chars().count() <= MAX_CUSTOM_ID_CHARS) else {
            return self.issue("invalid_customer_item_id", path, format!("must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters"));
        };
        if let Some(first) = self.ids.insert(id.clone(), place) {
            self.issue("duplicate_customer_item_id", path, format!("duplicate of items[{first}].{field}"));
            self.ids.insert(id, first);
        }
    }

    fn operation(&mut self, place: u32, written: &Written<'_>) -> Option<Operation> {
        let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).unwrap_or_default();
        if let Some(operation) = written.operation {
            let found = Operation::parse(&text(operation));
            if found.is_none() {
                self.issue(
                    "unsupported_operation",
                    format!("items[{place}].operation"),
                    format!("must be one of {}", Operation::choices()),
                );
            }
            return found;
        }
        match written.url.map(|url| text(url).parse::<Endpoint>()) {
            Some(Ok(Endpoint::Embeddings)) => Some(Operation::Embeddings),
            Some(Ok(Endpoint::ChatCompletions | Endpoint::Responses)) => Some(Operation::Responses),
            Some(_) => {
                let legal = [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Embeddings].map(|url| format!("`{url}`")).join(", ");
                self.issue("unsupported_operation", format!("items[{place}].url"), format!("must be one of {legal}"));
                None
            }
            None => Some(self.defaults.operation.unwrap_or(Operation::Responses)),
        }
    }

    /// The models that may serve an item, as asked.
    fn models(&mut self, place: u32, written: &Written<'_>, input: Option<&Map<String, Value>>) -> Option<Cow<'a, [String]>> {
        if !self.defaults.models.is_empty() {
            return Some(Cow::Borrowed(&self.defaults.models));
        }
        let options = written.model_options.and_then(|options| serde_json::from_str::<Option<Vec<String>>>(options.get()).ok());
        let own = written.model.and_then(|model| serde_json::from_str::<String>(model.get()).ok());
        let inner = input.and_then(|input| input.get("model")).and_then(Value::as_str).map(str::to_owned);
        let models = match options.flatten().filter(|options| !options.is_empty()) {
            Some(options) => options,
            None => own.or(inner).into_iter().collect(),
        };
        if models.len() > MAX_OPTIONS {
            let message = format!("may have at most {MAX_OPTIONS} members, found {}", models.len());
            self.issue("too_many_models", format!("items[{place}].model_options"), message);
            return None;
        }
        if models.is_empty() || !models.iter().all(|model| is_name(model)) {
            let message = "must be the name of a model, unless the request names `model` or `models`";
            self.issue("missing_model", format!("items[{place}].model"), message);
            return None;
        }
        Some(Cow::Owned(models))
    }

    /// The group of an item that may be served by these models.
    fn group_of(&mut self, place: u32, operation: Operation, asked: &[String]) -> Option<usize> {
        if let Some(known) = self.places.get(&operation).and_then(|places| places.get(asked)) {
            return *known;
        }
        let group = self.resolve(place, asked).and_then(|(models, names)| self.group(place, operation, models, names, asked));
        self.places.entry(operation).or_default().insert(asked.to_vec(), group);
        group
    }

    fn group(&mut self, place: u32, operation: Operation, models: Vec<String>, names: Vec<String>, asked: &[String]) -> Option<usize> {
        let key = (operation, models);
        if let Some(known) = self.groups.get(&key) {
            return Some(*known);
        }
        let index = self.read.groups.len();
        if index == MAX_GROUPS {
            let message = format!("the items name more than {MAX_GROUPS} different models or lists of models");
            self.issue("too_many_models", format!("items[{place}].model"), message);
            return None;
        }
        let mut tokenizers: Vec<_> = key.1.iter().map(|model| Tokenizer::of(model)).collect();
        tokenizers.sort_unstable();
        tokenizers.dedup();
        self.tokenizers.push(tokenizers);
        self.read.groups.push(Group { models: key.1.clone(), items: Vec::new() });
        self.read.operations.push(operation);
        self.read.asked.push(asked.to_vec());
        self.read.names.push(names);
        self.groups.insert(key, index);
        Some(index)
    }

    /// The models' canonical names, and how each was asked for; an issue if nobody knows one of them.
    fn resolve(&mut self, place: u32, asked: &[String]) -> Option<(Vec<String>, Vec<String>)> {
        let (mut models, mut names) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for name in asked {
            let model = match self.catalog.model(name) {
                Some(known) => known.id.clone(),
                None => {
                    if let Err(error) = self.catalog.resolve(name) {
                        let path = if self.defaults.models.is_empty() { format!("items[{place}].model") } else { "models".to_owned() };
                        self.issue("unknown_model", path, error.to_string());
                        return None;
                    }
                    // One that a server takes which takes every model.
                    name.clone()
                }
            };
            if seen.insert(model.clone()) {
                models.push(model);
                names.push(name.clone());
            }
        }
        Some((models, names))
    }

    fn place(&mut self, group: usize, content: Content<'_>) {
        if content.has_media() {
            self.read.input_basis = Basis::Media;
        }
        self.read.output_basis = self.read.output_basis.max(content.basis);
        let own = u32::try_from(self.read.items.len()).unwrap_or(u32::MAX);
        self.read.items.push(content.into_item(&self.tokenizers[group], &mut self.counters));
        self.read.groups[group].items.push(own);
    }

    fn finish(mut self) -> Result<Read, Vec<Issue>> {
        if !self.issues.is_empty() {
            return Err(self.issues);
        }
        let least = self.counters.values().map(Counter::basis).max().unwrap_or(Basis::Counted);
        self.read.input_basis = self.read.input_basis.max(least);
        self.read.tokenizers = self.counters.into_keys().collect();
        Ok(self.read)
    }
}

/// Whether a text can be the name of a model.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 4 * MAX_MODEL_CHARS && text.chars().count() <= MAX_MODEL_CHARS
}

/// Members and elements of a JSON text, or a few more.
fn members(json: &str) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in json.bytes() {
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
