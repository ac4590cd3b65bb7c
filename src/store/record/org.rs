//! Organisations and API keys on disk, version 1.

use serde::{Deserialize, Serialize};

use super::{Record, RecordError, moment, timestamp};
use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::{ApiKey, Organisation};
use crate::domain::webhook::Webhook;

/// A receiver: its URL and its sealed secret.
pub(super) type WebhookRecord = (String, Vec<u8>);

pub(super) fn pack_webhook(webhook: &Webhook) -> WebhookRecord {
    (webhook.url.clone(), webhook.sealed_secret.clone())
}

pub(super) fn unpack_webhook((url, sealed_secret): WebhookRecord) -> Webhook {
    Webhook { url, sealed_secret }
}

/// Version 1 of an organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgRecord {
    id: u128,
    name: String,
    created_at: i64,
    webhook: Option<WebhookRecord>,
}

impl Record for OrgRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "organisation";
}

impl From<&Organisation> for OrgRecord {
    fn from(org: &Organisation) -> Self {
        Self {
            id: org.id.as_u128(),
            name: org.name.clone(),
            created_at: moment(org.created_at),
            webhook: org.webhook.as_ref().map(pack_webhook),
        }
    }
}

impl TryFrom<OrgRecord> for Organisation {
    type Error = RecordError;

    fn try_from(record: OrgRecord) -> Result<Self, RecordError> {
        Ok(Self {
            id: OrgId::from_u128(record.id),
            name: record.name,
            created_at: timestamp::<OrgRecord>(record.created_at)?,
            webhook: record.webhook.map(unpack_webhook),
        })
    }
}

/// Version 1 of an API key. Its secret is not here, and its digest is the record's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    id: u128,
    org: u128,
    name: Option<String>,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl Record for KeyRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "API key";
}

impl From<&ApiKey> for KeyRecord {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.as_u128(),
            org: key.org.as_u128(),
            name: key.name.clone(),
            created_at: moment(key.created_at),
            expires_at: key.expires_at.map(moment),
            revoked_at: key.revoked_at.map(moment),
        }
    }
}

impl TryFrom<KeyRecord> for ApiKey {
    type Error = RecordError;

    fn try_from(record: KeyRecord) -> Result<Self, RecordError> {
        Ok(Self {
            id: KeyId::from_u128(record.id),
            org: OrgId::from_u128(record.org),
            name: record.name,
            created_at: timestamp::<KeyRecord>(record.created_at)?,
            expires_at: record.expires_at.map(timestamp::<KeyRecord>).transpose()?,
            revoked_at: record.revoked_at.map(timestamp::<KeyRecord>).transpose()?,
        })
    }
}
