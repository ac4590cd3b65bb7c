//! `POST /v1/batches`: items become the input of a batch on the lanes of a quote, once for each
//! `Idempotency-Key`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use secrecy::ExposeSecret;
use serde_json::json;

use super::batch_object;
use super::create_body::{CreateBody, NamedReceiver, check_receiver};
use crate::domain::error::Code;
use crate::domain::row::batchrouter::members;
use crate::domain::webhook::Webhook;
use crate::http::batchrouter::error::Refusal;
use crate::http::batchrouter::quotes::object;
use crate::http::layers::caller::Caller;
use crate::http::request::forwarded::forwarded;
use crate::http::request::held_body::{MAX_MEMBERS, read_held};
use crate::http::request::idempotency::{KEY, bound_to_body, idempotency_key};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::batches::quoted::QuotedCreate;
use crate::store::Idempotency;

/// The allowed length of an `Idempotency-Key` in characters (BatchRouter's guide to submitting).
const KEY_CHARS: std::ops::RangeInclusive<usize> = 8..=128;

/// `POST /v1/batches`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Refusal> {
    api.check_open()?;
    let most = api.service.limits.quotes.max_body_bytes;
    let (_held, body) = read_held(request, &api, caller.owner(), most).await.map_err(|error| Refusal::of_body(error, most))?;
    create_from(&api, caller, &headers, body).await
}

/// [`create`] of a body that has been read.
///
/// # Errors
/// When the request cannot be served; nothing of the request is kept then.
pub async fn create_from(api: &Arc<Api>, caller: Caller, headers: &HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    api.check_open()?;
    let (body, once) = read(api, &caller, headers, body).await?;
    body.webhook.as_ref().map_or(Ok(()), |receiver| check_receiver(api, receiver))?;
    let asked = QuotedCreate {
        org: caller.org,
        owner: caller.owner(),
        once,
        quote: body.quote,
        items: body.items,
        item_count: body.item_count,
        defaults: body.defaults,
        stated: body.stated,
        metadata: body.metadata,
        headers: forwarded(headers, &api.service.catalog.current())?,
        webhook: body.webhook.map(|receiver| sealed(api, receiver)).transpose()?,
    };
    let made = api.service.create_quoted(asked, object::shown).await?;
    let mut answer = json!({ "batch": batch_object(api, headers, &made.created.batch) });
    if let Some(shown) = made.shown {
        answer["quote"] = serde_json::from_slice(&shown).map_err(ApiError::internal)?;
    }
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Reads a body. A large body takes time, and a turn.
async fn read(api: &Api, caller: &Caller, headers: &HeaderMap, body: Bytes) -> Result<(CreateBody, Idempotency), Refusal> {
    let (reader, headers) = (caller.clone(), headers.clone());
    let reading = move || {
        if members(&body) > MAX_MEMBERS {
            return Err(ApiError::new(Code::TooLarge, format!("the body has more than {MAX_MEMBERS} members and elements")).into());
        }
        let once = once(&headers, &reader, &body)?;
        Ok((CreateBody::read(&body)?, once))
    };
    api.service.turns.take(caller.org, reading).await
}

/// The idempotency key that a create must have, bound to the content of the body.
fn once(headers: &HeaderMap, caller: &Caller, body: &[u8]) -> Result<Idempotency, ApiError> {
    let key = idempotency_key(headers)?.ok_or_else(|| {
        let message = "the header `Idempotency-Key` is missing; it has 8 to 128 characters, and each new batch has its own";
        ApiError::new(Code::MissingIdempotencyKey, message).param(KEY)
    })?;
    if !KEY_CHARS.contains(&key.len()) {
        return Err(ApiError::invalid(KEY, "`Idempotency-Key` must have 8 to 128 visible ASCII characters"));
    }
    bound_to_body(caller.org, "batchrouter POST /v1/batches", key, body)
}

/// A receiver with its secret in the sealed form that is stored.
///
/// # Errors
/// When the machine has no random numbers.
pub fn sealed(api: &Api, receiver: NamedReceiver) -> Result<Webhook, ApiError> {
    Ok(Webhook { url: receiver.url, sealed_secret: api.seal(receiver.secret.expose_secret())? })
}
