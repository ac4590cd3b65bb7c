//! Organisations and their API keys. A key is found by the SHA-256 of its secret; the secret is
//! never stored.

use super::Store;
use super::format;
use super::op::Tx;
use super::record;
use super::record::ledger::AccountRecord;
use super::record::org::{KeyRecord, OrgRecord};
use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::ledger::{Account, Credits};
use crate::domain::org::quotas::Quotas;
use crate::domain::org::{ApiKey, Closure, Organisation};
use crate::domain::time::Timestamp;
use crate::domain::webhook::Webhook;
use crate::store::error::StoreError;

/// Limit on the number of organisations.
pub const MAX_ORGS: usize = 20_000;
/// Limit on organisations when an organisation registers itself: the operator always has room for
/// more.
pub const MAX_REGISTERED: usize = 10_000;
/// Limit on the keys of one organisation, revoked keys included.
pub const MAX_KEYS: usize = 1_000;

/// The outcome of adding something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Done,
    /// The limit is reached.
    TooMany,
    /// The organisation is closed.
    Closed,
}

/// The outcome of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// The key is revoked, now or since before.
    Done(Box<ApiKey>),
    /// The organisation has no such key.
    NotFound,
}

impl Store {
    /// Adds an organisation with its credits, and its first key if there is one, unless there are
    /// `most` organisations already.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn add_org(
        &self,
        org: Organisation,
        credits: Credits,
        key: Option<(ApiKey, [u8; 32])>,
        most: usize,
    ) -> Result<Added, StoreError> {
        self.commit(move |tx| {
            if tx.tree().scan_prefix(format::ORGS).keys().take(most).count() == most {
                return Ok(Added::TooMany);
            }
            tx.put(format::org(org.id), &OrgRecord::from(&org))?;
            tx.put(format::account(org.id), &AccountRecord::from(&Account { credits, ..Account::default() }))?;
            if let Some((key, digest)) = key {
                put_key(tx, &key, &digest)?;
            }
            Ok(Added::Done)
        })
        .await
    }

    /// Reads an organisation; `None` if it does not exist. The operator's own organisation always
    /// exists.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn org(&self, id: OrgId) -> Result<Option<Organisation>, StoreError> {
        let found = self.inner.tree.get(format::org(id))?;
        let found = found.map(|bytes| decode_org(&bytes)).transpose()?;
        self.await_durable().await?;
        Ok(found.or_else(|| operator(id)))
    }

    /// Every organisation that was added, oldest first.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn orgs(&self) -> Result<Vec<Organisation>, StoreError> {
        let store = self.clone();
        let all = super::blocking(move || store.inner.tree.scan_prefix(format::ORGS).map(|entry| decode_org(&entry?.1)).collect());
        let all = all.await?;
        self.await_durable().await?;
        Ok(all)
    }

    /// Sets the webhook that is notified when batches of an organisation have ended. `false` if the
    /// organisation does not exist.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn set_org_webhook(&self, id: OrgId, webhook: Option<Webhook>) -> Result<bool, StoreError> {
        let changed = self.commit(move |tx| change_org(tx, id, |org| Organisation { webhook, ..org })).await?;
        Ok(changed.is_some())
    }

    /// Gives an organisation another name; `None` if it does not exist.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn rename_org(&self, id: OrgId, name: String) -> Result<Option<Organisation>, StoreError> {
        self.commit(move |tx| change_org(tx, id, |org| Organisation { name, ..org })).await
    }

    /// Changes the quotas of an organisation; `None` if it does not exist.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn change_quotas(
        &self,
        id: OrgId,
        change: impl FnOnce(Quotas) -> Quotas + Send + 'static,
    ) -> Result<Option<Organisation>, StoreError> {
        self.commit(move |tx| change_org(tx, id, |org| Organisation { quotas: change(org.quotas), ..org })).await
    }

    /// Changes the quotas of a key; `None` if the organisation has no such key.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn change_key_quotas(
        &self,
        org: OrgId,
        id: KeyId,
        change: impl FnOnce(Quotas) -> Quotas + Send + 'static,
    ) -> Result<Option<ApiKey>, StoreError> {
        self.commit(move |tx| {
            let Some(digest) = tx.tree().get(format::key_of(org, id))? else { return Ok(None) };
            change_key(tx, &digest, |key| ApiKey { quotas: change(key.quotas), ..key })
        })
        .await
    }

    /// Closes an organisation and revokes its keys, in one step; `None` if it does not exist. An
    /// organisation that was closed before stays closed since then; what it had may still be given up
    /// for erasure.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn close_org(&self, id: OrgId, closure: Closure) -> Result<Option<Organisation>, StoreError> {
        self.commit(move |tx| {
            let closed = change_org(tx, id, |org| {
                let before = org.closure.unwrap_or(closure);
                Organisation { closure: Some(Closure { at: before.at, erases: before.erases || closure.erases }), ..org }
            })?;
            if closed.is_some() {
                let keys: Vec<_> = tx.tree().scan_prefix(format::keys_of(id)).collect::<Result<_, _>>()?;
                for (_, digest) in keys {
                    revoke(tx, &digest, closure.at)?;
                }
            }
            Ok(closed)
        })
        .await
    }

    /// Adds a key whose secret has this SHA-256.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn add_key(&self, key: ApiKey, digest: [u8; 32]) -> Result<Added, StoreError> {
        self.commit(move |tx| {
            let org = tx.tree().get(format::org(key.org))?.map(|bytes| decode_org(&bytes)).transpose()?;
            if org.is_some_and(|org| org.closure.is_some()) {
                return Ok(Added::Closed);
            }
            if tx.tree().scan_prefix(format::keys_of(key.org)).keys().take(MAX_KEYS).count() == MAX_KEYS {
                return Ok(Added::TooMany);
            }
            put_key(tx, &key, &digest)?;
            Ok(Added::Done)
        })
        .await
    }

    /// The key whose secret has this SHA-256, valid or not.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub fn key(&self, digest: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        let found = self.inner.tree.get(format::key_at(digest))?;
        found.map(|bytes| decode_key(&bytes)).transpose()
    }

    /// The keys of an organisation, oldest first.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn keys(&self, org: OrgId) -> Result<Vec<ApiKey>, StoreError> {
        let mut keys = Vec::new();
        for entry in self.inner.tree.scan_prefix(format::keys_of(org)) {
            let digest = entry?.1;
            keys.extend(self.inner.tree.get(format::key_at(&digest))?.map(|bytes| decode_key(&bytes)).transpose()?);
        }
        self.await_durable().await?;
        Ok(keys)
    }

    /// The organisation that a key belongs to; `None` if the key does not exist.
    ///
    /// # Errors
    /// When the store has failed.
    pub fn org_of_key(&self, id: KeyId) -> Result<Option<OrgId>, StoreError> {
        let owner = self.inner.tree.get(format::owner_of_key(id))?;
        Ok(owner.as_deref().and_then(format::trailing_id).map(OrgId::from_u128))
    }

    /// Revokes a key of an organisation.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn revoke_key(&self, org: OrgId, id: KeyId, now: Timestamp) -> Result<Revoked, StoreError> {
        self.commit(move |tx| {
            let Some(digest) = tx.tree().get(format::key_of(org, id))? else { return Ok(Revoked::NotFound) };
            Ok(revoke(tx, &digest, now)?.map_or(Revoked::NotFound, |key| Revoked::Done(Box::new(key))))
        })
        .await
    }
}

/// The operator's own organisation, as it is until something is recorded about it.
fn operator(id: OrgId) -> Option<Organisation> {
    (id == OrgId::OPERATOR).then(|| Organisation { id, ..Organisation::new("Operator".to_owned(), Timestamp::UNIX_EPOCH) })
}

/// Changes an organisation; `None` if it does not exist.
fn change_org(tx: &mut Tx<'_>, id: OrgId, change: impl FnOnce(Organisation) -> Organisation) -> Result<Option<Organisation>, StoreError> {
    let found = tx.tree().get(format::org(id))?.map(|bytes| decode_org(&bytes)).transpose()?;
    let Some(org) = found.or_else(|| operator(id)).map(change) else { return Ok(None) };
    tx.put(format::org(id), &OrgRecord::from(&org))?;
    Ok(Some(org))
}

/// Revokes the key whose secret has this SHA-256, unless it was revoked before.
fn revoke(tx: &mut Tx<'_>, digest: &[u8], now: Timestamp) -> Result<Option<ApiKey>, StoreError> {
    change_key(tx, digest, |key| ApiKey { revoked_at: key.revoked_at.or(Some(now)), ..key })
}

/// Changes the key whose secret has this SHA-256; `None` if there is none.
fn change_key(tx: &mut Tx<'_>, digest: &[u8], change: impl FnOnce(ApiKey) -> ApiKey) -> Result<Option<ApiKey>, StoreError> {
    let place = format::key_at(digest);
    let Some(key) = tx.tree().get(&place)?.map(|bytes| decode_key(&bytes)).transpose()?.map(change) else { return Ok(None) };
    tx.put(place, &KeyRecord::from(&key))?;
    Ok(Some(key))
}

fn put_key(tx: &mut Tx<'_>, key: &ApiKey, digest: &[u8; 32]) -> Result<(), StoreError> {
    tx.put(format::key_at(digest), &KeyRecord::from(key))?;
    tx.put_raw(format::key_of(key.org, key.id), digest);
    tx.put_raw(format::owner_of_key(key.id), &key.org.as_u128().to_be_bytes());
    Ok(())
}

fn decode_org(bytes: &[u8]) -> Result<Organisation, StoreError> {
    Ok(record::decode::<OrgRecord>(bytes)?.try_into()?)
}

fn decode_key(bytes: &[u8]) -> Result<ApiKey, StoreError> {
    Ok(record::decode::<KeyRecord>(bytes)?.try_into()?)
}
