//! The operations that a row can ask for: those in OpenAI's `CreateBatchRequest.endpoint`,
//! Anthropic's Messages, those of model servers such as vLLM, and any path that a provider's seed
//! lists.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

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
    /// Orders documents by a query, as Jina and vLLM have it.
    Rerank,
    /// The same, as Cohere has it.
    RerankV2,
    /// How well texts fit each other, as vLLM has it.
    Score,
    /// The tokens of a text, as vLLM has it.
    Tokenize,
    /// The words of a recording, as OpenAI has it. The row names the recording.
    AudioTranscriptions,
    /// The same, in English.
    AudioTranslations,
    /// A path that is sent as it is to providers that list it.
    PassedThrough(PassedPath),
}

impl Endpoint {
    /// Every operation that has a name here: those of OpenAI's batches in the order of its document,
    /// then Anthropic's, then those of model servers, then those that take a file.
    pub const ALL: [Self; 15] = [
        Self::Responses,
        Self::ChatCompletions,
        Self::Embeddings,
        Self::Completions,
        Self::Moderations,
        Self::ImagesGenerations,
        Self::ImagesEdits,
        Self::Videos,
        Self::Messages,
        Self::Rerank,
        Self::RerankV2,
        Self::Score,
        Self::Tokenize,
        Self::AudioTranscriptions,
        Self::AudioTranslations,
    ];
    /// The operations of the batches of hosted services: OpenAI's and Anthropic's.
    pub const HOSTED: [Self; 9] = {
        let [hosted @ .., _, _, _, _, _, _] = Self::ALL;
        hosted
    };

    /// The path below the host of a server, with the version if it has one.
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
            Self::Rerank => "/v1/rerank",
            Self::RerankV2 => "/v2/rerank",
            Self::Score => "/v1/score",
            Self::Tokenize => "/tokenize",
            Self::AudioTranscriptions => "/v1/audio/transcriptions",
            Self::AudioTranslations => "/v1/audio/translations",
            Self::PassedThrough(path) => path.0,
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

    /// The number written in records on disk; never renumber. Paths that are passed through have
    /// none: they are written as they are.
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
            Self::Rerank => 10,
            Self::RerankV2 => 11,
            Self::Score => 12,
            Self::Tokenize => 13,
            Self::AudioTranscriptions => 14,
            Self::AudioTranslations => 15,
            Self::PassedThrough(_) => 0,
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

impl RowEndpoint {
    /// Reads what a batch stores, which may be a path that no seed lists any more.
    ///
    /// # Errors
    /// When the text cannot be a path.
    pub fn stored(text: &str) -> Result<Self, &'static str> {
        text.parse().or_else(|_| PassedPath::list(text).map(|path| Self::One(Endpoint::PassedThrough(path))))
    }
}

impl FromStr for RowEndpoint {
    type Err = UnknownEndpoint;
    fn from_str(text: &str) -> Result<Self, UnknownEndpoint> {
        if text == Self::MIXED { Ok(Self::Mixed) } else { text.parse().map(Self::One) }
    }
}

/// A path that a provider lists to have it passed through.
///
/// There are few of them, and rows are many: each distinct path is kept once, for as long as the
/// process runs, so that it is as cheap to hand around as the named operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PassedPath(&'static str);

impl PassedPath {
    /// The most distinct paths in one process.
    pub const MOST: usize = 1_024;
    /// The most characters of a path.
    pub const MAX_CHARS: usize = 128;

    /// Takes a path that a seed lists, or that a stored batch has.
    ///
    /// # Errors
    /// The rule for the path, in words that follow "it".
    pub fn list(text: &str) -> Result<Self, &'static str> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
        let segments = || text.split('/').skip(1);
        if !text.starts_with('/')
            || text.len() > Self::MAX_CHARS
            || !text.chars().all(is_plain)
            || segments().any(|s| matches!(s, "" | "." | ".."))
        {
            return Err("must be a path such as `/pooling`, of letters, digits, `_`, `-` and `.`");
        }
        if Endpoint::ALL.iter().any(|endpoint| endpoint.path() == text) {
            return Err("is an operation that needs no listing; leave it out");
        }
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = paths.get(text) {
            return Ok(Self(known));
        }
        if paths.len() >= Self::MOST {
            return Err("is one path too many; restart the daemon to forget those that are not listed any more");
        }
        let kept: &'static str = Box::leak(Box::<str>::from(text));
        paths.insert(kept);
        Ok(Self(kept))
    }

    fn find(text: &str) -> Option<Self> {
        PATHS.lock().unwrap_or_else(PoisonError::into_inner).get(text).copied().map(Self)
    }
}

/// Every path that was ever listed in this process.
static PATHS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// A set of operations; paths that are passed through are in none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Endpoints(u32);

impl Endpoints {
    /// Whether the set contains the operation.
    pub const fn contains(self, endpoint: Endpoint) -> bool {
        self.0 & 1 << endpoint.code() & !1 != 0
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
        Self(endpoints.into_iter().fold(0, |set, endpoint| set | 1 << endpoint.code()) & !1)
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
    /// Texts from recordings.
    Audio,
    /// Nothing is known.
    Anything,
}

impl Endpoint {
    /// What the operation is about.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Responses | Self::ChatCompletions | Self::Completions | Self::Messages => Kind::Text,
            // Models that order or score texts are models of vectors, to their servers.
            Self::Embeddings | Self::Rerank | Self::RerankV2 | Self::Score => Kind::Vectors,
            Self::Tokenize | Self::PassedThrough(_) => Kind::Anything,
            Self::Moderations => Kind::Judgements,
            Self::ImagesGenerations | Self::ImagesEdits => Kind::Images,
            Self::Videos => Kind::Videos,
            Self::AudioTranscriptions | Self::AudioTranslations => Kind::Audio,
        }
    }

    /// Whether a request is a form with a recording.
    pub const fn takes_audio(self) -> bool {
        matches!(self.kind(), Kind::Audio)
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
        let named = Self::ALL.into_iter().find(|e| e.path() == text);
        named.or_else(|| PassedPath::find(text).map(Self::PassedThrough)).ok_or(UnknownEndpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_path_is_an_endpoint_and_no_other_path_is() {
        assert!("/listed/here".parse::<Endpoint>().is_err());
        let listed = Endpoint::PassedThrough(PassedPath::list("/listed/here").unwrap());
        assert_eq!("/listed/here".parse(), Ok(listed));
        assert_eq!((listed.path(), PassedPath::list("/listed/here")), ("/listed/here", Ok(PassedPath("/listed/here"))));
        assert_eq!(RowEndpoint::stored("/stored"), Ok(RowEndpoint::One("/stored".parse().unwrap())));
        for bad in ["", "listed", "/", "/a//b", "/a/../b", "/a?b", "/a b", "/é", "/v1/embeddings", &format!("/{}", "x".repeat(200))] {
            assert!(PassedPath::list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let listed = Endpoint::PassedThrough(PassedPath::list("/in/no/set").unwrap());
        let set: Endpoints = [Endpoint::Tokenize, Endpoint::Responses, listed].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Endpoint::Responses, Endpoint::Tokenize]);
        assert!(!set.contains(listed) && !set.is_empty() && [listed].into_iter().collect::<Endpoints>().is_empty());
        let all: Endpoints = Endpoint::ALL.into_iter().collect();
        assert_eq!(all.iter().count(), Endpoint::ALL.len());
    }
}
