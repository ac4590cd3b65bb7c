//! Organisations and their API keys.

use super::id::{KeyId, OrgId};
use super::time::Timestamp;
use super::webhook::Webhook;

/// Somebody to whom keys, files, quotes and batches belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    pub id: OrgId,
    /// For people.
    pub name: String,
    pub created_at: Timestamp,
    /// Who is told when one of its batches has ended, unless the batch names somebody else.
    pub webhook: Option<Webhook>,
}

/// An API key without its secret, which nobody knows but its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    pub org: OrgId,
    /// For people.
    pub name: Option<String>,
    pub created_at: Timestamp,
    /// From then on it opens nothing.
    pub expires_at: Option<Timestamp>,
    /// Since then it opens nothing.
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it opens anything at that moment.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }
}
