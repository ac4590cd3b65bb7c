//! How to reach a provider, checked and ready to use. Written by `catalog`, used by `provider`.
//!
//! This module holds no secret: a connection names the place of its key, and the daemon reads the
//! key.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::body_edits::BodyEdits;
use crate::domain::endpoint::PassedPath;
use crate::domain::row::priority::RowPriority;

/// Where a provider's key is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The provider needs no key.
    None,
    /// An environment variable.
    Env(String),
    /// A file that holds nothing but the key, such as a systemd credential.
    File(PathBuf),
}

/// Time limits of one upstream call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection is established, TLS included.
    pub connect: Duration,
    /// From then until the first byte of the response head.
    pub first_byte: Duration,
    /// The whole call.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), first_byte: Duration::from_secs(600), total: Duration::from_secs(900) }
    }
}

/// Which API a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's API, or an API that imitates it.
    OpenAi,
    /// Anthropic's Messages API, and its compatibility layer for OpenAI's Chat Completions.
    Anthropic,
}

/// Where connections to the host of a URL go, if the host is a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum HostAddresses {
    /// To whichever of its addresses answers first.
    #[default]
    Any,
    /// Behind each of its addresses is a server of its own.
    Each,
    /// To this one.
    One(IpAddr),
}

/// A server that is called over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConnection {
    pub api: Api,
    /// Absolute `http` or `https` URL without query or fragment and without a trailing slash.
    pub base_url: http::Uri,
    /// Where connections to the host of `base_url` go.
    pub addresses: HostAddresses,
    /// The path below `base_url` that all operations have in common, without a trailing slash.
    /// `None`: `/v1` if `base_url` has no path, and none if it has one.
    pub api_path: Option<String>,
    pub body: BodyEdits,
    pub timeouts: Timeouts,
    /// A PEM file of certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The largest response that is read, in bytes.
    pub max_response_bytes: u64,
    /// Paths below the host to which rows are sent as they are.
    pub pass_through: Vec<PassedPath>,
    /// What becomes of the `priority` of a row.
    pub row_priority: RowPriority,
    /// Headers of a create that go along, in lower case.
    pub forward_headers: Vec<String>,
    /// Calls that may wait in the server, of all its clients, for more calls to go there; at least 1.
    pub max_waiting: Option<u32>,
}

/// How the built-in provider behaves for a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulatedProfile {
    /// Median time to answer.
    pub latency: Duration,
    /// Ratio of the 95th percentile to the median, at least 1 (log-normal distribution).
    pub spread: f64,
    /// Shares of first attempts that meet a fault, each in `0.0..=1.0`, together at most 1.
    pub faults: SimulatedFaults,
}

/// Shares of calls that the simulated provider disturbs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SimulatedFaults {
    /// Answers 500.
    pub error: f64,
    /// Answers 429 with `Retry-After`.
    pub rate_limit: f64,
    /// Breaks the connection before the answer is complete.
    pub cut: f64,
    /// Sends the body very slowly (ten times the latency).
    pub slow: f64,
    /// Answers 200 with a body that is not JSON.
    pub invalid_json: f64,
    /// Answers 400, on every attempt.
    pub refuse: f64,
}

impl Default for SimulatedProfile {
    fn default() -> Self {
        Self { latency: Duration::from_millis(120), spread: 2.0, faults: SimulatedFaults::default() }
    }
}

/// The kind of a provider, with the settings that the kind needs.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each provider, and nearly all are servers")]
pub enum ProviderKind {
    Server(ServerConnection),
    /// Profiles by upstream model name, and a default for every other model.
    Simulated {
        default: SimulatedProfile,
        models: Vec<(String, SimulatedProfile)>,
    },
}

impl ProviderKind {
    /// Whether rows may be sent to this path as they are.
    pub fn passes(&self, path: PassedPath) -> bool {
        match self {
            Self::Server(server) => server.pass_through.contains(&path),
            Self::Simulated { .. } => false,
        }
    }

    /// Calls that may wait in the server, if somebody has said so.
    pub fn max_waiting(&self) -> Option<u32> {
        match self {
            Self::Server(server) => server.max_waiting,
            Self::Simulated { .. } => None,
        }
    }

    /// What becomes of the `priority` of a row.
    pub fn row_priority(&self) -> RowPriority {
        match self {
            Self::Server(server) => server.row_priority,
            Self::Simulated { .. } => RowPriority::Allow,
        }
    }

    /// The headers of a create that go along, in lower case.
    pub fn forward_headers(&self) -> &[String] {
        match self {
            Self::Server(server) => &server.forward_headers,
            Self::Simulated { .. } => &[],
        }
    }

    /// Whether the provider is known to serve Anthropic's Messages for every model.
    pub fn has_messages(&self) -> bool {
        match self {
            Self::Server(server) => server.api == Api::Anthropic,
            Self::Simulated { .. } => true,
        }
    }
}

/// The load that a provider, or one of its offerings, accepts. A missing number means no such
/// limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent calls, at least 1.
    pub in_flight: Option<u32>,
    /// Calls that may begin in a minute, at least 1.
    pub requests_per_minute: Option<u32>,
    /// Tokens of the calls in a minute, read and written; at least 1.
    pub tokens_per_minute: Option<u64>,
}

/// A provider as the executor needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// The provider's id in the catalog.
    pub id: String,
    pub kind: ProviderKind,
    /// Further servers with the same API, models and key, by the base URL alone. Empty for the
    /// simulated provider.
    pub replicas: Vec<http::Uri>,
    pub key: KeySource,
    /// What each server accepts.
    pub limits: Limits,
}

impl Connection {
    /// A connection to each of the provider's servers.
    pub fn servers(&self) -> impl Iterator<Item = Self> + '_ {
        let replica = |base_url: &http::Uri| match &self.kind {
            ProviderKind::Server(server) => ProviderKind::Server(ServerConnection { base_url: base_url.clone(), ..server.clone() }),
            simulated @ ProviderKind::Simulated { .. } => simulated.clone(),
        };
        let kinds = std::iter::once(self.kind.clone()).chain(self.replicas.iter().map(replica));
        kinds.map(|kind| Self { kind, replicas: Vec::new(), ..self.clone() })
    }
}
