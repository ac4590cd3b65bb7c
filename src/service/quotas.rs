//! Quotas of organisations and keys: changing them, what of them is used, and counting requests.
//!
//! What would exceed a quota is refused where it is written ([`crate::store`]); here are the
//! requests, which leave no trace in the store. Their counts begin anew with each start.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::quotas::{Exceeded, Limit, Minute, Quotas, Whose};
use crate::domain::org::{ApiKey, Organisation};
use crate::domain::time::Timestamp;
use crate::service::{Service, ServiceError};
use crate::store::Idempotency;

/// The most organisations and keys whose requests are counted before those are forgotten that sent
/// none lately.
const MAX_COUNTED: usize = 4_096;

/// Whose requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Counted {
    Org(OrgId),
    Key(KeyId),
}

/// Requests of the last minute, of those who have a quota for them.
#[derive(Debug, Default)]
pub struct RequestCounts(Mutex<HashMap<Counted, Minute>>);

/// One limit: its quota if it has one, and how much is used if that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaUsed {
    pub limit: Limit,
    pub most: Option<u64>,
    pub used: Option<u64>,
}

/// A change of quotas: each limit with its new amount, or `None` to lift it.
pub type QuotaChange = Vec<(Limit, Option<u64>)>;

impl RequestCounts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Counted, Minute>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts a request of all that have a quota, or of none if one of them has no room.
    fn count(&self, of: &[(Counted, Whose, Quotas)], now: Timestamp) -> Result<(), Exceeded> {
        let mut minutes = self.lock();
        if minutes.len() > MAX_COUNTED {
            minutes.retain(|_, minute| minute.used(now) > 0);
        }
        for (counted, whose, quotas) in of {
            let admitted = minutes.entry(*counted).or_default().admit(quotas, now);
            admitted.map_err(|exceeded| Exceeded { whose: *whose, ..exceeded })?;
        }
        for (counted, ..) in of {
            minutes.entry(*counted).or_default().count(now);
        }
        Ok(())
    }

    fn used(&self, counted: Counted, now: Timestamp) -> u64 {
        self.lock().get(&counted).map_or(0, |minute| minute.used(now))
    }
}

impl Service {
    /// Counts a request that a client makes with a key.
    ///
    /// # Errors
    /// When the quota of the key or of its organisation has no room for it.
    pub fn count_request(&self, org: OrgId, key: KeyId, of_key: &Quotas) -> Result<(), Exceeded> {
        let each = [(Counted::Key(key), Whose::Key, *of_key), (Counted::Org(org), Whose::Organisation, self.store.quotas(org))];
        let limited: Vec<_> = each.into_iter().filter(|(_, _, quotas)| quotas.get(Limit::Requests).is_some()).collect();
        if limited.is_empty() { Ok(()) } else { self.requests.count(&limited, self.clock.now()) }
    }

    /// Refuses a create early whose batch would be refused when it is written.
    ///
    /// # Errors
    /// When a quota of the organisation has no room for one more batch.
    pub fn check_create(&self, org: OrgId) -> Result<(), ServiceError> {
        let asks = Limit::OF_CREATES.map(|limit| (limit, 0));
        Ok(self.store.check_quotas(org, &asks, self.clock.now())?)
    }

    /// [`Self::check_create`] for a create that may have happened before: that is then found, whatever
    /// the quotas are by now.
    ///
    /// # Errors
    /// As [`Self::check_create`], and when the store has failed.
    pub async fn check_once(&self, org: OrgId, once: Option<&Idempotency>) -> Result<(), ServiceError> {
        let used = match once {
            Some(once) => self.store.used_key(&once.key).await?,
            None => None,
        };
        if used.is_some() { Ok(()) } else { self.check_create(org) }
    }

    /// Refuses early what is more than the organisation may store.
    ///
    /// # Errors
    /// When its quota has no room for so many bytes.
    pub fn check_bytes(&self, org: OrgId, bytes: u64) -> Result<(), ServiceError> {
        Ok(self.store.check_quotas(org, &[(Limit::StoredBytes, bytes)], self.clock.now())?)
    }

    /// The quotas of an organisation, and what it uses. Nothing is counted of the operator's own.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn org_quotas(&self, org: OrgId) -> Result<Vec<QuotaUsed>, ServiceError> {
        let now = self.clock.now();
        let used = self.store.quotas_used(org, now).await?;
        let quotas = self.store.quotas(org);
        let each = |limit| {
            let most = quotas.get(limit);
            let used = match limit {
                Limit::Requests => most.map(|_| self.requests.used(Counted::Org(org), now)),
                Limit::Calls => Some(self.executor.board().calls_of(org).into()),
                _ => Some(used.get(limit)),
            };
            QuotaUsed { limit, most, used: used.filter(|_| org != OrgId::OPERATOR) }
        };
        Ok(Limit::ALL.into_iter().map(each).collect())
    }

    /// The quotas of a key, and what was used with it.
    pub fn key_quotas(&self, key: KeyId, quotas: &Quotas) -> Vec<QuotaUsed> {
        let now = self.clock.now();
        let each = |limit| {
            let most = quotas.get(limit);
            QuotaUsed { limit, most, used: most.map(|_| self.requests.used(Counted::Key(key), now)) }
        };
        Limit::OF_KEYS.into_iter().map(each).collect()
    }

    /// Changes the quotas of an organisation; what it has already stays.
    ///
    /// # Errors
    /// When there is no such organisation, it is the operator's own, or the store has failed.
    pub async fn set_org_quotas(&self, id: OrgId, change: QuotaChange) -> Result<Organisation, ServiceError> {
        if id == OrgId::OPERATOR {
            return Err(ServiceError::OperatorHasNoQuotas);
        }
        let changed = self.store.change_quotas(id, |quotas| changed(quotas, change)).await?;
        let org = changed.ok_or(ServiceError::OrgNotFound(id))?;
        tracing::info!(org = %id, "quotas changed");
        Ok(org)
    }

    /// Changes the quotas of a key.
    ///
    /// # Errors
    /// When the organisation has no such key, or the store has failed.
    pub async fn set_key_quotas(&self, org: OrgId, id: KeyId, change: QuotaChange) -> Result<ApiKey, ServiceError> {
        let changed = self.store.change_key_quotas(org, id, |quotas| changed(quotas, change)).await?;
        let key = changed.ok_or(ServiceError::KeyNotFound(id))?;
        tracing::info!(key = %id, "quotas changed");
        Ok(key)
    }
}

fn changed(quotas: Quotas, change: QuotaChange) -> Quotas {
    change.into_iter().fold(quotas, |quotas, (limit, amount)| quotas.with(limit, amount))
}
