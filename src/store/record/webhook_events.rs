//! The messages that receivers got about a batch, and separately managed receivers, on disk,
//! version 1. Words are the same as on the wire.

use serde::{Deserialize, Serialize};

use super::org::{WebhookRecord, pack_webhook, unpack_webhook};
use super::{Record, moment, timestamp, word};
use crate::domain::batch::phaseo::Phase;
use crate::domain::id::{OrgId, ReceiverId};
use crate::domain::webhook::endpoint::{Receiver, ReceiverStatus};
use crate::domain::webhook::event_log::{DeliveryAttempt, EventLog, TriedOutcome};
use crate::store::record::error::RecordError;

/// Version 1 of the messages that a batch's receiver got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLogRecord {
    status: String,
    bucket: u32,
    queued: Vec<String>,
    delivered: Vec<String>,
    waiting: Vec<(String, i64)>,
    attempts: u32,
    latest: Vec<TriedRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TriedRecord {
    key: String,
    phase: String,
    number: u32,
    at: i64,
    outcome: OutcomeRecord,
    response: Option<u16>,
    error: Option<String>,
    preview: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum OutcomeRecord {
    Delivered,
    Again(i64),
    GivenUp,
}

impl Record for EventLogRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "telling";
}

impl From<&EventLog> for EventLogRecord {
    fn from(event_log: &EventLog) -> Self {
        let tried = |tried: &DeliveryAttempt| TriedRecord {
            key: tried.key.clone(),
            phase: tried.phase.to_string(),
            number: tried.number,
            at: moment(tried.at),
            outcome: match tried.outcome {
                TriedOutcome::Delivered => OutcomeRecord::Delivered,
                TriedOutcome::Again(at) => OutcomeRecord::Again(moment(at)),
                TriedOutcome::GivenUp => OutcomeRecord::GivenUp,
            },
            response: tried.response,
            error: tried.error.clone(),
            preview: tried.preview.clone(),
        };
        Self {
            status: event_log.status.clone(),
            bucket: event_log.bucket,
            queued: event_log.queued.clone(),
            delivered: event_log.delivered.clone(),
            waiting: event_log.waiting.iter().map(|(key, at)| (key.clone(), moment(*at))).collect(),
            attempts: event_log.attempts,
            latest: event_log.latest.iter().map(tried).collect(),
        }
    }
}

impl TryFrom<EventLogRecord> for EventLog {
    type Error = RecordError;

    fn try_from(record: EventLogRecord) -> Result<Self, RecordError> {
        let time = timestamp::<EventLogRecord>;
        let tried = |tried: TriedRecord| {
            Ok::<_, RecordError>(DeliveryAttempt {
                phase: word::<EventLogRecord, _>(&tried.phase, Phase::parse)?,
                key: tried.key,
                number: tried.number,
                at: time(tried.at)?,
                outcome: match tried.outcome {
                    OutcomeRecord::Delivered => TriedOutcome::Delivered,
                    OutcomeRecord::Again(at) => TriedOutcome::Again(time(at)?),
                    OutcomeRecord::GivenUp => TriedOutcome::GivenUp,
                },
                response: tried.response,
                error: tried.error,
                preview: tried.preview,
            })
        };
        Ok(Self {
            status: record.status,
            bucket: record.bucket,
            queued: record.queued,
            delivered: record.delivered,
            waiting: record.waiting.into_iter().map(|(key, at)| Ok((key, time(at)?))).collect::<Result<_, RecordError>>()?,
            attempts: record.attempts,
            latest: record.latest.into_iter().map(tried).collect::<Result<_, _>>()?,
        })
    }
}

/// Version 1 of a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverRecord {
    id: u128,
    org: u128,
    name: String,
    webhook: WebhookRecord,
    status: String,
    events: Vec<String>,
    created_at: i64,
    updated_at: i64,
    deleted_at: Option<i64>,
}

impl Record for ReceiverRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "receiver";
}

impl From<&Receiver> for ReceiverRecord {
    fn from(receiver: &Receiver) -> Self {
        Self {
            id: receiver.id.as_u128(),
            org: receiver.org.as_u128(),
            name: receiver.name.clone(),
            webhook: pack_webhook(&receiver.webhook),
            status: receiver.status.to_string(),
            events: receiver.events.clone(),
            created_at: moment(receiver.created_at),
            updated_at: moment(receiver.updated_at),
            deleted_at: receiver.deleted_at.map(moment),
        }
    }
}

impl TryFrom<ReceiverRecord> for Receiver {
    type Error = RecordError;

    fn try_from(record: ReceiverRecord) -> Result<Self, RecordError> {
        let time = timestamp::<ReceiverRecord>;
        Ok(Self {
            id: ReceiverId::from_u128(record.id),
            org: OrgId::from_u128(record.org),
            name: record.name,
            webhook: unpack_webhook(record.webhook),
            status: word::<ReceiverRecord, _>(&record.status, ReceiverStatus::parse)?,
            events: record.events,
            created_at: time(record.created_at)?,
            updated_at: time(record.updated_at)?,
            deleted_at: record.deleted_at.map(time).transpose()?,
        })
    }
}
