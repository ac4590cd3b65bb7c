//! Organisations and their API keys.

pub mod budget;
pub mod ledger;
pub mod quotas;
pub mod scopes;

use self::quotas::Quotas;
use self::scopes::Scopes;
use super::id::{KeyId, OrgId};
use super::time::Timestamp;
use super::webhook::Webhook;

/// The owner of keys, files, quotes and batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    pub id: OrgId,
    /// A name for people.
    pub name: String,
    pub created_at: Timestamp,
    /// The receiver of messages when one of its batches has ended, unless the batch names another
    /// receiver.
    pub webhook: Option<Webhook>,
    /// `None` as long as it is open.
    pub closure: Option<Closure>,
    /// The operator's own organisation has none.
    pub quotas: Quotas,
}

/// The end of an organisation: since then none of its keys is accepted, and its batches are
/// cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closure {
    pub at: Timestamp,
    /// Whether its files and batches are erased, or kept for the operator to read.
    pub erases: bool,
}

impl Organisation {
    /// A new organisation without a receiver.
    pub fn new(name: String, now: Timestamp) -> Self {
        Self { id: OrgId::generate(now), name, created_at: now, webhook: None, closure: None, quotas: Quotas::NONE }
    }
}

/// The purpose of a key; the format of its secret follows from the purpose. Keys of one
/// organisation, whatever their kind, reach the same files and batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// For clients of OpenAI's API.
    OpenAi,
    /// For clients of BatchRouter's API.
    BatchRouter,
    /// For clients of Phaseo's API, as far as they run batches.
    PhaseoInference,
    /// For managing the receivers of webhooks in Phaseo's API. The key permits nothing else.
    PhaseoManagement,
}

impl KeyKind {
    pub const ALL: [Self; 4] = [Self::OpenAi, Self::BatchRouter, Self::PhaseoInference, Self::PhaseoManagement];
    /// The dialects that [`Self::of`] accepts.
    pub const DIALECTS: [&str; 3] = ["openai", "phaseo", "batchrouter"];

    /// The kind for clients of a dialect.
    ///
    /// # Errors
    /// When there is no such kind: for an unknown dialect, and for management in a dialect without
    /// it.
    pub fn of(dialect: &str, management: bool) -> Result<Self, NoKind> {
        if !Self::DIALECTS.contains(&dialect) {
            return Err(NoKind::Dialect);
        }
        let wanted = |kind: &Self| kind.dialect() == dialect && kind.is_management() == management;
        Self::ALL.into_iter().find(wanted).ok_or(NoKind::Management)
    }

    /// The word for the dialect on the wire.
    pub const fn dialect(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::BatchRouter => "batchrouter",
            Self::PhaseoInference | Self::PhaseoManagement => "phaseo",
        }
    }

    /// Whether the key is for management alone. On the wire, this is a separate field beside the
    /// dialect.
    pub const fn is_management(self) -> bool {
        matches!(self, Self::PhaseoManagement)
    }

    /// The number of the kind on disk. Never changes.
    pub const fn code(self) -> u8 {
        match self {
            Self::OpenAi => 0,
            Self::BatchRouter => 1,
            Self::PhaseoInference => 2,
            Self::PhaseoManagement => 3,
        }
    }

    /// The kind that has this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Why there is no such kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKind {
    #[error("must be `openai`, `phaseo` or `batchrouter`")]
    Dialect,
    #[error("is for keys of the dialect `phaseo` alone")]
    Management,
}

/// Whether a key is accepted, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    Active,
    Expired,
    /// Revoked, even if the key would also have expired since.
    Revoked,
}

impl KeyState {
    /// The word for the state on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// An API key without its secret, which only the key's holder knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    pub org: OrgId,
    pub kind: KeyKind,
    pub scopes: Scopes,
    /// A name for people.
    pub name: Option<String>,
    pub created_at: Timestamp,
    /// From this moment on the key is not accepted.
    pub expires_at: Option<Timestamp>,
    /// Since this moment the key is not accepted.
    pub revoked_at: Option<Timestamp>,
    /// Of [`quotas::Limit::OF_KEYS`] alone.
    pub quotas: Quotas,
}

impl ApiKey {
    /// The state of the key at that moment.
    pub fn state(&self, now: Timestamp) -> KeyState {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(at)) if at <= now => KeyState::Expired,
            (None, Some(_) | None) => KeyState::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_words_and_its_number() {
        for kind in KeyKind::ALL {
            assert_eq!(KeyKind::of(kind.dialect(), kind.is_management()), Ok(kind));
            assert_eq!(KeyKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(KeyKind::from_code(4), None);
        assert_eq!(KeyKind::of("openai", true), Err(NoKind::Management));
        assert_eq!(KeyKind::of("open-ai", false), Err(NoKind::Dialect));
    }
}
