//! `workflows/<slug>.toml`

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{Field, ListField, kinds};
use crate::catalog::vocabulary::{HostedTool, Operation};

/// A task that is ready to be run over many items: what each is asked, where it may run, what comes out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "batchd workflow seed", extend("required" = ["schema", "slug", "version", "name", "description", "models", "item", "artifact"]))]
pub struct WorkflowFile {
    /// The version of this format; 1.
    #[schemars(with = "Option<kinds::Version>")]
    pub schema: Field<i64>,
    /// The same as the file's name.
    #[schemars(with = "Option<kinds::Slug>")]
    pub slug: Field<String>,
    /// Of the workflow, counted up whenever what it asks changes; it is quoted as `<slug>@v<version>`.
    #[schemars(with = "Option<kinds::Positive>")]
    pub version: Field<i64>,
    /// For people.
    pub name: Field<String>,
    /// A sentence about what it does.
    pub description: Field<String>,
    /// `responses` if absent.
    #[schemars(with = "Option<Operation>")]
    pub operation: Field<String>,
    /// Models of the catalog that may serve it; the cheapest that is fit does.
    #[schemars(with = "Option<Vec<String>>")]
    pub models: ListField<String>,
    pub routing: Field<WrittenRouting>,
    pub item: Field<WrittenItem>,
    pub artifact: Field<WrittenArtifact>,
}

/// `[routing]`: what is demanded of lanes, in BatchRouter's words.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenRouting {
    /// `cheapest` if absent.
    pub routing_mode: Field<String>,
    /// `standard` if absent.
    pub sla_tier: Field<String>,
    /// `standard` if absent.
    #[schemars(with = "Option<kinds::Slug>")]
    pub privacy_tier: Field<String>,
    #[schemars(with = "Option<Vec<kinds::Slug>>")]
    pub allowed_regions: ListField<String>,
    #[schemars(with = "Option<Vec<HostedTool>>")]
    pub required_tools: ListField<String>,
}

/// `[item]`: what each item is asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["prompt"]))]
pub struct WrittenItem {
    /// What the model is told before each item.
    pub instructions: Field<String>,
    /// What each item says; `{{name}}` stands for what the client puts in.
    pub prompt: Field<String>,
    /// The most tokens of an answer.
    #[schemars(with = "Option<kinds::Positive>")]
    pub max_output_tokens: Field<i64>,
    /// 0.0 to 2.0.
    pub temperature: Field<f64>,
}

/// `[artifact]`: what comes out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["description"]))]
pub struct WrittenArtifact {
    /// A sentence about each row.
    pub description: Field<String>,
    /// What is to be found in an answer, by name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub fields: BTreeMap<Spanned<String>, Spanned<String>>,
}
