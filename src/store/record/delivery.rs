//! Messages that await delivery, on disk, version 2. They use the envelope of [`super::packed`],
//! because they may be longer than a value; the number in the envelope is not used.

use serde::{Deserialize, Serialize};

use super::org::{WebhookRecord, pack_webhook, unpack_webhook};
use super::{Record, decode_body, decode_old, moment, timestamp, word};
use crate::domain::batch::phaseo::Phase;
use crate::domain::id::{BatchId, EventId, OrgId, ReceiverId};
use crate::domain::webhook::delivery::{Delivery, EventRef, Payload};
use crate::domain::webhook::event_log::Event;
use crate::store::record::error::RecordError;

/// Version 2 of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecord {
    first: DeliveryRecord1,
    /// `None` for messages that are sent as they are.
    told: Option<ToldRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ToldRecord {
    phase: String,
    key: String,
    change: Option<(String, String)>,
    receiver: Option<u128>,
}

/// Version 1, from when all messages were BatchRouter's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DeliveryRecord1 {
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
    const VERSION: u8 = 2;
    const NAME: &'static str = "delivery";
    const LIMIT: u64 = 1 << 20;

    fn is_packed_as(version: u8) -> bool {
        (1..=2).contains(&version)
    }
}

impl From<&Delivery> for DeliveryRecord {
    fn from(delivery: &Delivery) -> Self {
        let told = match &delivery.wire {
            Payload::Whole => None,
            Payload::Phaseo(told) => Some(ToldRecord {
                phase: told.event.phase.to_string(),
                key: told.event.key.clone(),
                change: told.event.change.clone(),
                receiver: told.receiver.map(ReceiverId::as_u128),
            }),
        };
        let first = DeliveryRecord1 {
            id: delivery.id.as_u128(),
            batch: delivery.batch.as_u128(),
            org: delivery.org.as_u128(),
            webhook: pack_webhook(&delivery.webhook),
            body: delivery.body.clone(),
            created_at: moment(delivery.created_at),
            attempts: delivery.attempts,
            due_at: moment(delivery.due_at),
        };
        Self { first, told }
    }
}

impl DeliveryRecord {
    /// Reads a body of either version.
    ///
    /// # Errors
    /// When the body is not a message.
    pub fn read(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => Ok(Self { first: decode_old::<Self, _>(body)?, told: None }),
            _ => decode_body(body),
        }
    }
}

impl TryFrom<DeliveryRecord> for Delivery {
    type Error = RecordError;

    fn try_from(DeliveryRecord { first: record, told }: DeliveryRecord) -> Result<Self, RecordError> {
        let wire = match told {
            None => Payload::Whole,
            Some(told) => {
                let phase = word::<DeliveryRecord, _>(&told.phase, Phase::parse)?;
                let event = Event { phase, key: told.key, change: told.change };
                Payload::Phaseo(EventRef { event, receiver: told.receiver.map(ReceiverId::from_u128) })
            }
        };
        Ok(Self {
            id: EventId::from_u128(record.id),
            batch: BatchId::from_u128(record.batch),
            org: OrgId::from_u128(record.org),
            webhook: unpack_webhook(record.webhook),
            body: record.body,
            wire,
            created_at: timestamp::<DeliveryRecord>(record.created_at)?,
            attempts: record.attempts,
            due_at: timestamp::<DeliveryRecord>(record.due_at)?,
        })
    }
}
