//! The data about a batch that its followers get: the job data of this dialect's messages. The job
//! data is not the object that a read returns: it has fewer words for states, its times are texts,
//! and its `billing` has the other shape.
//!
//! Invariant: a message is made of durable state alone, and the location of its reader has no
//! influence before [`at`]. So the same state gives the same job for every reader, before and after
//! a restart.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::moments::{text, updated};
use super::object::{BatchLinks, lifecycle};
use super::{billing, webhook_object};
use crate::domain::batch::Batch;
use crate::domain::batch::details::BatchDetails;
use crate::domain::batch::phaseo::Phase;
use crate::domain::dialect::Dialect;
use crate::domain::text::hex;
use crate::domain::webhook::event_log::{percent, status};
use crate::http::openai::objects::BatchObject;
use crate::service::feed::watcher::BatchMessage;

/// Bytes of a digest that make a name: enough that no two states of a batch have the same name.
const NAME_BYTES: usize = 16;

/// The message about a batch, without the URLs.
pub fn message(batch: &Batch, details: &BatchDetails) -> BatchMessage {
    let id = own_id(batch);
    let mut text = members(batch, details, &id).to_string();
    let digest = Sha256::digest(&text);
    let name = hex(&digest[..NAME_BYTES]);
    // Without the closing brace: the URLs follow.
    text.pop();
    BatchMessage { id, ended: batch.state.is_terminal(), name, text }
}

/// The data as JSON, with the URLs as the reader at this place sees them.
pub fn at(message: &BatchMessage, place: &BatchLinks) -> String {
    let polling = place.polling(&message.id);
    let cancel = (!message.ended).then(|| format!("{polling}/cancel"));
    let urls = json!({ "cancel_url": cancel, "polling_url": polling, "websocket_url": place.socket(&message.id) }).to_string();
    format!("{},{}", message.text, urls.trim_start_matches('{'))
}

fn own_id(batch: &Batch) -> String {
    let id = batch.spec.id;
    match batch.spec.dialect {
        Dialect::Phaseo => id.in_upper(),
        Dialect::BatchRouter => id.in_hex(),
        Dialect::OpenAi => id.to_string(),
    }
}

fn members(batch: &Batch, details: &BatchDetails, id: &str) -> Value {
    let shown = serde_json::to_value(BatchObject::new(batch, &details.waiting)).unwrap_or_default();
    let gateway = batch.spec.gateway().map(|(_, gateway)| gateway);
    let subscription = gateway.and_then(|gateway| gateway.subscription.as_ref());
    let event_log = &details.event_log;
    let billing = billing(batch, details);
    json!({
        "id": id,
        "object": "batch",
        "kind": "batch",
        "status": status(&batch.state),
        "lifecycle_status": lifecycle(&batch.state),
        "progress": percent(&batch.state, &batch.progress),
        "request_id": gateway.map(|gateway| gateway.request.in_upper()),
        "session_id": gateway.and_then(|gateway| gateway.session.as_deref()),
        "app_id": null,
        // A batch is not a job of a provider, because its rows are called one by one.
        "native_id": gateway.map(|_| id),
        "provider": gateway.map(|gateway| &gateway.provider),
        "model": shown["model"],
        "webhook": subscription.map(|subscription| webhook_object::object(subscription, event_log)),
        "endpoint": shown["endpoint"],
        "completion_window": shown["completion_window"],
        "input_file_id": shown["input_file_id"],
        "output_file_id": shown["output_file_id"],
        "error_file_id": shown["error_file_id"],
        "key_source": "gateway",
        "byok_key_id": null,
        "reservation_id": billing["reservation_id"],
        "reservation_status": billing["reservation_status"],
        "pricing_lines": billing::lines(batch, details.receipt.as_ref()),
        "next_webhook_retry_at": event_log.waiting.iter().map(|(_, at)| *at).min().map(text),
        "last_webhook_progress": (event_log.bucket > 0).then_some(event_log.bucket),
        "last_webhook_progress_at": event_log.latest.iter().rev().find(|tried| tried.phase == Phase::Progress).map(|tried| text(tried.at)),
        "last_webhook_dispatched_at": event_log.latest.last().map(|tried| text(tried.at)),
        "last_polled_at": null,
        "polled_status": null,
        "finalized_at": batch.state.is_terminal().then(|| text(updated(batch))),
        "request_counts": shown["request_counts"],
        "upstream_error": null,
        "provider_failure_diagnostics": null,
        "failure_sample": null,
        "routing_diagnostics": null,
        "provider_enablement": null,
        "provider_candidate_diagnostics": null,
        "billing": billing,
        "created_at": text(batch.spec.created_at),
        "updated_at": text(updated(batch)),
    })
}

/// The union of both shapes of `billing`, with the members that only the job data has.
fn billing(batch: &Batch, details: &BatchDetails) -> Value {
    let mut billing = billing::object(batch, details);
    for name in ["estimation_truncated", "estimation_sample_size", "estimation_total_rows"] {
        billing[name] = Value::Null;
    }
    if billing["billed"] == true {
        billing["billed_at"] = billing["finalized_at"].clone();
    }
    billing
}
