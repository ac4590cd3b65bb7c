//! Messages on their way, on disk, version 1. In the envelope of [`super::packed`], because they may be
//! longer than a value; the number there is not used.

use serde::{Deserialize, Serialize};

use super::org::{WebhookRecord, pack_webhook, unpack_webhook};
use super::{Record, RecordError, moment, timestamp};
use crate::domain::delivery::Delivery;
use crate::domain::id::{BatchId, EventId, OrgId};

/// Version 1 of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecord {
    id: u128,
    batch: u128,
    org: u128,
    webhook: WebhookRecord,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    created_at: i64,
    attempts: u32,
    due_at: i64,
}

impl Record for DeliveryRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "delivery";
    const LIMIT: u64 = 1 << 20;
}

impl From<&Delivery> for DeliveryRecord {
    fn from(delivery: &Delivery) -> Self {
        Self {
            id: delivery.id.as_u128(),
            batch: delivery.batch.as_u128(),
            org: delivery.org.as_u128(),
            webhook: pack_webhook(&delivery.webhook),
            body: delivery.body.clone(),
            created_at: moment(delivery.created_at),
            attempts: delivery.attempts,
            due_at: moment(delivery.due_at),
        }
    }
}

impl TryFrom<DeliveryRecord> for Delivery {
    type Error = RecordError;

    fn try_from(record: DeliveryRecord) -> Result<Self, RecordError> {
        Ok(Self {
            id: EventId::from_u128(record.id),
            batch: BatchId::from_u128(record.batch),
            org: OrgId::from_u128(record.org),
            webhook: unpack_webhook(record.webhook),
            body: record.body,
            created_at: timestamp::<DeliveryRecord>(record.created_at)?,
            attempts: record.attempts,
            due_at: timestamp::<DeliveryRecord>(record.due_at)?,
        })
    }
}
