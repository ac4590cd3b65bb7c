//! Organisations (version 3) and API keys (version 4) on disk.

use serde::{Deserialize, Serialize};

use super::{Record, decode_old, moment, timestamp};
use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::quotas::{Limit, Quotas};
use crate::domain::org::scopes::Scopes;
use crate::domain::org::{ApiKey, Closure, KeyKind, Organisation};
use crate::domain::webhook::Webhook;
use crate::store::record::error::RecordError;

/// A receiver: its URL and its sealed secret.
pub(super) type WebhookRecord = (String, Vec<u8>);

pub(super) fn pack_webhook(webhook: &Webhook) -> WebhookRecord {
    (webhook.url.clone(), webhook.sealed_secret.clone())
}

pub(super) fn unpack_webhook((url, sealed_secret): WebhookRecord) -> Webhook {
    Webhook { url, sealed_secret }
}

/// Quotas: the number of each limit that is set, and its amount.
type QuotasRecord = Vec<(u8, u64)>;

fn pack_quotas(quotas: &Quotas) -> QuotasRecord {
    quotas.iter().map(|(limit, amount)| (limit.code(), amount)).collect()
}

fn unpack_quotas<T: Record>(record: &QuotasRecord) -> Result<Quotas, RecordError> {
    record.iter().try_fold(Quotas::NONE, |quotas, (code, amount)| {
        let limit = Limit::from_code(*code).ok_or_else(|| RecordError::damaged::<T>(format!("{code} is no limit")))?;
        Ok(quotas.with(limit, Some(*amount)))
    })
}

/// Version 3 of an organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgRecord {
    second: OrgRecord2,
    quotas: QuotasRecord,
}

/// Version 2, from when organisations had no quotas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OrgRecord2 {
    first: OrgRecord1,
    /// When it was closed, and whether what it had is erased.
    closure: Option<(i64, bool)>,
}

/// Version 1, from when no organisation was ever closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OrgRecord1 {
    id: u128,
    name: String,
    created_at: i64,
    webhook: Option<WebhookRecord>,
}

impl Record for OrgRecord {
    const VERSION: u8 = 3;
    const NAME: &'static str = "organisation";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        let second = match version {
            1 => OrgRecord2 { first: decode_old::<Self, _>(body)?, closure: None },
            2 => decode_old::<Self, OrgRecord2>(body)?,
            other => return Err(RecordError::unknown::<Self>(other)),
        };
        Ok(Self { second, quotas: Vec::new() })
    }
}

impl From<&Organisation> for OrgRecord {
    fn from(org: &Organisation) -> Self {
        let first = OrgRecord1 {
            id: org.id.as_u128(),
            name: org.name.clone(),
            created_at: moment(org.created_at),
            webhook: org.webhook.as_ref().map(pack_webhook),
        };
        let second = OrgRecord2 { first, closure: org.closure.map(|closure| (moment(closure.at), closure.erases)) };
        Self { second, quotas: pack_quotas(&org.quotas) }
    }
}

impl TryFrom<OrgRecord> for Organisation {
    type Error = RecordError;

    fn try_from(OrgRecord { second: OrgRecord2 { first, closure }, quotas }: OrgRecord) -> Result<Self, RecordError> {
        let closed = |(at, erases)| Ok(Closure { at: timestamp::<OrgRecord>(at)?, erases });
        Ok(Self {
            id: OrgId::from_u128(first.id),
            name: first.name,
            created_at: timestamp::<OrgRecord>(first.created_at)?,
            webhook: first.webhook.map(unpack_webhook),
            closure: closure.map(closed).transpose()?,
            quotas: unpack_quotas::<OrgRecord>(&quotas)?,
        })
    }
}

/// Version 4 of an API key. The record does not hold the key's secret; the digest of it is the
/// record's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    third: KeyRecord3,
    quotas: QuotasRecord,
}

/// Version 3, from when keys had no quotas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeyRecord3 {
    second: KeyRecord2,
    scopes: u8,
}

/// Version 2, from when keys had no scopes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeyRecord2 {
    first: KeyRecord1,
    kind: u8,
}

/// Version 1, from when all API keys were BatchRouter's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeyRecord1 {
    id: u128,
    org: u128,
    name: Option<String>,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl Record for KeyRecord {
    const VERSION: u8 = 4;
    const NAME: &'static str = "API key";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        let second = match version {
            1 => KeyRecord2 { first: decode_old::<Self, _>(body)?, kind: KeyKind::BatchRouter.code() },
            2 => decode_old::<Self, KeyRecord2>(body)?,
            3 => return Ok(Self { third: decode_old::<Self, _>(body)?, quotas: Vec::new() }),
            other => return Err(RecordError::unknown::<Self>(other)),
        };
        let scopes = Scopes::before_scopes(kind(second.kind)?).code();
        Ok(Self { third: KeyRecord3 { second, scopes }, quotas: Vec::new() })
    }
}

fn kind(code: u8) -> Result<KeyKind, RecordError> {
    KeyKind::from_code(code).ok_or_else(|| RecordError::damaged::<KeyRecord>(format!("{code} is no kind of key")))
}

impl From<&ApiKey> for KeyRecord {
    fn from(key: &ApiKey) -> Self {
        let first = KeyRecord1 {
            id: key.id.as_u128(),
            org: key.org.as_u128(),
            name: key.name.clone(),
            created_at: moment(key.created_at),
            expires_at: key.expires_at.map(moment),
            revoked_at: key.revoked_at.map(moment),
        };
        let third = KeyRecord3 { second: KeyRecord2 { first, kind: key.kind.code() }, scopes: key.scopes.code() };
        Self { third, quotas: pack_quotas(&key.quotas) }
    }
}

impl TryFrom<KeyRecord> for ApiKey {
    type Error = RecordError;

    fn try_from(KeyRecord { third, quotas }: KeyRecord) -> Result<Self, RecordError> {
        let KeyRecord3 { second: KeyRecord2 { first, kind: code }, scopes } = third;
        let none = || RecordError::damaged::<KeyRecord>(format!("{scopes} stands for no scopes"));
        Ok(Self {
            id: KeyId::from_u128(first.id),
            org: OrgId::from_u128(first.org),
            kind: kind(code)?,
            scopes: Scopes::from_code(scopes).ok_or_else(none)?,
            name: first.name,
            created_at: timestamp::<KeyRecord>(first.created_at)?,
            expires_at: first.expires_at.map(timestamp::<KeyRecord>).transpose()?,
            revoked_at: first.revoked_at.map(timestamp::<KeyRecord>).transpose()?,
            quotas: unpack_quotas::<KeyRecord>(&quotas)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, encode};
    use super::*;
    use crate::domain::time::Timestamp;

    fn key(kind: KeyKind) -> ApiKey {
        let at = |micros| Timestamp::from_microsecond(micros).unwrap();
        let (created_at, expires_at) = (at(1_790_000_000_000_001), Some(at(1_790_000_000_000_002)));
        ApiKey {
            id: KeyId::from_u128(7),
            org: OrgId::from_u128(300),
            kind,
            scopes: Scopes::before_scopes(kind),
            name: Some("nightly".into()),
            created_at,
            expires_at,
            revoked_at: None,
            quotas: Quotas::NONE,
        }
    }

    #[test]
    fn keys_of_every_version_are_read() {
        for kind in KeyKind::ALL {
            let bytes = encode(&KeyRecord::from(&key(kind))).unwrap();
            assert_eq!(bytes[0], 4);
            assert_eq!(decode::<KeyRecord>(&bytes).unwrap().try_into(), Ok(key(kind)));
            // Version 3 ended before the quotas, and version 2 before the scopes.
            let third = [&[3], &bytes[1..bytes.len() - 1]].concat();
            assert_eq!(decode::<KeyRecord>(&third).unwrap().try_into(), Ok(key(kind)));
            let second = [&[2], &bytes[1..bytes.len() - 2]].concat();
            assert_eq!(decode::<KeyRecord>(&second).unwrap().try_into(), Ok(key(kind)));
        }
        // The bytes that version 1 wrote.
        let mut first = vec![1, 7, 251, 0x2c, 0x01, 1, 7];
        first.extend_from_slice(b"nightly");
        for (tag, micros) in [(None, 1_790_000_000_000_001_i64), (Some(1), 1_790_000_000_000_002)] {
            first.extend(tag);
            // Signed numbers use zigzag encoding; 253 announces eight bytes.
            first.push(253);
            first.extend_from_slice(&(micros * 2).to_le_bytes());
        }
        first.push(0);
        assert_eq!(decode::<KeyRecord>(&first).unwrap().try_into(), Ok(key(KeyKind::BatchRouter)));
        let known = KeyRecord::from(&key(KeyKind::OpenAi));
        let third = known.third.clone();
        for unknown in [
            KeyRecord { third: KeyRecord3 { second: KeyRecord2 { kind: 9, ..third.second.clone() }, ..third.clone() }, ..known.clone() },
            KeyRecord { third: KeyRecord3 { scopes: 0, ..third }, ..known.clone() },
            KeyRecord { quotas: vec![(9, 1)], ..known },
        ] {
            assert!(matches!(ApiKey::try_from(unknown), Err(RecordError::Damaged { .. })));
        }
    }

    #[test]
    fn organisations_of_every_version_are_read() {
        let org = Organisation::new("Acme".into(), Timestamp::from_microsecond(1_790_000_000_000_001).unwrap());
        let closed = Organisation { closure: Some(Closure { at: org.created_at, erases: true }), ..org.clone() };
        let bytes = encode(&OrgRecord::from(&closed)).unwrap();
        assert_eq!(decode::<OrgRecord>(&bytes).unwrap().try_into(), Ok(closed.clone()));
        // Version 2 ended before the quotas.
        let second = [&[2], &bytes[1..bytes.len() - 1]].concat();
        assert_eq!(decode::<OrgRecord>(&second).unwrap().try_into(), Ok(closed));
        let quotas = Quotas::NONE.with(Limit::Batches, Some(0)).with(Limit::TokensAMonth, Some(u64::MAX));
        let limited = Organisation { quotas, ..org.clone() };
        let bytes = encode(&OrgRecord::from(&limited)).unwrap();
        assert_eq!(decode::<OrgRecord>(&bytes).unwrap().try_into(), Ok(limited));
        let bytes = encode(&OrgRecord::from(&org)).unwrap();
        // Version 1 ended before the closure.
        let first = [&[1], &bytes[1..bytes.len() - 2]].concat();
        assert_eq!(decode::<OrgRecord>(&first).unwrap().try_into(), Ok(org));
    }
}
