//! The operations that a row can ask for: those in OpenAI's `CreateBatchRequest.endpoint`, and
//! Anthropic's Messages, which Phaseo's batches offer in addition.

use std::fmt;
use std::str::FromStr;

/// An operation, named by the path that serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    Responses,
    ChatCompletions,
    Completions,
    Embeddings,
    Moderations,
    ImagesGenerations,
    ImagesEdits,
    Videos,
    /// Anthropic's operation.
    Messages,
}

impl Endpoint {
    /// Every operation: those of OpenAI's batches in the order of its document, then Anthropic's.
    pub const ALL: [Self; 9] = [
        Self::Responses,
        Self::ChatCompletions,
        Self::Embeddings,
        Self::Completions,
        Self::Moderations,
        Self::ImagesGenerations,
        Self::ImagesEdits,
        Self::Videos,
        Self::Messages,
    ];
    /// The operations of OpenAI's batches.
    pub const OPENAI: [Self; 8] = {
        let [openais @ .., _] = Self::ALL;
        openais
    };

    /// The path, with the leading `/v1`.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Responses => "/v1/responses",
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Moderations => "/v1/moderations",
            Self::ImagesGenerations => "/v1/images/generations",
            Self::ImagesEdits => "/v1/images/edits",
            Self::Videos => "/v1/videos",
            Self::Messages => "/v1/messages",
        }
    }

    /// The path below the API's version, for a base URL that already ends in one.
    pub fn tail(self) -> &'static str {
        self.path().strip_prefix("/v1").unwrap_or(self.path())
    }

    /// These paths as a sentence fragment for error messages about what is legal.
    pub fn choices(legal: &[Self]) -> String {
        let paths: Vec<String> = legal.iter().map(|e| format!("`{e}`")).collect();
        paths.join(", ")
    }

    /// The number written in records on disk; never renumber.
    pub const fn code(self) -> u8 {
        match self {
            Self::Responses => 1,
            Self::ChatCompletions => 2,
            Self::Completions => 3,
            Self::Embeddings => 4,
            Self::Moderations => 5,
            Self::ImagesGenerations => 6,
            Self::ImagesEdits => 7,
            Self::Videos => 8,
            Self::Messages => 9,
        }
    }

    /// The operation that has this number on disk.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.code() == code)
    }
}

/// What the rows of a batch in OpenAI's format ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowEndpoint {
    /// Every row asks the same.
    One(Endpoint),
    /// Each row says it in its `url`.
    Mixed,
}

impl RowEndpoint {
    /// The word for [`Self::Mixed`], where a path would name the one endpoint.
    pub const MIXED: &str = "mixed";

    /// The path of the endpoint, or the word for several.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::One(endpoint) => endpoint.path(),
            Self::Mixed => Self::MIXED,
        }
    }

    /// The one endpoint of the rows; `None` if each row says it.
    pub const fn one(self) -> Option<Endpoint> {
        match self {
            Self::One(endpoint) => Some(endpoint),
            Self::Mixed => None,
        }
    }
}

impl FromStr for RowEndpoint {
    type Err = UnknownEndpoint;
    fn from_str(text: &str) -> Result<Self, UnknownEndpoint> {
        if text == Self::MIXED { Ok(Self::Mixed) } else { text.parse().map(Self::One) }
    }
}

/// A set of operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Endpoints(u16);

impl Endpoints {
    /// Whether the set contains the operation.
    pub const fn contains(self, endpoint: Endpoint) -> bool {
        self.0 & 1 << endpoint.code() != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Iterates over the operations in the set.
    pub fn iter(self) -> impl Iterator<Item = Endpoint> {
        Endpoint::ALL.into_iter().filter(move |endpoint| self.contains(*endpoint))
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Self {
        Self(endpoints.into_iter().fold(0, |set, endpoint| set | 1 << endpoint.code()))
    }
}

/// What an operation is about. Servers that serve one operation of a kind for a model often serve
/// the others too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Vectors,
    Judgements,
    Images,
    Videos,
}

impl Endpoint {
    /// What the operation is about.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Responses | Self::ChatCompletions | Self::Completions | Self::Messages => Kind::Text,
            Self::Embeddings => Kind::Vectors,
            Self::Moderations => Kind::Judgements,
            Self::ImagesGenerations | Self::ImagesEdits => Kind::Images,
            Self::Videos => Kind::Videos,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

/// A path that no batch can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an operation that a batch can run")]
pub struct UnknownEndpoint;

impl FromStr for Endpoint {
    type Err = UnknownEndpoint;
    fn from_str(text: &str) -> Result<Self, UnknownEndpoint> {
        Self::ALL.into_iter().find(|e| e.path() == text).ok_or(UnknownEndpoint)
    }
}
