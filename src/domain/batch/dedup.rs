//! Equal requests that are made only once: which rows share answers, and what makes two requests
//! equal.
//!
//! Nothing is normalised: two requests are equal if the same server would receive the same bytes
//! under the same path, and the answers would be passed on in the same form. A digest names the
//! request, so a table of digests holds no prompts.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::priority::Owner;
use crate::domain::format::Form;
use crate::domain::id::BatchId;

/// The set of rows among which equal requests are made only once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedup {
    /// Each row makes its own request.
    #[default]
    Off,
    /// The rows of one batch share answers.
    Batch,
    /// The rows of all batches of one owner share answers: of an organisation, whichever of its API
    /// keys made them, or of one of the operator's own keys. Rows of two owners never do: how fast
    /// an answer comes would tell one client what another has asked.
    Key,
}

impl Dedup {
    /// From the narrowest to the widest.
    pub const ALL: [Self; 3] = [Self::Off, Self::Batch, Self::Key];

    /// The word in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Batch => "batch",
            Self::Key => "key",
        }
    }

    /// The scope in which the rows of a batch share answers; `None` if they share none.
    pub fn circle(self, batch: BatchId, owner: Owner) -> Option<DedupScope> {
        match self {
            Self::Off => None,
            Self::Batch => Some(DedupScope::Batch(batch)),
            Self::Key => Some(DedupScope::Owner(owner)),
        }
    }
}

impl fmt::Display for Dedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word names no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `off`, `batch` or `key`")]
pub struct NoDedup;

impl FromStr for Dedup {
    type Err = NoDedup;

    fn from_str(text: &str) -> Result<Self, NoDedup> {
        Self::ALL.into_iter().find(|dedup| dedup.as_str() == text).ok_or(NoDedup)
    }
}

/// The rows that share answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupScope {
    Batch(BatchId),
    Owner(Owner),
}

/// A request within a scope: the first 16 bytes of a SHA-256, enough to rule out collisions by
/// chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestDigest(pub [u8; 16]);

impl RequestDigest {
    /// The digest of a request for the model `upstream` on `server`.
    pub fn of(circle: DedupScope, server: &str, upstream: &str, form: Form, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        match circle {
            DedupScope::Batch(batch) => hash.update([&[1], &batch.as_u128().to_be_bytes()[..]].concat()),
            DedupScope::Owner(owner) => hash.update([&[2], &owner.0.to_be_bytes()[..]].concat()),
        }
        // Each part is hashed with its length, so that no two sequences of parts give the same
        // bytes.
        let said_back = form.is_said_back().then(|| form.asked.path().as_bytes());
        for part in [server.as_bytes(), upstream.as_bytes(), form.sent.endpoint().path().as_bytes(), body].into_iter().chain(said_back) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::endpoint::Endpoint;
    use crate::domain::format::wire::WireFormat;

    #[test]
    fn whatever_differs_makes_another_request() {
        let (one, two) = (DedupScope::Owner(Owner(1)), DedupScope::Batch(BatchId::from_u128(1)));
        let digest = |circle, server, upstream, body: &str| {
            RequestDigest::of(circle, server, upstream, Form::as_asked(Endpoint::Embeddings), body.as_bytes())
        };
        let all = [
            digest(one, "s", "m", "{}"),
            digest(one, "s", "m", "{} "),
            digest(one, "sm", "", "{}"),
            digest(one, "", "sm", "{}"),
            digest(two, "s", "m", "{}"),
            digest(DedupScope::Owner(Owner(2)), "s", "m", "{}"),
            RequestDigest::of(one, "s", "m", Form::as_asked(Endpoint::Responses), b"{}"),
            RequestDigest::of(one, "s", "m", Form::as_asked(Endpoint::ChatCompletions), b"{}"),
            RequestDigest::of(one, "s", "m", Form { asked: Endpoint::Messages, sent: WireFormat::ChatCompletions }, b"{}"),
        ];
        let distinct: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(digest(one, "s", "m", "{}"), all[0]);
    }
}
