//! Organisations and the keys of their clients: making, listing, revoking. A secret is shown once
//! and never kept; only its SHA-256 is kept.

use rust_decimal::Decimal;
use sha2::{Digest, Sha256};

use super::key_secret;
use crate::domain::id::{KeyId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Account, Credits};
use crate::domain::org::quotas::Quotas;
use crate::domain::org::scopes::Scopes;
use crate::domain::org::{ApiKey, KeyKind, Organisation};
use crate::domain::time::Timestamp;
use crate::service::{Service, ServiceError};
use crate::store::{Added, MAX_KEYS, Revoked};

/// A key that was just made.
pub struct NewKey {
    pub key: ApiKey,
    pub secret: String,
    /// SHA-256 of the secret.
    digest: [u8; 32],
}

/// What a key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOrder {
    pub kind: KeyKind,
    pub scopes: Scopes,
    /// A name for people.
    pub name: Option<String>,
    pub expires_at: Option<Timestamp>,
}

impl KeyOrder {
    /// The first key of an organisation, for clients of BatchRouter's API.
    pub const fn first() -> Self {
        Self { kind: KeyKind::BatchRouter, scopes: Scopes::ALL, name: None, expires_at: None }
    }
}

impl NewKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub fn generate(org: OrgId, order: KeyOrder, now: Timestamp) -> Result<Self, ServiceError> {
        let KeyOrder { kind, scopes, name, expires_at } = order;
        let secret = key_secret::generate(kind).map_err(|_| ServiceError::internal("the machine has no random numbers"))?;
        let digest = Sha256::digest(&secret).into();
        let key = ApiKey {
            id: KeyId::generate(now),
            org,
            kind,
            scopes,
            name,
            created_at: now,
            expires_at,
            revoked_at: None,
            quotas: Quotas::NONE,
        };
        Ok(Self { key, secret, digest })
    }
}

impl Service {
    /// Keeps a new organisation, with its first key if one was made.
    ///
    /// # Errors
    /// When there are `most` organisations already, or the store has failed.
    pub async fn add_org(&self, org: &Organisation, credits: Credits, made: Option<&NewKey>, most: usize) -> Result<(), ServiceError> {
        let key = made.map(|made| (made.key.clone(), made.digest));
        match self.store.add_org(org.clone(), credits, key, most).await? {
            Added::Done => {
                tracing::info!(org = %org.id, "organisation added");
                Ok(())
            }
            Added::TooMany => Err(ServiceError::TooManyOrgs(most)),
            Added::Closed => Err(ServiceError::OrgClosed),
        }
    }

    /// Grants an organisation more credits. An organisation without a limit gets one with its first
    /// grant, and starts with that amount.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn grant(&self, org: OrgId, amount: Decimal) -> Result<Account, ServiceError> {
        let granted = move |account: &Account| match account.credits {
            Credits::Unlimited => Credits::Prepaid(Usd(amount).plus(account.charged).plus(account.reserved)),
            Credits::Prepaid(before) => Credits::Prepaid(before.plus(Usd(amount))),
        };
        let account = self.store.change_credits(org, granted).await?;
        tracing::info!(%org, "credits changed");
        Ok(account)
    }

    /// Lifts the limit of an organisation.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn lift_limit(&self, org: OrgId) -> Result<Account, ServiceError> {
        let account = self.store.change_credits(org, |_| Credits::Unlimited).await?;
        tracing::info!(%org, "credits changed");
        Ok(account)
    }

    /// Keeps a key that was just made.
    ///
    /// # Errors
    /// When the daemon is stopping, the organisation has the most keys that it can have, or the
    /// store has failed.
    pub async fn add_key(&self, made: &NewKey) -> Result<(), ServiceError> {
        self.check_open()?;
        match self.store.add_key(made.key.clone(), made.digest).await? {
            Added::Done => {
                tracing::info!(key = %made.key.id, org = %made.key.org, "API key made");
                Ok(())
            }
            Added::TooMany => Err(ServiceError::TooManyKeys(MAX_KEYS)),
            Added::Closed => Err(ServiceError::OrgClosed),
        }
    }

    /// Revokes a key of an organisation.
    ///
    /// # Errors
    /// When the organisation has no such key, or the store has failed.
    pub async fn revoke_key(&self, org: OrgId, id: KeyId) -> Result<ApiKey, ServiceError> {
        match self.store.revoke_key(org, id, self.clock.now()).await? {
            Revoked::Done(key) => {
                self.key_changes.send_modify(|count| *count += 1);
                tracing::info!(key = %id, "API key revoked");
                Ok(*key)
            }
            Revoked::NotFound => Err(ServiceError::KeyNotFound(id)),
        }
    }
}
