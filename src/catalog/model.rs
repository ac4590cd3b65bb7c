//! Providers, models and offerings after the check: the form that circulates.
//!
//! A fact that has not been established is `None` or empty, never a default that looks like a fact.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::rates::Rates;
use super::vocabulary::{DataCollection, HostedTool, Modality, Operation, Status, Verification};
use crate::catalog::evidence::Evidence;
use crate::domain::endpoint::Endpoint;
use crate::domain::provider::connection::{Connection, KeySource, ProviderKind};

/// A provider: a server that answers requests, or the simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    /// The name for people.
    pub name: String,
    /// How to reach the provider, with its id.
    pub connection: Connection,
    /// The environment variable whose URL replaces the URL of the connection. While the variable is
    /// not set, the operator has not stated where the server is.
    pub base_url_env: Option<String>,
    /// The server is the operator's own: the operator states where it is, by that variable or on the
    /// command line, or its seed says so.
    pub is_local: bool,
    /// Never [`Status::Deprecated`].
    pub status: Status,
    /// Takes every model that no other provider is known to offer.
    pub catch_all: bool,
    /// Serves known models as long as no real provider is usable. Only a simulated provider may.
    pub stand_in: bool,
    pub documentation_url: Option<String>,
    /// A sentence for users of the provider.
    pub notes: Option<String>,
    /// Where requests are processed.
    pub regions: Vec<String>,
    /// The provider's names for the tools that it runs itself, where they differ from OpenAI's.
    pub tool_names: BTreeMap<HostedTool, String>,
    pub privacy: Privacy,
    pub capacity: Capacity,
}

impl Provider {
    /// The id, unique in a snapshot.
    pub fn id(&self) -> &str {
        &self.connection.id
    }

    /// `true` if the answers come from a model, not from the simulation.
    pub fn is_real(&self) -> bool {
        match self.connection.kind {
            ProviderKind::Server(_) => true,
            ProviderKind::Simulated { .. } => false,
        }
    }

    /// Whether this is a server with Anthropic's Messages.
    pub fn has_messages(&self) -> bool {
        self.is_real() && self.connection.kind.has_messages()
    }

    /// What the operator can do to make the provider usable.
    pub fn remedy(&self) -> String {
        if self.status == Status::Disabled {
            return "disabled in its seed".to_owned();
        }
        let url = self.base_url_env.as_ref().map(|name| format!("set {name} to its URL"));
        let key = match &self.connection.key {
            KeySource::None => None,
            KeySource::Env(name) => Some(format!("set {name}")),
            KeySource::File(path) => Some(format!("put its key in {}", path.display())),
        };
        match (url, key) {
            (None, None) => "needs no key".to_owned(),
            (Some(only), None) | (None, Some(only)) => only,
            (Some(url), Some(key)) => format!("{url} and {key}"),
        }
    }
}

/// How a provider treats the data that it receives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privacy {
    /// Days; 0 if the provider keeps nothing.
    pub retention_days: Option<u32>,
    /// Zero data retention is available.
    pub zdr: Option<bool>,
    pub data_collection: Option<DataCollection>,
    /// Inputs may be used for training.
    pub training_use: Option<bool>,
    /// Privacy tiers that are satisfied.
    pub tiers: Vec<String>,
    pub terms_url: Option<String>,
    pub evidence: Option<Evidence>,
}

impl Privacy {
    /// These facts, with gaps filled from `base`.
    pub(super) fn or(self, base: &Self) -> Self {
        Self {
            retention_days: self.retention_days.or(base.retention_days),
            zdr: self.zdr.or(base.zdr),
            data_collection: self.data_collection.or(base.data_collection),
            training_use: self.training_use.or(base.training_use),
            tiers: if self.tiers.is_empty() { base.tiers.clone() } else { self.tiers },
            terms_url: self.terms_url.or_else(|| base.terms_url.clone()),
            evidence: self.evidence.or_else(|| base.evidence.clone()),
        }
    }
}

/// How much may wait for an offering before the offering counts as full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Rows.
    pub queue_items: u64,
    /// Tokens to be read.
    pub queue_tokens: u64,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { queue_items: 10_000_000, queue_tokens: 1_000_000_000_000 }
    }
}

/// The files that a model reads besides text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// MIME types, at least one; `image/*` stands for all images.
    pub types: Vec<String>,
    /// The largest file, in bytes.
    pub max_bytes: Option<u64>,
}

impl Files {
    /// Whether a file of this media type and length is read.
    pub fn takes(&self, mime: &str, bytes: u64) -> bool {
        let matches = |accepted: &String| match accepted.strip_suffix("/*") {
            Some(kind) => mime.split_once('/').is_some_and(|(own, _)| own == kind),
            None => accepted == mime,
        };
        self.types.iter().any(matches) && self.max_bytes.is_none_or(|most| bytes <= most)
    }
}

/// A model that the catalog knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The canonical name, spelt as its vendor spells it.
    pub id: String,
    /// Other names for exactly the same thing.
    pub aliases: Vec<String>,
    /// The name for people.
    pub name: String,
    /// The group of models that this model belongs to, if any.
    pub family: Option<String>,
    /// The organisation that made the model.
    pub organisation: String,
    /// The day the model was released, if known.
    pub released: Option<Date>,
    /// The day from which the maker advises against the model.
    pub deprecated: Option<Date>,
    /// The day on which the maker ends the model.
    pub retired: Option<Date>,
    /// The operations that the model serves. Empty if not known.
    pub endpoints: Vec<Endpoint>,
    /// The same operations in BatchRouter's words.
    pub operations: Vec<Operation>,
    pub input: Vec<Modality>,
    pub output: Vec<Modality>,
    /// Input and output together, in tokens.
    pub context_window: Option<u64>,
    /// In tokens.
    pub max_input_tokens: Option<u64>,
    /// In tokens.
    pub max_output_tokens: Option<u64>,
    pub files: Option<Files>,
    pub hosted_tools: Vec<HostedTool>,
    /// Where these facts come from.
    pub evidence: Option<Evidence>,
    /// The offerings of the model, in the order of the file.
    pub offerings: Vec<Offering>,
}

impl Model {
    /// A model of which only the name is known.
    pub(super) fn unknown(id: &str, organisation: &str) -> Self {
        Self {
            id: id.to_owned(),
            aliases: Vec::new(),
            name: id.to_owned(),
            family: None,
            organisation: organisation.to_owned(),
            released: None,
            deprecated: None,
            retired: None,
            endpoints: Vec::new(),
            operations: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
            context_window: None,
            max_input_tokens: None,
            max_output_tokens: None,
            files: None,
            hosted_tools: Vec::new(),
            evidence: None,
            offerings: Vec::new(),
        }
    }

    /// `organisation/id`, the name in Phaseo's API: the organisation in lower case with dashes. An
    /// id that contains an organisation already is used as it is.
    pub fn qualified(&self) -> String {
        if self.id.contains('/') {
            return self.id.clone();
        }
        let words = self.organisation.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let organisation = words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
        format!("{organisation}/{}", self.id)
    }
}

/// One provider's service of one model, with all values inherited from the two filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Offering {
    /// A provider's id.
    pub provider: String,
    /// The provider's own name for the model.
    pub upstream: String,
    pub status: Status,
    /// The day the provider ends the offering; no rows are routed to it from then on.
    pub retired: Option<Date>,
    /// Empty if not known.
    pub endpoints: Vec<Endpoint>,
    pub context_window: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub regions: Vec<String>,
    pub privacy: Privacy,
    pub hosted_tools: Vec<HostedTool>,
    pub runtime_capabilities: Vec<String>,
    pub files: Option<Files>,
    pub verification: Verification,
    pub limits: Limits,
    pub capacity: Capacity,
    pub rates: Rates,
}

impl Offering {
    /// An offering of `model` of which only the provider is known.
    pub(super) fn plain(provider: &str, upstream: &str, model: &Model) -> Self {
        Self {
            provider: provider.to_owned(),
            upstream: upstream.to_owned(),
            status: Status::Active,
            retired: None,
            endpoints: model.endpoints.clone(),
            context_window: model.context_window,
            max_output_tokens: model.max_output_tokens,
            regions: Vec::new(),
            privacy: Privacy::default(),
            hosted_tools: Vec::new(),
            runtime_capabilities: Vec::new(),
            files: model.files.clone(),
            verification: Verification::Undeclared,
            limits: Limits::default(),
            capacity: Capacity::default(),
            rates: Rates::default(),
        }
    }

    /// Whether the provider has ended the offering by that day.
    pub fn has_ended(&self, today: Date) -> bool {
        self.retired.is_some_and(|day| day <= today)
    }

    /// Whether rows may be planned for the offering, as far as its own listing goes.
    pub fn is_open(&self, today: Date) -> bool {
        match self.status {
            Status::Active | Status::Paused | Status::Deprecated => !self.has_ended(today),
            Status::Disabled => false,
        }
    }
}

pub use crate::domain::provider::connection::Limits;

/// Calls at the same time to a hosted provider whose seed states no number.
pub const DEFAULT_CONCURRENCY: u32 = 64;

/// The largest answer, in bytes, of a provider whose seed states no number.
pub const DEFAULT_MAX_RESPONSE_BYTES: u64 = 64 << 20;
