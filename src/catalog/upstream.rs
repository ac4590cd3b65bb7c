//! Servers given on the command line instead of in a seed: `URL` or `MODEL=URL`.
//!
//! For the operator of a few local servers, who should need no file. These arguments override the
//! seeds, because the operator wrote them for this run.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use http::Uri;
use sha2::{Digest, Sha256};

use super::model::{Capacity, Limits, Model, Offering, Privacy, Provider};
use super::seeds::Seeds;
use super::url::parse_base_url;
use super::vocabulary::Status;
use crate::catalog::model::DEFAULT_MAX_RESPONSE_BYTES;
use crate::domain::authority::without_passwords;
use crate::domain::provider::body_edits::BodyEdits;
use crate::domain::provider::connection::{Api, Connection, HostAddresses, KeySource, ProviderKind, ServerConnection, Timeouts};
use crate::domain::row::openai::MAX_MODEL_CHARS;
use crate::domain::row::priority::RowPriority;
use crate::domain::text::hex;

/// The environment variable with the key of all upstreams. There is only one. Operators of servers
/// with different keys write seeds for them, so that no server receives the key of another.
pub const UPSTREAM_KEY_ENV: &str = "BATCHD_UPSTREAM_API_KEY";

/// An OpenAI-compatible server, for one model or for all models that no other provider serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The only model that the server serves; `None` for every model that no other provider offers.
    pub model: Option<String>,
    /// Has the form of [`ServerConnection::base_url`].
    pub base_url: Uri,
}

/// Servers given together: those for the same model, and those for all others, share its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams(Vec<Upstream>);

impl Upstreams {
    /// Reads one upstream from each text.
    ///
    /// # Errors
    /// When a text names no upstream.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, UpstreamError> {
        texts.iter().map(|text| text.as_ref().parse()).collect::<Result<Vec<_>, _>>().map(Self)
    }
}

/// Options shared by all servers that are added in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamOptions {
    /// Where the key of all of these servers is found: [`UPSTREAM_KEY_ENV`], or a file.
    pub key: KeySource,
    /// As [`ServerConnection::api_path`].
    pub api_path: Option<String>,
    /// Calls at the same time to each of these servers; found out for each if `None`.
    pub concurrency: Option<u32>,
    pub timeouts: Timeouts,
    /// The largest answer that is read, in bytes.
    pub max_response_bytes: u64,
    /// What becomes of the `priority` of a row.
    pub row_priority: RowPriority,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            key: KeySource::None,
            api_path: None,
            concurrency: None,
            timeouts: Timeouts::default(),
            max_response_bytes: DEFAULT_MAX_RESPONSE_BYTES,
            row_priority: RowPriority::default(),
        }
    }
}

/// Why a text names no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The part after `=`, or the whole text.
    #[error("the URL of an upstream {rule}; write `URL` or `MODEL=URL`, such as `http://localhost:8000`")]
    Url {
        /// The rule, in words that follow the name of the value.
        rule: String,
    },
    /// The path of the API.
    #[error("`upstream_api_path` is {:?}; it {rule}", without_passwords(path))]
    ApiPath { path: String, rule: String },
    /// The part before `=`.
    #[error("the model before `=` must be a name of 1 to {MAX_MODEL_CHARS} characters without line breaks; write `URL` or `MODEL=URL`")]
    Model,
}

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let plain = lower.starts_with("http://") || lower.starts_with("https://");
        // A model's name may hold `=`; the URL starts after the first `=` that a scheme follows.
        let split = ["=http://", "=https://"].iter().filter_map(|mark| lower.find(mark)).min().or_else(|| text.find('='));
        let (model, url) = match split {
            Some(at) if !plain => (Some(&text[..at]), &text[at + 1..]),
            Some(_) | None => (None, text),
        };
        let named = |name: &str| (1..=MAX_MODEL_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control);
        if model.is_some_and(|model| !named(model)) {
            return Err(UpstreamError::Model);
        }
        let base_url = parse_base_url(url).map_err(|rule| UpstreamError::Url { rule })?;
        Ok(Self { model: model.map(str::to_owned), base_url })
    }
}

impl fmt::Display for Upstream {
    /// Formats the upstream as it is written on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.base_url.to_string();
        let url = url.trim_end_matches('/');
        match &self.model {
            Some(model) => write!(f, "{model}={url}"),
            None => f.write_str(url),
        }
    }
}

impl Seeds {
    /// Adds servers: each distinct set of URLs becomes a provider `upstream`, `upstream-2` and so on.
    ///
    /// `MODEL=URL`, once or more often, becomes that model's only offering; the model is created if it
    /// is not known. Plain URLs become the catch-all in place of any that the seeds name. Neither is charged for.
    /// With any server added, there is no stand-in any more.
    #[must_use]
    pub fn with_upstreams(mut self, upstreams: &Upstreams, options: &UpstreamOptions) -> Self {
        let Upstreams(upstreams) = upstreams;
        if upstreams.is_empty() {
            return self;
        }
        // An operator who names a real server does not want simulated answers when its key happens
        // to be missing.
        self.providers.iter_mut().for_each(|provider| provider.stand_in = false);
        let mut digest = Sha256::new();
        digest.update(&self.hash);
        let mut added: Vec<(Vec<&Uri>, String)> = Vec::new();
        for upstream in upstreams {
            digest.update(format!("{upstream}\n"));
        }
        for (model, urls) in by_model(upstreams) {
            let id = match added.iter().find(|(known, _)| *known == urls) {
                Some((_, id)) => id.clone(),
                None => {
                    let id = self.free_provider_id();
                    self.providers.extend(provider(&id, &urls, options));
                    added.push((urls, id.clone()));
                    id
                }
            };
            match model {
                Some(model) => self.serve_only_at(model, &id),
                None => self.providers.iter_mut().for_each(|provider| provider.catch_all = provider.id() == id),
            }
        }
        self.hash = hex(&digest.finalize());
        self
    }

    fn free_provider_id(&self) -> String {
        let taken = |id: &str| self.providers.iter().any(|provider| provider.id() == id);
        let numbered = (2..).map(|number: u32| format!("upstream-{number}"));
        std::iter::once("upstream".to_owned()).chain(numbered).find(|id| !taken(id)).unwrap_or_default()
    }

    fn serve_only_at(&mut self, name: &str, provider: &str) {
        if let Some(model) = self.models.iter_mut().find(|model| model.id == name) {
            model.offerings = vec![Offering::plain(provider, name, model)];
            return;
        }
        // The name is served exactly as it was given, so it is removed from the aliases of other
        // models.
        self.models.iter_mut().for_each(|model| model.aliases.retain(|alias| alias != name));
        let model = Model::unknown(name, provider);
        self.models.push(Model { offerings: vec![Offering::plain(provider, name, &model)], ..model });
    }
}

fn provider(id: &str, urls: &[&Uri], options: &UpstreamOptions) -> Option<Provider> {
    let (base_url, replicas) = urls.split_first()?;
    let connection = ServerConnection {
        api: Api::OpenAi,
        base_url: (*base_url).clone(),
        addresses: HostAddresses::Each,
        api_path: options.api_path.clone(),
        body: BodyEdits::default(),
        timeouts: options.timeouts,
        ca_file: None,
        max_response_bytes: options.max_response_bytes,
        pass_through: Vec::new(),
        row_priority: options.row_priority,
        forward_headers: Vec::new(),
        max_waiting: None,
    };
    Some(Provider {
        // Not the server's address: the name is shown to every client that may see the catalog.
        name: "Server of the operator".to_owned(),
        connection: Connection {
            id: id.to_owned(),
            kind: ProviderKind::Server(connection),
            replicas: replicas.iter().map(|url| (*url).clone()).collect(),
            key: options.key.clone(),
            limits: Limits { in_flight: options.concurrency, ..Limits::default() },
        },
        base_url_env: None,
        is_local: true,
        status: Status::Active,
        catch_all: false,
        stand_in: false,
        documentation_url: None,
        notes: None,
        regions: Vec::new(),
        tool_names: BTreeMap::new(),
        privacy: Privacy::default(),
        capacity: Capacity::default(),
    })
}

/// The servers of each model, and of all others, in the order of their first mention.
fn by_model(upstreams: &[Upstream]) -> Vec<(Option<&str>, Vec<&Uri>)> {
    let mut groups: Vec<(Option<&str>, Vec<&Uri>)> = Vec::new();
    for Upstream { model, base_url } in upstreams {
        match groups.iter_mut().find(|(known, _)| *known == model.as_deref()) {
            Some((_, urls)) if urls.contains(&base_url) => {}
            Some((_, urls)) => urls.push(base_url),
            None => groups.push((model.as_deref(), vec![base_url])),
        }
    }
    groups
}
