//! The items of a quote: read one by one, with everything that is wrong told at once.
//!
//! An item is BatchRouter's (`customer_item_id`, `operation`, `model`, `input`) or a line of OpenAI's
//! batch input (`custom_id`, `url`, `body`). Which models may serve it: the request's `models`, else
//! its `model`, else the item's `model_options`, else the item's `model`.

use std::collections::{HashMap, HashSet};

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
        counters: Vec::new(),
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
    /// Groups by operation and models as asked.
    places: HashMap<(Operation, Vec<String>), usize>,
    read: Read,
    /// Parallel to the groups.
    counters: Vec<Vec<(Tokenizer, Counter)>>,
}

impl Reader<'_> {
    fn issue(&mut self, code: &'static str, path: String, message: impl Into<String>) {
        self.issues.push(Issue { code, path, message: message.into() });
    }

    fn item(&mut self, place: u32, raw: &RawValue) {
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
            Ok(content) if self.issues.len() == before => self.place(place, operation, models, content),
            // What is wrong with its models is told, too.
            Ok(_) => _ = self.group(place, &models),
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
    fn models(&mut self, place: u32, written: &Written<'_>, input: Option<&Map<String, Value>>) -> Option<Vec<String>> {
        if !self.defaults.models.is_empty() {
            return Some(self.defaults.models.clone());
        }
        let options = written.model_options.and_then(|options| serde_json::from_str::<Option<Vec<String>>>(options.get()).ok());
        let own = written.model.and_then(|model| serde_json::from_str::<String>(model.get()).ok());
        let inner = input.and_then(|input| input.get("model")).and_then(Value::as_str).map(str::to_owned);
        let models = match options.flatten().filter(|options| !options.is_empty()) {
            Some(options) => options,
            None => own.or(inner).into_iter().collect(),
        };
        if models.is_empty() || models.iter().any(|model| model.is_empty() || model.chars().count() > MAX_MODEL_CHARS) {
            let message = "must be the name of a model, unless the request names `model` or `models`";
            self.issue("missing_model", format!("items[{place}].model"), message);
            return None;
        }
        Some(models)
    }

    fn place(&mut self, place: u32, operation: Operation, models: Vec<String>, content: Content<'_>) {
        let key = (operation, models);
        let index = match self.places.get(&key) {
            Some(index) => *index,
            None => match self.group(place, &key.1) {
                Some((group, names)) => self.add_group(group, names, key),
                None => return,
            },
        };
        self.read.output_basis = self.read.output_basis.max(content.basis);
        let item = content.into_item(&mut self.counters[index]);
        let own = u32::try_from(self.read.items.len()).unwrap_or(u32::MAX);
        self.read.items.push(item);
        self.read.groups[index].items.push(own);
    }

    /// The group of items that name these models, and how each was asked for; an issue if one of them
    /// is unknown.
    fn group(&mut self, place: u32, asked: &[String]) -> Option<(Group, Vec<String>)> {
        let (mut models, mut names) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for name in asked {
            let model = match (self.catalog.model(name), self.catalog.resolve(name)) {
                (Some(known), _) => known.id.clone(),
                // One that a server takes which takes every model.
                (None, Ok(_)) => name.clone(),
                (None, Err(error)) => {
                    let path = if self.defaults.models.is_empty() { format!("items[{place}].model") } else { "models".to_owned() };
                    // Said once where all items share it.
                    if !self.issues.iter().any(|issue| issue.path == path) {
                        self.issue("unknown_model", path, error.to_string());
                    }
                    return None;
                }
            };
            if seen.insert(model.clone()) {
                models.push(model);
                names.push(name.clone());
            }
        }
        Some((Group { models, items: Vec::new() }, names))
    }

    fn add_group(&mut self, group: Group, names: Vec<String>, key: (Operation, Vec<String>)) -> usize {
        let mut tokenizers: Vec<_> = group.models.iter().map(|model| Tokenizer::of(model)).collect();
        tokenizers.sort_unstable();
        tokenizers.dedup();
        self.counters.push(tokenizers.into_iter().map(|tokenizer| (tokenizer, Counter::new(tokenizer))).collect());
        self.read.groups.push(group);
        self.read.names.push(names);
        self.read.operations.push(key.0);
        self.read.asked.push(key.1.clone());
        let index = self.read.groups.len() - 1;
        self.places.insert(key, index);
        index
    }

    fn finish(mut self) -> Result<Read, Vec<Issue>> {
        if !self.issues.is_empty() {
            return Err(self.issues);
        }
        let counters = self.counters.iter().flatten();
        self.read.input_basis = counters.clone().map(|(_, counter)| counter.basis()).max().unwrap_or(Basis::Counted);
        self.read.tokenizers = counters.map(|(tokenizer, _)| *tokenizer).collect();
        self.read.tokenizers.sort_unstable();
        self.read.tokenizers.dedup();
        Ok(self.read)
    }
}
