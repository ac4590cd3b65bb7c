//! The member `webhook` of the batch object: the messages that were sent about a batch. It never
//! has a secret.

use serde_json::{Value, json};

use super::moments::text;
use crate::domain::batch::phaseo::{Receiver, Subscription};
use crate::domain::webhook::delivery::EventRef;
use crate::domain::webhook::event_log::{DeliveryAttempt, EventLog, TriedOutcome};

/// The most attempts that are shown one by one.
const SHOWN: usize = 10;

/// `webhook`.
pub fn object(subscription: &Subscription, event_log: &EventLog) -> Value {
    let (endpoint, url, has_secret) = match &subscription.receiver {
        Receiver::Managed(id) => (Some(id.to_string()), None, true),
        Receiver::Own(webhook) => (None, Some(webhook.url.as_str()), !webhook.sealed_secret.is_empty()),
    };
    json!({
        "endpoint_id": endpoint,
        "url": url,
        "events": subscription.phases.iter().map(|phase| phase.event()).collect::<Vec<_>>(),
        "has_secret": has_secret,
        "delivery": delivery(event_log),
        "attempts": event_log.latest.iter().rev().take(SHOWN).rev().map(attempt).collect::<Vec<_>>(),
    })
}

fn delivery(event_log: &EventLog) -> Value {
    let last = event_log.latest.last();
    let latest = |wanted: fn(&DeliveryAttempt) -> bool| event_log.latest.iter().rev().find(|tried| wanted(tried));
    let delivered = latest(|tried| tried.outcome == TriedOutcome::Delivered);
    let failed = latest(|tried| tried.outcome != TriedOutcome::Delivered);
    json!({
        "total_attempts": event_log.attempts,
        "delivered_events": event_log.delivered.len(),
        "delivered_event_types": event_log.delivered,
        "pending_retries": event_log.waiting.len(),
        "next_retry_at": event_log.waiting.iter().map(|(_, at)| *at).min().map(text),
        "last_attempt_at": last.map(|tried| text(tried.at)),
        "last_attempt_status": last.map(|tried| word(tried.outcome)),
        "last_response_status": last.and_then(|tried| tried.response),
        "last_delivered_at": delivered.map(|tried| text(tried.at)),
        "last_failure_at": failed.map(|tried| text(tried.at)),
        "last_error_message": failed.and_then(|tried| tried.error.as_deref()),
    })
}

fn word(outcome: TriedOutcome) -> &'static str {
    match outcome {
        TriedOutcome::Delivered => "delivered",
        TriedOutcome::Again(_) => "scheduled_retry",
        TriedOutcome::GivenUp => "failed_permanently",
    }
}

fn attempt(tried: &DeliveryAttempt) -> Value {
    let at = text(tried.at);
    let next = match tried.outcome {
        TriedOutcome::Again(at) => Some(text(at)),
        TriedOutcome::Delivered | TriedOutcome::GivenUp => None,
    };
    json!({
        "id": format!("{}:{}:{at}", tried.key, tried.number),
        "delivery_key": tried.key,
        "event_type": tried.phase.event(),
        "status": word(tried.outcome),
        "attempt_number": tried.number,
        "max_attempts": EventRef::ATTEMPTS,
        "tried_at": at,
        "delivered_at": (tried.outcome == TriedOutcome::Delivered).then_some(&at),
        "next_retry_at": next,
        "response_status": tried.response,
        "error_message": tried.error,
        "response_body_preview": tried.preview,
    })
}
