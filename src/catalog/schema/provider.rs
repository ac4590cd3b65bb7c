//! `providers/<id>.toml`

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{Field, ListField, WrittenCapacity, WrittenLimits, WrittenPrivacy, kinds};
use crate::catalog::vocabulary::{Kind, Status};

/// A provider of models: who answers, where, under which terms.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "batchd provider seed", extend("required" = ["schema", "id", "name", "kind"]))]
pub struct ProviderFile {
    /// The version of this format; 1.
    #[schemars(with = "Option<kinds::Version>")]
    pub schema: Field<i64>,
    /// The same as the file's name.
    #[schemars(with = "Option<kinds::Slug>")]
    pub id: Field<String>,
    /// For people.
    pub name: Field<String>,
    /// `openai` for every server with OpenAI's API, `anthropic` for one with Anthropic's, or `simulated`.
    #[schemars(with = "Option<Kind>")]
    pub kind: Field<String>,
    /// `active` if absent. `paused` keeps its rows waiting; `disabled` sends them elsewhere.
    #[schemars(with = "Option<Status>")]
    pub status: Field<String>,
    /// Takes every model that no other provider is known to offer.
    pub catch_all: Field<bool>,
    /// Where its API is documented.
    #[schemars(with = "Option<kinds::Url>")]
    pub documentation_url: Field<String>,
    /// A sentence for the users of the provider.
    pub notes: Field<String>,
    /// Where requests are processed, such as `us` or `eu`. Leave out if not established.
    #[schemars(with = "Option<Vec<kinds::Slug>>")]
    pub regions: ListField<String>,
    /// `openai`: what it calls the tools that it runs itself, such as `web_search = "browser_search"`; OpenAI's names if absent.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub tools: BTreeMap<Spanned<String>, Spanned<String>>,
    pub privacy: Field<WrittenPrivacy>,
    pub limits: Field<WrittenLimits>,
    pub capacity: Field<WrittenCapacity>,

    /// `openai`: where the server is. Without a path, operations are below `/v1`; otherwise directly below its path.
    #[schemars(with = "Option<kinds::Url>")]
    pub base_url: Field<String>,
    /// `openai`: in place of `base_url`, several servers that have the same models and take the same key. Rows go where there is room; `limits` hold for each.
    #[schemars(with = "Option<Vec<kinds::Url>>")]
    pub base_urls: ListField<String>,
    /// `openai`: what all operations have in common below `base_url`; `/v1` if `base_url` has no path. Empty for a server whose operations are at its root.
    pub api_path: Field<String>,
    /// `openai`: members of each row's body that the operator decides, whatever the row says.
    pub body: Field<WrittenBody>,
    /// `openai`: the environment variable whose URL, or URLs with commas between them, take the place of `base_url`. While it is not set, the provider is not used.
    #[schemars(with = "Option<kinds::Variable>")]
    pub base_url_env: Field<String>,
    /// `openai`: the server is the operator's own: it is asked whether it is there, its prompts that begin alike go out together, and a cancel cuts its calls at once. `false` if absent; always `true` with `base_url_env`.
    pub local: Field<bool>,
    /// `openai`: behind each address of the host's name is a server of its own, as behind each of `base_urls`. As `local` if absent.
    pub spread_addresses: Field<bool>,
    /// `openai`: calls that may wait in each server, of all its clients, for more calls to go there. For servers that say how many wait, at `/metrics`; no bound if absent.
    #[schemars(with = "Option<kinds::Positive>")]
    pub max_waiting: Field<i64>,
    /// `openai`: the environment variable that holds the key, never the key itself.
    #[schemars(with = "Option<kinds::Variable>")]
    pub api_key_env: Field<String>,
    /// `openai`: the file that holds the key.
    pub api_key_file: Field<String>,
    /// `openai`: PEM certificates to trust besides the system's.
    pub ca_file: Field<String>,
    /// `openai`: paths below its host to which rows may be sent as they are, such as `/pooling`.
    #[schemars(with = "Option<Vec<kinds::PassedThrough>>")]
    pub pass_through: ListField<String>,
    /// `openai`: what becomes of the `priority` of a row's body: `strip` if absent, `allow`, or a number that every row gets.
    #[schemars(with = "Option<kinds::RowPriority>")]
    pub row_priority: Field<String>,
    /// `openai`: headers of a client's create that go along with the rows, such as `traceparent`.
    #[schemars(with = "Option<Vec<kinds::Header>>")]
    pub forward_headers: ListField<String>,
    /// `openai`: the largest answer to read, in bytes; 64 MiB if absent.
    #[schemars(with = "Option<kinds::Positive>")]
    pub max_response_bytes: Field<i64>,
    /// `openai`
    pub timeouts: Field<WrittenTimeouts>,

    /// `simulated`: serves known models as long as no real provider is usable.
    pub stand_in: Field<bool>,
    /// `simulated`
    pub profile: Field<WrittenProfile>,
    /// `simulated`: what differs from `profile`, by upstream model name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, WrittenProfile>")]
    pub models: BTreeMap<Spanned<String>, WrittenProfile>,
}

/// `[body]`: members of each row's body.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenBody {
    /// Members that are set, such as `priority = 100`.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub set: Field<toml::Table>,
    /// Members that are left out.
    #[schemars(with = "Option<Vec<String>>")]
    pub drop: ListField<String>,
}

/// `[timeouts]`, as durations such as `"10s"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenTimeouts {
    /// Until the connection, TLS included, stands; 10 seconds if absent.
    #[schemars(with = "Option<kinds::Length>")]
    pub connect: Field<String>,
    /// From then until the first byte of the answer's head; 10 minutes if absent.
    #[schemars(with = "Option<kinds::Length>")]
    pub first_byte: Field<String>,
    /// The whole call; 15 minutes if absent.
    #[schemars(with = "Option<kinds::Length>")]
    pub total: Field<String>,
}

/// `[profile]` and `[models."name"]` of the simulated provider.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenProfile {
    /// The median time to answer, such as `"120ms"`.
    #[schemars(with = "Option<kinds::Length>")]
    pub latency: Field<String>,
    /// Ratio of the 95th percentile to the median, 1.0 to 100.0.
    pub spread: Field<f64>,
    pub faults: Field<WrittenFaults>,
}

/// `[profile.faults]`: shares of calls, `0.0` to `1.0`, together at most `1.0`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenFaults {
    /// Answers 500.
    #[schemars(with = "Option<kinds::Share>")]
    pub error: Field<f64>,
    /// Answers 429 with `Retry-After`.
    #[schemars(with = "Option<kinds::Share>")]
    pub rate_limit: Field<f64>,
    /// Breaks the connection before the answer is complete.
    #[schemars(with = "Option<kinds::Share>")]
    pub cut: Field<f64>,
    /// Sends the body very slowly.
    #[schemars(with = "Option<kinds::Share>")]
    pub slow: Field<f64>,
    /// Answers 200 with a body that is not JSON.
    #[schemars(with = "Option<kinds::Share>")]
    pub invalid_json: Field<f64>,
    /// Answers 400, for good.
    #[schemars(with = "Option<kinds::Share>")]
    pub refuse: Field<f64>,
}
