//! The batch object of this dialect: OpenAI's object, and the members that Phaseo's gateway adds.
//! Items of a list have all of these members too, but their times are texts.

use axum::http::HeaderMap;
use serde_json::{Map, Value, json};

use super::moments::{text, updated};
use super::{billing, webhook_object};
use crate::domain::batch::details::BatchDetails;
use crate::domain::batch::phaseo::PhaseoDetails;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::webhook::event_log::{EventLog, percent, status};
use crate::http::openai::objects::BatchObject;
use crate::http::phaseo::context::Context;
use crate::http::response::error::ApiError;
use crate::http::response::signed_links::Base;
use crate::http::state::Api;

/// The short name of a state: both of its projections, as Phaseo's documents recommend them.
pub fn lifecycle(state: &BatchState) -> &'static str {
    match status(state) {
        "in_progress" => "running",
        other => other,
    }
}

/// The object that a create, a read or a cancel returns.
///
/// # Errors
/// When the store has failed.
pub async fn object(api: &Api, headers: &HeaderMap, context: &Context, batch: &Batch) -> Result<Value, ApiError> {
    let details = api.service.details(batch).await?;
    Ok(Value::Object(members(batch, &details, &BatchLinks::of(api, headers, context))))
}

/// Where the batch routes are, from the reader's point of view.
pub struct BatchLinks {
    base: Base,
    /// The path of all batches, in the spelling that the request used.
    batches: &'static str,
    mount: &'static str,
}

impl BatchLinks {
    /// The links as the client of a request sees them.
    pub fn of(api: &Api, headers: &HeaderMap, context: &Context) -> Self {
        Self { base: Base::of(api.public_url.as_deref(), headers), batches: context.batches, mount: context.mount }
    }

    /// The links for a message that no request asked for; without a base URL, the links are paths.
    pub fn at(base: Option<String>) -> Self {
        Self { base: Base::at(base.unwrap_or_default()), batches: "batches", mount: "/v1" }
    }

    /// The URL of a batch.
    pub fn polling(&self, id: &str) -> String {
        self.base.join(&format!("{}/{}/{id}", self.mount, self.batches))
    }

    /// The URL of the WebSocket that reports a batch's changes.
    pub fn socket(&self, id: &str) -> String {
        let url = self.base.join(&format!("{}/async/batch/{id}/ws", self.mount));
        url.strip_prefix("http").map_or_else(|| url.clone(), |rest| format!("ws{rest}"))
    }
}

/// The members of the object.
pub fn members(batch: &Batch, details: &BatchDetails, place: &BatchLinks) -> Map<String, Value> {
    let mut shown = match serde_json::to_value(BatchObject::new(batch, &details.waiting)) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    };
    let id = batch.spec.id.in_upper();
    let mut put = |name: &str, value: Value| _ = shown.insert(name.to_owned(), value);
    put("id", json!(id));
    put("lifecycle_status", json!(lifecycle(&batch.state)));
    put("progress", json!(percent(&batch.state, &batch.progress)));
    if let Some((_, gateway)) = batch.spec.gateway() {
        of_gateway(gateway, &id, &details.event_log, &mut put);
    }
    let url = place.polling(&id);
    let ended = batch.state.is_terminal();
    put("websocket_url", json!(place.socket(&id)));
    put("cancel_url", if ended { Value::Null } else { json!(format!("{url}/cancel")) });
    put("results_url", if ended { json!(format!("{url}/results")) } else { Value::Null });
    put("polling_url", json!(url));
    put("pricing_lines", json!(billing::lines(batch, details.receipt.as_ref())));
    put("billing", billing::object(batch, details));
    match ended {
        true => put("usage", billing::usage(batch, details)),
        false => _ = shown.remove("usage"),
    }
    shown
}

fn of_gateway(gateway: &PhaseoDetails, id: &str, event_log: &EventLog, put: &mut impl FnMut(&str, Value)) {
    put("request_id", json!(gateway.request.in_upper()));
    put("provider", json!(gateway.provider));
    // A batch is not a job of a provider, because its rows are called one by one.
    put("native_batch_id", json!(id));
    if let Some(session) = &gateway.session {
        put("session_id", json!(session));
    }
    if let Some(subscription) = &gateway.subscription {
        put("webhook", webhook_object::object(subscription, event_log));
    }
}

/// An item of a list: its times are texts, and it has the time of its last change.
pub fn list_item(batch: &Batch, details: &BatchDetails, place: &BatchLinks) -> Value {
    let mut shown = members(batch, details, place);
    shown.insert("created_at".to_owned(), json!(text(batch.spec.created_at)));
    shown.insert("updated_at".to_owned(), json!(text(updated(batch))));
    Value::Object(shown)
}
