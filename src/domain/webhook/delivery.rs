//! A message to a receiver: its content, its destination, and the time of its next attempt.
//!
//! Invariant: the content of a message never changes, however many attempts it takes.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Webhook;
use super::event_log::Event;
use crate::domain::id::{BatchId, EventId, OrgId, ReceiverId, half};
use crate::domain::time::{Timestamp, later};

/// How long delivery of a message is attempted.
const TRIED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 60 * 60);
/// Each wait is this many times the previous wait.
const GROWTH: u32 = 4;

/// A message that awaits delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: EventId,
    /// The batch that the message reports on. `org` is the owner of that batch.
    pub batch: BatchId,
    pub org: OrgId,
    pub webhook: Webhook,
    /// The exact bytes. For Phaseo's messages, only the bytes of the data: each attempt wraps them
    /// with its own number and time.
    pub body: Vec<u8>,
    pub wire: Payload,
    pub created_at: Timestamp,
    /// Attempts that have failed.
    pub attempts: u32,
    /// When the next attempt is due.
    pub due_at: Timestamp,
}

/// The form in which a message is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// As it was written when the batch ended: BatchRouter's message, or OpenAI's event.
    Whole,
    /// Data, which each attempt wraps.
    Phaseo(EventRef),
}

/// The event that a message of Phaseo's reports, and its receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRef {
    pub event: Event,
    /// A managed receiver is called at its URL at the time of the attempt, with its secret at that
    /// time.
    pub receiver: Option<ReceiverId>,
}

impl EventRef {
    /// The total number of attempts (Phaseo's documents).
    pub const ATTEMPTS: u32 = 4;
    /// The waits after the failures, in units of a sixth of the first wait.
    const WAITS: [u32; 3] = [6, 30, 90];

    /// The event's id on the wire. It is the same for each attempt.
    pub fn id(&self, batch: BatchId) -> String {
        let id = format!("evt_batch_{}_{}", batch.in_upper(), self.event.key);
        let mut clean = String::with_capacity(id.len());
        for character in id.chars() {
            match character {
                'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-' => clean.push(character),
                // A run of other characters becomes one underscore.
                _ if clean.ends_with('_') => {}
                _ => clean.push('_'),
            }
        }
        clean.truncate(160);
        clean
    }
}

/// The receiver's host and the organisation of a message, by which sending is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The first half of the SHA-256 of the receiver's host, in lower case and without the port.
    pub host: u128,
    pub org: OrgId,
}

impl Route {
    /// The route of a message of an organisation to a receiver.
    pub fn of(webhook: &Webhook, org: OrgId) -> Self {
        let url = webhook.url.parse::<http::Uri>().ok();
        let host = url.as_ref().and_then(http::Uri::host).unwrap_or_default().to_ascii_lowercase();
        Self { host: half(Sha256::digest(host).into()), org }
    }
}

impl Delivery {
    /// The route of the message.
    pub fn route(&self) -> Route {
        Route::of(&self.webhook, self.org)
    }

    /// The message after one more attempt has failed at `now`; `None` if there is no further
    /// attempt. For a whole message, the first wait is `base` and each further wait is four times as
    /// long, up to six hours, for a day. For Phaseo, the waits are 6, 30 and 90 times `base`: a
    /// minute, five minutes and a quarter of an hour by default.
    pub fn failed(self, base: Duration, now: Timestamp) -> Option<Self> {
        let attempts = self.attempts.saturating_add(1);
        if matches!(self.wire, Payload::Phaseo(_)) {
            let wait = EventRef::WAITS.get(usize::try_from(self.attempts).unwrap_or(usize::MAX))?;
            return Some(Self { attempts, due_at: later(now, base.saturating_mul(*wait)), ..self });
        }
        let wait = base.saturating_mul(GROWTH.saturating_pow(self.attempts)).min(LONGEST_WAIT);
        let due_at = later(now, wait);
        (due_at < later(self.created_at, TRIED_FOR)).then_some(Self { attempts, due_at, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tried_for_a_day_at_growing_distances() {
        let start = Timestamp::from_second(1_790_000_000).unwrap();
        let webhook = Webhook { url: "https://a.test/".into(), sealed_secret: vec![] };
        let (id, batch) = (EventId::from_u128(1), BatchId::from_u128(2));
        let mut delivery = Delivery {
            id,
            batch,
            org: OrgId::OPERATOR,
            webhook,
            body: vec![1],
            wire: Payload::Whole,
            created_at: start,
            attempts: 0,
            due_at: start,
        };
        let mut waits = Vec::new();
        while let Some(next) = delivery.clone().failed(Duration::from_secs(10), delivery.due_at) {
            waits.push(next.due_at.as_second() - delivery.due_at.as_second());
            assert_eq!(next.body, delivery.body);
            delivery = next;
        }
        assert_eq!(waits, [10, 40, 160, 640, 2_560, 10_240, 21_600, 21_600, 21_600]);
    }

    #[test]
    fn a_message_of_phaseos_is_tried_four_times_under_one_id() {
        let start = Timestamp::from_second(1_790_000_000).unwrap();
        let event = Event { phase: crate::domain::batch::phaseo::Phase::Progress, key: "batch.progress:50".into(), change: None };
        let told = EventRef { event, receiver: None };
        let batch = BatchId::from_u128(2);
        assert_eq!(told.id(batch), "evt_batch_batch_00000000000000000000000002_batch_progress_50");
        let webhook = Webhook { url: "https://a.test/".into(), sealed_secret: vec![] };
        let (id, org) = (EventId::from_u128(1), OrgId::OPERATOR);
        let mut delivery =
            Delivery { id, batch, org, webhook, body: vec![1], wire: Payload::Phaseo(told), created_at: start, attempts: 0, due_at: start };
        let mut waits = Vec::new();
        while let Some(next) = delivery.clone().failed(Duration::from_secs(10), delivery.due_at) {
            waits.push(next.due_at.as_second() - delivery.due_at.as_second());
            delivery = next;
        }
        assert_eq!((waits, delivery.attempts + 1), (vec![60, 300, 900], EventRef::ATTEMPTS));
    }
}
