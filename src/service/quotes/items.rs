//! The items of a quote: read one by one, with all faults reported at once.
//!
//! An item is BatchRouter's (`customer_item_id`, `operation`, `model`, `input`) or a line of
//! OpenAI's batch input (`custom_id`, `url`, `body`). Which models may serve it: the request's
//! `models`, else its `model`, else the item's `model_options`, else the item's `model`. Items with
//! the same models and operation are a group.
//!
//! Everything that a request can make long has a bound: names in a list, groups, and members of an
//! item's JSON.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::uncounted::uncounted;
use crate::catalog::Snapshot;
use crate::domain::endpoint::Endpoint;
use crate::domain::id::OrgId;
use crate::domain::row::batchrouter::{self, Defaults, parse_item};
use crate::domain::row::openai::{MODEL_BREAK, RowFault};
use crate::domain::row::output_limits::OutputLimits;
use crate::domain::text::shown;
use crate::domain::time::Timestamp;
use crate::domain::vocabulary::Operation;
use crate::executor::describe;
use crate::quote::tokens::{Basis, Counter, Tokenizer};
use crate::quote::{Attachment, Content, Group, Item, Misread, Output, OutputBasis};
use crate::service::{Issue, IssueCode, IssuePath, MAX_ISSUES};
use crate::store::Store;

/// The most lists of models that items may name.
const MAX_GROUPS: usize = 256;

/// The items, read.
#[derive(Debug)]
pub struct ReadItems {
    pub items: Vec<Item>,
    pub groups: Vec<Group>,
    /// Parallel to the groups: the models under the names that the client used.
    pub asked: Vec<Vec<String>>,
    /// Parallel to the models of each group: the name that the client used first.
    pub names: Vec<Vec<String>>,
    /// Parallel to the groups: the operation of the group's first item.
    pub operations: Vec<Operation>,
    /// How certain the input tokens are: the least certain basis of all items.
    pub input_basis: Basis,
    /// How certain the output tokens are: the least certain basis of all items.
    pub output_basis: OutputBasis,
    pub tokenizers: Vec<Tokenizer>,
    /// Parallel to the items.
    pub bounds: Vec<Bound>,
}

/// The bounds on the cost of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The item's group.
    pub group: usize,
    /// Bytes of the item's body, as JSON.
    pub body_bytes: usize,
    /// Approximate tokens of its images and files.
    pub media: u64,
    pub output: Output,
    /// The first part of the item whose price is not counted, for a message.
    pub uncounted: Option<String>,
}

/// An item on its way into a quote.
#[derive(Debug, Clone, Copy)]
pub enum NewItem<'a> {
    /// In its original text.
    Written(&'a RawValue),
    /// Already read by the dialect, for the endpoint that its `url` names.
    Parsed(Endpoint, &'a ParsedRow),
}

/// A row that its dialect has read, and the line that the row becomes.
#[derive(Debug)]
pub struct ParsedRow {
    pub id: String,
    pub body: Map<String, Value>,
    /// A JSON text without line breaks.
    pub line: String,
    /// Bytes of the row's body in that line.
    pub body_bytes: usize,
}

/// Reads all items. This takes time, most of it for counting tokens.
///
/// # Errors
/// All faults of the items, at most [`MAX_ISSUES`].
pub fn read(items: &[NewItem<'_>], reading: Reading<'_>, catalog: &Snapshot, files: &AttachedFiles<'_>) -> Result<ReadItems, Vec<Issue>> {
    let mut reader = Reader {
        files,
        catalog,
        reading,
        ids: HashMap::new(),
        issues: Vec::new(),
        places: HashMap::new(),
        groups: HashMap::new(),
        tokenizers: Vec::new(),
        counters: BTreeMap::new(),
        read: ReadItems {
            items: Vec::with_capacity(items.len()),
            groups: Vec::new(),
            asked: Vec::new(),
            names: Vec::new(),
            operations: Vec::new(),
            input_basis: Basis::Counted,
            output_basis: OutputBasis::Nothing,
            tokenizers: Vec::new(),
            bounds: Vec::new(),
        },
    };
    for (place, item) in (0_u32..).zip(items) {
        if reader.issues.len() >= MAX_ISSUES {
            break;
        }
        reader.item(place, *item);
    }
    reader.finish()
}

/// How items are read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    pub defaults: &'a Defaults,
    /// Items only go to lanes that take them in the form the client asked for, without conversion.
    pub as_asked: bool,
}

/// Finds files that items name.
pub struct AttachedFiles<'a> {
    pub store: &'a Store,
    /// The organisation that must own the files.
    pub org: OrgId,
    pub now: Timestamp,
}

impl AttachedFiles<'_> {
    fn find(&self, id: &str) -> Option<Attachment> {
        describe(self.store, id, self.org, self.now)
    }
}

/// A row after reading.
struct Row<'a> {
    id: &'a str,
    operation: Operation,
    endpoint: Endpoint,
    model: &'a str,
    body: &'a Map<String, Value>,
    body_bytes: usize,
    limits: OutputLimits,
}

struct Reader<'a> {
    files: &'a AttachedFiles<'a>,
    catalog: &'a Snapshot,
    reading: Reading<'a>,
    /// Ids, and the places of the items that have them.
    ids: HashMap<String, u32>,
    issues: Vec<Issue>,
    /// Groups by operation and by the model names that the client used; `None` for unknown models.
    places: HashMap<Operation, HashMap<String, Option<usize>>>,
    /// Groups by operation and by the models' canonical names.
    groups: HashMap<(Operation, Vec<String>), usize>,
    /// Parallel to the groups: the tokenizers of the group's models.
    tokenizers: Vec<Vec<Tokenizer>>,
    counters: BTreeMap<Tokenizer, Counter>,
    read: ReadItems,
}

impl<'a> Reader<'a> {
    fn issue(&mut self, code: IssueCode, path: IssuePath, message: impl Into<String>) {
        self.issues.push(Issue { code, path, message: message.into() });
    }

    fn faults(&mut self, place: u32, faults: Vec<RowFault>) {
        for fault in faults {
            let path = IssuePath::Item(place, fault.param.unwrap_or_default().to_owned());
            self.issue(IssueCode::Row(fault.code), path, fault.message);
        }
    }

    fn item(&mut self, place: u32, item: NewItem<'_>) {
        match item {
            NewItem::Written(raw) => match parse_item(raw.get().as_bytes(), self.reading.defaults) {
                Ok(row) => {
                    // Parsing cannot fail: the body was read as an object before.
                    let body = serde_json::from_str::<Map<String, Value>>(row.body).unwrap_or_default();
                    let operation = row.operation.unwrap_or(Operation::Responses);
                    let (id, model, body_bytes) = (&row.custom_id, &row.model, row.body.len());
                    self.row(place, Row { id, operation, endpoint: row.endpoint, model, body: &body, body_bytes, limits: row.limits });
                }
                Err(faults) => self.faults(place, faults),
            },
            NewItem::Parsed(url, ParsedRow { id, body, line, body_bytes }) => match batchrouter::check_parsed(id, url, body, line) {
                Ok(batchrouter::Parsed { operation, endpoint, model, limits }) => {
                    self.row(place, Row { id, operation, endpoint, model, body, body_bytes: *body_bytes, limits });
                }
                Err(faults) => self.faults(place, faults),
            },
        }
    }

    fn row(&mut self, place: u32, row: Row<'_>) {
        let before = self.issues.len();
        self.id(place, row.id);
        match Content::read(row.endpoint, row.body, row.limits) {
            Ok(mut content) => {
                if self.reading.as_asked {
                    content.keep_its_form();
                }
                // Faults of the item's models are reported, whatever other faults it has.
                let group = self.group_of(place, row.operation, row.model);
                let files = self.attachments(place, &content.file_ids);
                if let Some(group) = group.filter(|_| self.issues.len() == before) {
                    let uncounted = uncounted(row.body);
                    let (body_bytes, media, output) = (row.body_bytes, content.media(&files), content.output());
                    self.read.bounds.push(Bound { group, body_bytes, media, output, uncounted });
                    self.place(group, content, files);
                }
            }
            Err(Misread { member, message }) => {
                let member = if member.is_empty() { "input".to_owned() } else { format!("input.{member}") };
                self.issue(IssueCode::InvalidInput, IssuePath::Item(place, member), message);
            }
        }
    }

    /// The files that an item names, with an issue for each missing file.
    fn attachments(&mut self, place: u32, ids: &[&str]) -> Vec<Attachment> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            match self.files.find(id) {
                Some(file) => found.push(file),
                None => {
                    let shown = shown(id);
                    self.issue(
                        IssueCode::UnknownFile,
                        IssuePath::Item(place, "input".to_owned()),
                        format!("there is no file `{shown}`; upload it first"),
                    );
                }
            }
        }
        found
    }

    fn id(&mut self, place: u32, id: &str) {
        match self.ids.get(id) {
            Some(first) => {
                let message = format!("duplicate of items[{first}].customer_item_id");
                self.issue(IssueCode::DuplicateId, IssuePath::Item(place, "customer_item_id".to_owned()), message);
            }
            None => _ = self.ids.insert(id.to_owned(), place),
        }
    }

    /// The group of an item that may be served by these models.
    fn group_of(&mut self, place: u32, operation: Operation, asked: &str) -> Option<usize> {
        if let Some(known) = self.places.get(&operation).and_then(|places| places.get(asked)) {
            return *known;
        }
        let names: Vec<_> = asked.split(MODEL_BREAK).map(str::to_owned).collect();
        let resolved = self.resolve(place, &names);
        let group = resolved.and_then(|(models, each)| self.group(place, operation, models, each, &names));
        self.places.entry(operation).or_default().insert(asked.to_owned(), group);
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
            self.issue(IssueCode::TooManyModels, IssuePath::Item(place, "model".to_owned()), message);
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

    /// The models' canonical names, and the name that the client used for each; an issue if a model
    /// is unknown.
    fn resolve(&mut self, place: u32, asked: &[String]) -> Option<(Vec<String>, Vec<String>)> {
        let (mut models, mut names) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for name in asked {
            let model = match self.catalog.model(name) {
                Some(known) => known.id.clone(),
                None => {
                    if let Err(error) = self.catalog.resolve(name) {
                        let own = self.reading.defaults.models.is_empty();
                        let path = if own { IssuePath::Item(place, "model".to_owned()) } else { IssuePath::Field("models") };
                        self.issue(IssueCode::UnknownModel, path, error.to_string());
                        return None;
                    }
                    // A model that a server takes which takes every model.
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

    fn place(&mut self, group: usize, content: Content<'_>, files: Vec<Attachment>) {
        if content.has_media() {
            self.read.input_basis = Basis::Media;
        }
        self.read.output_basis = self.read.output_basis.max(content.basis);
        let own = u32::try_from(self.read.items.len()).unwrap_or(u32::MAX);
        self.read.items.push(content.into_item(files, &self.tokenizers[group], &mut self.counters));
        self.read.groups[group].items.push(own);
    }

    fn finish(mut self) -> Result<ReadItems, Vec<Issue>> {
        if !self.issues.is_empty() {
            return Err(self.issues);
        }
        let least = self.counters.values().map(Counter::basis).max().unwrap_or(Basis::Counted);
        self.read.input_basis = self.read.input_basis.max(least);
        self.read.tokenizers = self.counters.into_keys().collect();
        Ok(self.read)
    }
}
