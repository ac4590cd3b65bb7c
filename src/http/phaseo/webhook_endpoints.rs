//! `/v1/webhook-endpoints`: receivers that are managed separately from batches, with a management
//! key or by the operator.
//!
//! The secret is shown only in the answer that creates it. The stored copy is sealed with a key
//! that lies outside the store.

use std::sync::Arc;

use axum::extract::{RawPathParams, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::context::Context;
use super::error::{Refusal, respond};
use crate::domain::batch::phaseo::Phase;
use crate::domain::id::ReceiverId;
use crate::domain::text;
use crate::domain::webhook::Webhook;
use crate::domain::webhook::endpoint::{ProbeRefusal, Receiver, ReceiverStatus};
use crate::domain::webhook::target_policy::Unwanted;
use crate::http::layers::caller::Caller;
use crate::http::request::{Object, Params, named};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::key_secret;

const DEFAULT_NAME: &str = "Async webhooks";
const MAX_NAME: usize = 120;
const MAX_URL: usize = 2_048;
const MAX_LIST: usize = 100;
/// The most names of events that one receiver may subscribe to.
const MAX_EVENTS: usize = 32;
/// When a test message that was refused may be tried again: most receivers answer within that.
const RETRY_SECONDS: u32 = 5;

/// `{"error": {"type": ..., "message": ..., "details": ...}}`, an envelope that only these routes
/// use.
fn invalid(reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::nested(StatusCode::BAD_REQUEST, "validation_error", reason, message).with("details", json!({ "reason": reason }))
}

fn not_found() -> Refusal {
    Refusal::nested(StatusCode::NOT_FOUND, "not_found", "webhook_endpoint_not_found", "there is no such webhook endpoint in this workspace")
}

/// The refusal of a test message while too many messages are being sent.
fn too_many(refusal: &ProbeRefusal, context: &Context) -> Response {
    let reason = "webhook_tests_limit_reached";
    let refusal = Refusal::nested(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", reason, refusal.to_string());
    let mut response = refusal.with("details", json!({ "reason": reason })).respond(context);
    response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into());
    response
}

fn id_of(path: &RawPathParams) -> Result<ReceiverId, Refusal> {
    named(path, "endpoint_id").parse().map_err(|_| not_found())
}

/// A receiver as it is shown, without its secret.
fn shown(receiver: &Receiver) -> Value {
    let at = super::batches::moments::text;
    json!({
        "id": receiver.id.to_string(),
        "object": "webhook_endpoint",
        "workspaceId": receiver.org.to_string(),
        "name": receiver.name,
        "url": receiver.webhook.url,
        "status": receiver.status,
        "events": receiver.events,
        "hasSecret": true,
        "createdBy": null,
        "createdAt": at(receiver.created_at),
        "updatedAt": at(receiver.updated_at),
        "deletedAt": receiver.deleted_at.map(at),
    })
}

fn with_secret(receiver: &Receiver, secret: &str) -> Value {
    let mut shown = shown(receiver);
    shown["signing_secret"] = json!(secret);
    shown
}

/// Generates a secret, and the sealed form that is stored.
fn new_secret(api: &Api) -> Result<(String, Vec<u8>), ApiError> {
    let secret = key_secret::of_webhook().map_err(|_| ApiError::internal("the machine has no random numbers"))?;
    let sealed = api.seal(&secret)?;
    Ok((secret, sealed))
}

/// The URL of a receiver, if the URL alone does not rule out calling it.
///
/// # Errors
/// When the URL is missing, invalid, or may not be called.
pub fn url_of(api: &Api, text: Option<&str>) -> Result<String, Refusal> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| invalid("webhook_url_required", "`url` is missing; it is where messages are sent"))?;
    let url = text.parse::<http::Uri>().ok().filter(|url| text.len() <= MAX_URL && url.host().is_some() && url.scheme().is_some());
    let url =
        url.ok_or_else(|| invalid("webhook_url_invalid", format!("`url` must be an absolute URL of at most {MAX_URL} characters")))?;
    match api.accounts.targets.check(&url) {
        Ok(()) => Ok(text.to_owned()),
        Err(error @ Unwanted::Private) => Err(invalid("webhook_url_private_network_not_allowed", format!("`url` {error}"))),
        Err(error @ Unwanted::Authority(_)) => Err(invalid("webhook_url_invalid", format!("`url` {error}"))),
        Err(error) if url.scheme_str() != Some("https") => Err(invalid("webhook_url_must_use_https", format!("`url` {error}"))),
        Err(error) => Err(invalid("webhook_url_invalid", format!("`url` {error}"))),
    }
}

fn name_of(body: &Object) -> Result<Option<String>, Refusal> {
    match body.text("name")?.map(str::trim) {
        Some(name) if (1..=MAX_NAME).contains(&name.chars().count()) => Ok(Some(name.to_owned())),
        Some(_) => Err(invalid("webhook_name_invalid", format!("`name` must have 1 to {MAX_NAME} characters"))),
        None => Ok(None),
    }
}

/// The names of events: of batches, of jobs, and of videos. Names of video events are kept, but
/// have no effect here.
fn events_of(body: &Object) -> Result<Option<Vec<String>>, Refusal> {
    if body.value("events").is_none() {
        return Ok(None);
    }
    let mut events: Vec<String> = body.texts("events")?.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    let is_known = |name: &String| Phase::of_event(name.strip_prefix("video.").unwrap_or(name)).is_some();
    if let Some(unknown) = events.iter().find(|name| !is_known(name)) {
        let shown = text::shown(unknown);
        return Err(invalid(
            "webhook_events_invalid",
            format!("`{shown}` is no event; there are `batch.`, `job.` and one of {}", Phase::choices()),
        ));
    }
    events.dedup();
    match events.len() {
        0 => Ok(Some(defaults())),
        count if count > MAX_EVENTS => Err(invalid("webhook_events_invalid", format!("`events` may have at most {MAX_EVENTS} members"))),
        _ => Ok(Some(events)),
    }
}

fn defaults() -> Vec<String> {
    Receiver::DEFAULT_EVENTS.map(str::to_owned).to_vec()
}

/// `GET /v1/webhook-endpoints`
pub async fn list(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, context: Context, params: Params) -> Response {
    let answer = async {
        let number = |name: &str| params.all(name).first().and_then(|text| text.parse::<usize>().ok());
        let with_deleted = params.all("include_deleted").first().is_some_and(|word| *word == "true");
        let all = api.service.store.receivers(caller.org).await.map_err(ApiError::from)?;
        let wanted = all.iter().filter(|receiver| with_deleted || receiver.status != ReceiverStatus::Deleted);
        let limit = number("limit").unwrap_or(MAX_LIST).clamp(1, MAX_LIST);
        let data: Vec<_> = wanted.skip(number("offset").unwrap_or(0)).take(limit).map(shown).collect();
        Ok(Json(json!({ "object": "list", "data": data })).into_response())
    };
    respond(answer.await, &context)
}

/// `POST /v1/webhook-endpoints`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    body: Result<Object, ApiError>,
) -> Response {
    let answer = async {
        api.check_open()?;
        let body = body?;
        let url = url_of(&api, body.text("url")?)?;
        let (secret, sealed_secret) = new_secret(&api)?;
        let now = api.service.clock.now();
        let receiver = Receiver {
            id: ReceiverId::generate(now),
            org: caller.org,
            name: name_of(&body)?.unwrap_or_else(|| DEFAULT_NAME.to_owned()),
            webhook: Webhook { url, sealed_secret },
            status: ReceiverStatus::Active,
            events: events_of(&body)?.unwrap_or_else(defaults),
            created_at: now,
            updated_at: now,
            deleted_at: None,
        };
        match api.service.store.add_receiver(receiver.clone()).await.map_err(ApiError::from)? {
            true => Ok((StatusCode::CREATED, Json(with_secret(&receiver, &secret))).into_response()),
            false => Err(invalid("webhook_endpoint_limit_reached", "the workspace has as many webhook endpoints as it can have")),
        }
    };
    respond(answer.await, &context)
}

/// `GET /v1/webhook-endpoints/{endpoint_id}`
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    path: RawPathParams,
) -> Response {
    let answer = async {
        let found = api.service.store.receiver(caller.org, id_of(&path)?).await.map_err(ApiError::from)?;
        Ok(Json(shown(&found.ok_or_else(not_found)?)).into_response())
    };
    respond(answer.await, &context)
}

/// `PATCH /v1/webhook-endpoints/{endpoint_id}`
pub async fn change(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    path: RawPathParams,
    body: Result<Object, ApiError>,
) -> Response {
    let answer = async {
        let (id, body, now) = (id_of(&path)?, body?, api.service.clock.now());
        let url = body.text("url")?.map(|url| url_of(&api, Some(url))).transpose()?;
        let (name, events) = (name_of(&body)?, events_of(&body)?);
        let status = match body.text("status")? {
            None => None,
            Some("active") => Some(ReceiverStatus::Active),
            Some("disabled") => Some(ReceiverStatus::Disabled),
            Some(_) => return Err(invalid("webhook_status_invalid", "`status` must be `active` or `disabled`")),
        };
        let changed = api.service.store.change_receiver((caller.org, id), move |receiver| Receiver {
            name: name.unwrap_or(receiver.name),
            webhook: Webhook { url: url.unwrap_or(receiver.webhook.url), ..receiver.webhook },
            events: events.unwrap_or(receiver.events),
            status: status.unwrap_or(receiver.status),
            updated_at: now,
            ..receiver
        });
        Ok(Json(shown(&changed.await.map_err(ApiError::from)?.ok_or_else(not_found)?)).into_response())
    };
    respond(answer.await, &context)
}

/// `POST /v1/webhook-endpoints/{endpoint_id}/rotate-secret`: from now on, messages are signed with
/// the new secret.
pub async fn rotate(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, context: Context, path: RawPathParams) -> Response {
    let answer = async {
        let (id, now) = (id_of(&path)?, api.service.clock.now());
        let (secret, sealed_secret) = new_secret(&api)?;
        let changed = api.service.store.change_receiver((caller.org, id), move |receiver| Receiver {
            webhook: Webhook { sealed_secret, ..receiver.webhook },
            updated_at: now,
            ..receiver
        });
        Ok(Json(with_secret(&changed.await.map_err(ApiError::from)?.ok_or_else(not_found)?, &secret)).into_response())
    };
    respond(answer.await, &context)
}

/// `DELETE /v1/webhook-endpoints/{endpoint_id}`: the receiver gets no more messages, but can still
/// be read.
pub async fn delete(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, context: Context, path: RawPathParams) -> Response {
    let answer = async {
        let (id, now) = (id_of(&path)?, api.service.clock.now());
        let changed = api.service.store.change_receiver((caller.org, id), move |receiver| Receiver {
            status: ReceiverStatus::Deleted,
            deleted_at: Some(now),
            updated_at: now,
            ..receiver
        });
        changed.await.map_err(ApiError::from)?.ok_or_else(not_found)?;
        Ok(Json(json!({ "id": id.to_string(), "object": "webhook_endpoint", "deleted": true })).into_response())
    };
    respond(answer.await, &context)
}

/// `POST /v1/webhook-endpoints/{endpoint_id}/test`: sends one message, and reports its outcome.
pub async fn test(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, context: Context, path: RawPathParams) -> Response {
    let answer = async {
        api.check_open()?;
        let found = api.service.store.receiver(caller.org, id_of(&path)?).await.map_err(ApiError::from)?;
        let receiver = found.filter(|receiver| receiver.status != ReceiverStatus::Deleted).ok_or_else(not_found)?;
        let probed = match (api.probe)(receiver).await {
            Ok(probed) => probed,
            Err(refusal) => return Ok(too_many(&refusal, &context)),
        };
        let body = json!({
            "ok": probed.error.is_none(),
            "event_id": probed.event,
            "status_code": probed.status,
            "error": probed.error,
            "response_body_preview": probed.preview,
        });
        Ok(Json(body).into_response())
    };
    respond(answer.await, &context)
}
