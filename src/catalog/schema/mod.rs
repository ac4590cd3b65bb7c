//! Seeds as people write them, in TOML.
//!
//! These types are for reading, not for use: their values are only checked for their type, and they
//! never leave the catalog. [`super::validate`] decides what every field may hold, and turns them
//! into a snapshot. Unknown keys are refused, so that a misspelt key is a fault and not a silent
//! default.
//!
//! Required fields are optional here: the check then reports every missing field of a file, where
//! the parser would stop at the first. The comments on the fields become the descriptions of the
//! JSON Schema ([`json`]) that editors show, so they are written for authors of seeds.

pub mod json;
pub(super) mod kinds;
mod model;
mod provider;
mod workflow;

use std::borrow::Cow;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

pub use model::{ModelFile, WrittenFiles, WrittenModel, WrittenOffering, WrittenPrice};
pub use provider::{ProviderFile, WrittenBody, WrittenFaults, WrittenProfile, WrittenTimeouts};
pub use workflow::{WorkflowFile, WrittenArtifact, WrittenItem, WrittenRouting};

/// A value with its place in the file, if it was written at all.
#[derive(Debug)]
pub struct Field<T>(Option<Spanned<T>>);

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Deref for Field<T> {
    type Target = Option<Spanned<T>>;
    fn deref(&self) -> &Option<Spanned<T>> {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }

    fn _schemars_private_is_option() -> bool {
        true
    }
}

/// A list whose items have their places.
pub type ListField<T> = Field<Vec<Spanned<T>>>;

/// `[privacy]` of a provider, or of an offering where it differs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenPrivacy {
    /// Days for which the provider keeps inputs and outputs; 0 if it keeps nothing. Leave out if not established.
    #[schemars(with = "Option<u32>")]
    pub retention_days: Field<i64>,
    /// Zero data retention can be had, by default or by agreement.
    pub zdr: Field<bool>,
    /// `deny` if inputs are not collected for purposes of the provider's own.
    #[schemars(with = "Option<super::vocabulary::DataCollection>")]
    pub data_collection: Field<String>,
    /// Inputs may be used to train models.
    pub training_use: Field<bool>,
    /// Privacy tiers that are satisfied, such as `standard`.
    #[schemars(with = "Option<Vec<kinds::Slug>>")]
    pub tiers: ListField<String>,
    /// Where the terms are published.
    #[schemars(with = "Option<kinds::Url>")]
    pub terms_url: Field<String>,
    /// Where these facts are published.
    #[schemars(with = "Option<kinds::Url>")]
    pub source: Field<String>,
    /// The day they were last compared with the source.
    #[schemars(with = "Option<kinds::Day>")]
    pub verified_at: Field<toml::value::Datetime>,
}

/// `[limits]`: what a provider or an offering bears. Without a number, there is no such limit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenLimits {
    /// Calls at the same time. A provider that states none bears 64.
    #[schemars(with = "Option<kinds::Positive>")]
    pub in_flight: Field<i64>,
    /// Calls that may begin in a minute.
    #[schemars(with = "Option<kinds::Positive>")]
    pub requests_per_minute: Field<i64>,
    /// Tokens, read and written, of the calls in a minute.
    #[schemars(with = "Option<kinds::Positive>")]
    pub tokens_per_minute: Field<i64>,
}

/// `[capacity]`: how much may wait for an offering before it counts as full.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenCapacity {
    /// Rows; 10,000,000 if absent.
    #[schemars(with = "Option<kinds::Positive>")]
    pub queue_items: Field<i64>,
    /// Tokens to be read; 1,000,000,000,000 if absent.
    #[schemars(with = "Option<kinds::Positive>")]
    pub queue_tokens: Field<i64>,
}
