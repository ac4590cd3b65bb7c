//! Workflows after the check: tasks that are ready to run over many items.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::vocabulary::Operation;
use crate::domain::quote::constraints::Constraints;

/// A task that is ready to run over many items.
#[derive(Debug, Clone, PartialEq)]
pub struct Workflow {
    pub slug: String,
    /// Starts at 1.
    pub version: u32,
    /// The name for people.
    pub name: String,
    pub description: String,
    pub operation: Operation,
    /// Models of the catalog, at least one.
    pub models: Vec<String>,
    /// The demands on lanes.
    pub constraints: Constraints,
    pub item: ItemTemplate,
    pub artifact: Artifact,
}

/// The request that is made for each item.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemTemplate {
    pub instructions: Option<String>,
    /// Contains `{{name}}` where the client inserts a value.
    pub prompt: String,
    pub max_output_tokens: Option<u64>,
    pub temperature: Option<f64>,
}

/// The output of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub description: String,
    /// Descriptions of the output's fields, by name.
    pub fields: BTreeMap<String, String>,
}

impl Workflow {
    /// The name by which the workflow is quoted: `<slug>@v<version>`.
    pub fn reference(&self) -> String {
        format!("{}@v{}", self.slug, self.version)
    }

    /// The input of an item, with its placeholders still in it.
    pub fn input(&self) -> Value {
        let ItemTemplate { instructions, prompt, max_output_tokens, temperature } = &self.item;
        let mut input = Map::new();
        if self.operation == Operation::Embeddings {
            input.insert("input".to_owned(), json!(prompt));
        } else {
            let system = instructions.iter().map(|text| json!({ "role": "system", "content": text }));
            let messages: Vec<_> = system.chain([json!({ "role": "user", "content": prompt })]).collect();
            input.insert("messages".to_owned(), json!(messages));
        }
        input.extend(max_output_tokens.map(|most| ("max_output_tokens".to_owned(), json!(most))));
        input.extend(temperature.map(|temperature| ("temperature".to_owned(), json!(temperature))));
        Value::Object(input)
    }
}
