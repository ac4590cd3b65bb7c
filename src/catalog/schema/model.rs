//! `models/*.toml`

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

use super::{Field, ListField, WrittenCapacity, WrittenLimits, WrittenPrivacy, kinds};
use crate::catalog::vocabulary::{HostedTool, Modality, Operation, Plan, Status, Verification};

/// Models, and who serves each of them at which price.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "batchd model seed", extend("required" = ["schema", "model"]))]
pub struct ModelFile {
    /// The version of this format; 1.
    #[schemars(with = "Option<kinds::Version>")]
    pub schema: Field<i64>,
    #[serde(default)]
    #[schemars(with = "Vec<WrittenModel>")]
    pub model: Vec<Spanned<WrittenModel>>,
}

/// `[[model]]`. A fact that is not established is left out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["id", "organisation", "endpoints"]))]
pub struct WrittenModel {
    /// The canonical name, spelt as the vendor spells it.
    #[schemars(with = "Option<kinds::Name>")]
    pub id: Field<String>,
    /// Other names for exactly the same thing. `organisation/id` is accepted by itself.
    #[serde(default)]
    #[schemars(with = "Vec<kinds::Name>")]
    pub aliases: Vec<Spanned<String>>,
    /// For people; the id if absent.
    pub name: Field<String>,
    /// The group of models it belongs to.
    pub family: Field<String>,
    /// Who made it.
    pub organisation: Field<String>,
    /// The day it was released; leave out if not established.
    #[schemars(with = "Option<kinds::Day>")]
    pub released: Field<Datetime>,
    /// The day from which its maker advises against it.
    #[schemars(with = "Option<kinds::Day>")]
    pub deprecated: Field<Datetime>,
    /// The day on which its maker ends it, announced or past.
    #[schemars(with = "Option<kinds::Day>")]
    pub retired: Field<Datetime>,
    /// What a row may ask of it, as paths such as `/v1/chat/completions`.
    #[schemars(with = "Option<Vec<kinds::Path>>")]
    pub endpoints: ListField<String>,
    /// The same in BatchRouter's words; derived from `endpoints` and `input` if absent.
    #[schemars(with = "Option<Vec<Operation>>")]
    pub operations: ListField<String>,
    /// What it reads.
    #[schemars(with = "Option<Vec<Modality>>")]
    pub input: ListField<String>,
    /// What it writes.
    #[schemars(with = "Option<Vec<Modality>>")]
    pub output: ListField<String>,
    /// Input and output together, in tokens.
    #[schemars(with = "Option<kinds::Positive>")]
    pub context_window: Field<i64>,
    /// In tokens, where it is less than the context window.
    #[schemars(with = "Option<kinds::Positive>")]
    pub max_input_tokens: Field<i64>,
    /// In tokens.
    #[schemars(with = "Option<kinds::Positive>")]
    pub max_output_tokens: Field<i64>,
    /// Tools that its provider runs itself.
    #[schemars(with = "Option<Vec<HostedTool>>")]
    pub hosted_tools: ListField<String>,
    /// Where these facts are published.
    #[schemars(with = "Option<kinds::Url>")]
    pub source: Field<String>,
    /// The day they were last compared with the source.
    #[schemars(with = "Option<kinds::Day>")]
    pub verified_at: Field<Datetime>,
    /// Which files it reads; leave out if none.
    pub files: Field<WrittenFiles>,
    /// Who serves it.
    #[serde(default)]
    #[schemars(with = "Vec<WrittenOffering>")]
    pub offering: Vec<Spanned<WrittenOffering>>,
}

/// `[model.files]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["types"]))]
pub struct WrittenFiles {
    /// MIME types; `image/*` stands for all images.
    #[schemars(with = "Option<Vec<kinds::Mime>>")]
    pub types: ListField<String>,
    /// The largest file, in bytes.
    #[schemars(with = "Option<kinds::Positive>")]
    pub max_bytes: Field<i64>,
}

/// `[[model.offering]]`: one provider's service of the model. What is absent is as for the model or the provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["provider"]))]
pub struct WrittenOffering {
    /// A provider's id.
    #[schemars(with = "Option<kinds::Slug>")]
    pub provider: Field<String>,
    /// The provider's name for the model; the model's `id` if absent.
    pub upstream: Field<String>,
    /// `active` if absent. `paused` keeps its rows waiting; `disabled` sends them elsewhere.
    #[schemars(with = "Option<Status>")]
    pub status: Field<String>,
    /// The day the provider ends it, that of the model if absent; it is not routed to from then on.
    #[schemars(with = "Option<kinds::Day>")]
    pub retired: Field<Datetime>,
    #[schemars(with = "Option<Vec<kinds::Path>>")]
    pub endpoints: ListField<String>,
    #[schemars(with = "Option<kinds::Positive>")]
    pub context_window: Field<i64>,
    #[schemars(with = "Option<kinds::Positive>")]
    pub max_output_tokens: Field<i64>,
    #[schemars(with = "Option<Vec<kinds::Slug>>")]
    pub regions: ListField<String>,
    #[schemars(with = "Option<Vec<HostedTool>>")]
    pub hosted_tools: ListField<String>,
    /// What the service can do besides, such as `tools`, `json_schema`, `reasoning`, `prompt_caching`.
    #[schemars(with = "Option<Vec<kinds::Slug>>")]
    pub runtime_capabilities: ListField<String>,
    /// Whether somebody compared this with the provider's own words; `undeclared` if absent.
    #[schemars(with = "Option<Verification>")]
    pub verification: Field<String>,
    pub files: Field<WrittenFiles>,
    pub privacy: Field<WrittenPrivacy>,
    pub limits: Field<WrittenLimits>,
    pub capacity: Field<WrittenCapacity>,
    /// Price lists; none if no price is established.
    #[serde(default)]
    #[schemars(with = "Vec<WrittenPrice>")]
    pub price: Vec<Spanned<WrittenPrice>>,
}

/// `[[model.offering.price]]`: US dollars as decimal strings, because a TOML float cannot hold money.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["source", "verified_at"]))]
pub struct WrittenPrice {
    /// `standard` (if absent) for ordinary calls, `batch` for the provider's own batch API.
    #[schemars(with = "Option<Plan>")]
    pub plan: Field<String>,
    /// The first day of this price; always, if absent.
    #[schemars(with = "Option<kinds::Day>")]
    pub from: Field<Datetime>,
    /// The day from which it holds no more.
    #[schemars(with = "Option<kinds::Day>")]
    pub until: Field<Datetime>,
    /// Per 1,000,000 input tokens.
    #[schemars(with = "Option<kinds::Usd>")]
    pub input: Field<String>,
    /// Per 1,000,000 input tokens from the provider's prompt cache.
    #[schemars(with = "Option<kinds::Usd>")]
    pub cached_input: Field<String>,
    /// Per 1,000,000 tokens written to the prompt cache for five minutes.
    #[schemars(with = "Option<kinds::Usd>")]
    pub cache_write: Field<String>,
    /// Per 1,000,000 tokens written to the prompt cache for an hour.
    #[schemars(with = "Option<kinds::Usd>")]
    pub cache_write_1h: Field<String>,
    /// Per 1,000,000 output tokens.
    #[schemars(with = "Option<kinds::Usd>")]
    pub output: Field<String>,
    /// Per 1,000,000 tokens of images read.
    #[schemars(with = "Option<kinds::Usd>")]
    pub image_input: Field<String>,
    /// Per 1,000,000 tokens of images written.
    #[schemars(with = "Option<kinds::Usd>")]
    pub image_output: Field<String>,
    /// Per 1,000,000 tokens of audio read.
    #[schemars(with = "Option<kinds::Usd>")]
    pub audio_input: Field<String>,
    /// Per 1,000,000 tokens of audio written.
    #[schemars(with = "Option<kinds::Usd>")]
    pub audio_output: Field<String>,
    /// Per 1,000,000 tokens of video read.
    #[schemars(with = "Option<kinds::Usd>")]
    pub video_input: Field<String>,
    /// Per successful request.
    #[schemars(with = "Option<kinds::Usd>")]
    pub request: Field<String>,
    /// Per generated image.
    #[schemars(with = "Option<kinds::Usd>")]
    pub image: Field<String>,
    /// Per second of generated video.
    #[schemars(with = "Option<kinds::Usd>")]
    pub video_second: Field<String>,
    /// Per second of audio read.
    #[schemars(with = "Option<kinds::Usd>")]
    pub audio_second: Field<String>,
    /// Per 1,000,000 characters read.
    #[schemars(with = "Option<kinds::Usd>")]
    pub characters: Field<String>,
    /// Per 1,000 pages read.
    #[schemars(with = "Option<kinds::Usd>")]
    pub page: Field<String>,
    /// Per 1,000 web searches.
    #[schemars(with = "Option<kinds::Usd>")]
    pub web_search: Field<String>,
    /// What the numbers leave out, such as a dearer tier for long inputs.
    pub note: Field<String>,
    /// Where the price is published.
    #[schemars(with = "Option<kinds::Url>")]
    pub source: Field<String>,
    /// The day the price was last compared with the source.
    #[schemars(with = "Option<kinds::Day>")]
    pub verified_at: Field<Datetime>,
}
