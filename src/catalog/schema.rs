//! Seeds as people write them, in TOML.
//!
//! For reading, not for use: nothing here is checked beyond its type, and nothing here leaves the
//! catalog. What every field may hold is decided in [`super::validate`], which turns these into a
//! snapshot. Unknown keys are refused, so that a misspelt one is a fault and not a silent default.
//!
//! What is required is an `Option` here too: the check then reports every missing field of a file,
//! where the parser would stop at the first.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

/// A value with its place in the file, if it was written at all.
pub(super) type Field<T> = Option<Spanned<T>>;

/// `providers/<id>.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderFile {
    /// The version of this format; 1.
    pub schema: Field<i64>,
    /// The same as the file's name.
    pub id: Field<String>,
    /// For people.
    pub name: Field<String>,
    /// `openai` or `simulated`.
    pub kind: Field<String>,
    /// Calls at the same time; 64 if absent.
    pub concurrency: Field<i64>,
    /// Takes every model that no other provider is known to offer.
    pub catch_all: Field<bool>,

    /// `openai`: where the server is.
    pub base_url: Field<String>,
    /// `openai`: the environment variable that holds the key.
    pub api_key_env: Field<String>,
    /// `openai`: the file that holds the key.
    pub api_key_file: Field<String>,
    /// `openai`: PEM certificates to trust besides the system's.
    pub ca_file: Field<String>,
    /// `openai`: the largest answer to read, in bytes; 64 MiB if absent.
    pub max_response_bytes: Field<i64>,
    /// `openai`
    pub timeouts: Field<WrittenTimeouts>,

    /// `simulated`: serves known models as long as no real provider is usable.
    pub stand_in: Field<bool>,
    /// `simulated`
    pub profile: Field<WrittenProfile>,
    /// `simulated`: what differs from `profile`, by upstream model name.
    #[serde(default)]
    pub models: BTreeMap<Spanned<String>, WrittenProfile>,
}

/// `[timeouts]`, as durations such as `"10s"`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTimeouts {
    pub connect: Field<String>,
    pub first_byte: Field<String>,
    pub total: Field<String>,
}

/// `[profile]` and `[models."name"]` of the simulated provider.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenProfile {
    /// The median time to answer, such as `"120ms"`.
    pub latency: Field<String>,
    /// Ratio of the 95th percentile to the median.
    pub spread: Field<f64>,
    pub faults: Field<WrittenFaults>,
}

/// `[profile.faults]`: shares of calls, `0.0` to `1.0`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenFaults {
    pub error: Field<f64>,
    pub rate_limit: Field<f64>,
    pub cut: Field<f64>,
    pub slow: Field<f64>,
    pub invalid_json: Field<f64>,
    pub refuse: Field<f64>,
}

/// `models/*.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelFile {
    /// The version of this format; 1.
    pub schema: Field<i64>,
    #[serde(default)]
    pub model: Vec<Spanned<WrittenModel>>,
}

/// `[[model]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenModel {
    /// The canonical name, spelt as the vendor spells it.
    pub id: Field<String>,
    /// Other names for exactly the same thing.
    #[serde(default)]
    pub aliases: Vec<Spanned<String>>,
    /// For people.
    pub name: Field<String>,
    pub family: Field<String>,
    /// Who made it.
    pub organisation: Field<String>,
    /// The day it appeared.
    pub created: Field<Datetime>,
    /// Paths such as `/v1/chat/completions`.
    pub endpoints: Field<Vec<Spanned<String>>>,
    /// Input and output together, in tokens.
    pub context_window: Field<i64>,
    /// In tokens.
    pub max_output_tokens: Field<i64>,
    #[serde(default)]
    pub offering: Vec<Spanned<WrittenOffering>>,
}

/// `[[model.offering]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenOffering {
    /// A provider's id.
    pub provider: Field<String>,
    /// The provider's name for the model; the model's `id` if absent.
    pub upstream: Field<String>,
    /// The day the provider ended it. Such an offering is never routed to.
    pub retired: Field<Datetime>,
    /// Absent if the price is not established.
    pub price: Field<WrittenPrice>,
}

/// `[model.offering.price]`: US dollars as decimal strings, because a TOML float cannot hold money.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPrice {
    /// Per 1,000,000 input tokens.
    pub input: Field<String>,
    /// Per 1,000,000 input tokens from the provider's prompt cache.
    pub cached_input: Field<String>,
    /// Per 1,000,000 output tokens.
    pub output: Field<String>,
    /// Per successful request.
    pub request: Field<String>,
    /// Per generated image.
    pub image: Field<String>,
    /// Where the price is published.
    pub source: Field<String>,
    /// The day the price was last compared with public documentation.
    pub verified_at: Field<Datetime>,
}
