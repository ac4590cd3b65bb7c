//! `/v1/auth`: the caller's account, its keys, its receiver of messages, and new organisations (the
//! quickstart and the guide to authentication).

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http_body::Body as _;
use serde_json::{Value, json};

use super::batches::{check_receiver, receiver, sealed};
use super::money::money;
use super::quote_object::moment;
use super::refusal::Refusal;
use crate::domain::error::Code;
use crate::domain::id::{KeyId, OrgId};
use crate::domain::ledger::{Account, Credits};
use crate::domain::org::{ApiKey, Organisation};
use crate::domain::time::Timestamp;
use crate::http::Api;
use crate::http::access::Caller;
use crate::http::error::ApiError;
use crate::http::extract::{Object, PathId};
use crate::http::keys::NewKey;
use crate::store::{Added, MAX_KEYS, MAX_REGISTERED, Revoked};

/// Characters of a name.
const MAX_NAME: usize = 200;
/// What an account without a limit shows as its balance: clients compare it with what they are about to spend.
const NO_LIMIT: u64 = 1_000_000_000;

/// `GET /v1/auth/account`
pub async fn account(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    let org = api.store.org(caller.org).await.map_err(ApiError::from)?;
    let org = org.ok_or_else(|| ApiError::internal("a key belongs to an organisation that does not exist"))?;
    let account = api.store.account(caller.org).await.map_err(ApiError::from)?;
    let mut shown = shown(&org, &account);
    shown["delivery_webhook"] = json!(org.webhook.map(|webhook| json!({ "url": webhook.url })));
    Ok(Json(shown))
}

/// An organisation and its account.
pub fn shown(org: &Organisation, account: &Account) -> Value {
    let available = account.available();
    json!({
        "org_id": org.id.in_hex(),
        "name": org.name,
        "created_at": moment(org.created_at),
        "credit_balance": money(available.map_or_else(|| NO_LIMIT.into(), |available| available.0)),
        "unlimited": available.is_none(),
        "credits": {
            "granted": match account.credits { Credits::Prepaid(granted) => money(granted.0), Credits::Unlimited => Value::Null },
            "reserved": money(account.reserved.0),
            "charged": money(account.charged.0),
        },
    })
}

fn name(body: &Object, fields: &[&str]) -> Result<Option<String>, ApiError> {
    for field in fields {
        if let Some(name) = body.text(field)? {
            let fits = (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
            return match fits {
                true => Ok(Some(name.to_owned())),
                false => Err(body.invalid(field, "must have 1 to 200 characters, none of them a control character")),
            };
        }
    }
    Ok(None)
}

fn expires_at(body: &Object, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = body.text("expires_at")? else { return Ok(None) };
    let at = text.parse::<Timestamp>().ok().filter(|at| *at > now);
    at.map(Some).ok_or_else(|| body.invalid("expires_at", "must be a moment in the future, such as `2027-03-01T00:00:00Z`"))
}

/// `POST /v1/auth/account/api-keys`: the one answer that has the secret.
pub async fn create_key(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Object) -> Result<Response, Refusal> {
    api.check_open()?;
    let now = api.clock.now();
    let made = NewKey::generate(caller.org, name(&body, &["name", "label"])?, expires_at(&body, now)?, now)?;
    match api.store.add_key(made.key.clone(), made.digest).await.map_err(ApiError::from)? {
        Added::Done => {}
        Added::TooMany => {
            let message = format!("an organisation can have {MAX_KEYS} keys, those that were revoked included");
            return Err(ApiError::new(Code::Conflict, message).into());
        }
    }
    tracing::info!(key = %made.key.id, org = %made.key.org, "API key made");
    let mut shown = key_object(&made.key, now);
    shown["api_key"] = json!(made.secret);
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

fn key_object(key: &ApiKey, now: Timestamp) -> Value {
    json!({
        "api_key_id": key.id.in_hex(),
        "name": key.name,
        "created_at": moment(key.created_at),
        "expires_at": key.expires_at.map(moment),
        "revoked_at": key.revoked_at.map(moment),
        "active": key.is_good(now),
    })
}

/// `GET /v1/auth/account/api-keys`
pub async fn list_keys(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    let (keys, now) = (api.store.keys(caller.org).await.map_err(ApiError::from)?, api.clock.now());
    Ok(Json(json!({ "data": keys.iter().map(|key| key_object(key, now)).collect::<Vec<_>>() })))
}

/// `DELETE /v1/auth/account/api-keys/{api_key_id}`
pub async fn revoke_key(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<KeyId>,
) -> Result<Json<Value>, Refusal> {
    let now = api.clock.now();
    match api.store.revoke_key(caller.org, id, now).await.map_err(ApiError::from)? {
        Revoked::Done(key) => {
            tracing::info!(key = %id, "API key revoked");
            Ok(Json(key_object(&key, now)))
        }
        Revoked::NotFound => Err(ApiError::not_found("API key", id.in_hex()).into()),
        Revoked::Foreign => Err(ApiError::new(Code::Forbidden, "the key belongs to another organisation").into()),
    }
}

/// `POST /v1/auth/agent-register`: an organisation and its first key, for anybody who may call at all.
pub async fn register(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refusal> {
    if !api.accounts.may_register {
        return Err(ApiError::new(Code::Forbidden, "this daemon registers nobody by itself; ask its operator for a key").into());
    }
    api.check_open()?;
    api.check_room(0)?;
    // Every field may be left out, and so may the body.
    let has_body = !request.body().is_end_stream() && request.headers().contains_key(CONTENT_TYPE);
    let body = if has_body { Object::from_request(request, &api).await? } else { Object::default() };
    let name = name(&body, &["agent_name", "name"])?.unwrap_or_else(|| "Registered by itself".to_owned());
    let (org, made) = add_org(&api, name, api.accounts.first_credits, MAX_REGISTERED).await?;
    let answer = json!({
        "org_id": org.id.in_hex(), "name": org.name,
        "api_key": made.secret, "api_key_id": made.key.id.in_hex(), "expires_at": null,
    });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// A new organisation and its first key.
///
/// # Errors
/// When there are `most` already, or the store has failed.
pub async fn add_org(api: &Api, name: String, credits: Credits, most: usize) -> Result<(Organisation, NewKey), ApiError> {
    let now = api.clock.now();
    let org = Organisation { id: OrgId::generate(now), name, created_at: now, webhook: None };
    let made = NewKey::generate(org.id, None, None, now)?;
    match api.store.add_org(org.clone(), credits, Some((made.key.clone(), made.digest)), most).await? {
        Added::Done => {
            tracing::info!(org = %org.id, "organisation added");
            Ok((org, made))
        }
        Added::TooMany => Err(ApiError::new(Code::Conflict, format!("there are {most} organisations, and cannot be more"))),
    }
}

/// `GET /v1/auth/account/delivery-webhook`
pub async fn webhook(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    let org = api.store.org(caller.org).await.map_err(ApiError::from)?;
    Ok(Json(json!({ "url": org.and_then(|org| org.webhook).map(|webhook| webhook.url) })))
}

/// `PUT /v1/auth/account/delivery-webhook`: for every batch that names no receiver of its own.
pub async fn set_webhook(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Object) -> Result<Json<Value>, Refusal> {
    let receiver = receiver(&body)?;
    check_receiver(&api, &receiver)?;
    let webhook = sealed(&api, receiver)?;
    let url = webhook.url.clone();
    api.store.set_org_webhook(caller.org, Some(webhook)).await.map_err(ApiError::from)?;
    Ok(Json(json!({ "url": url })))
}

/// `DELETE /v1/auth/account/delivery-webhook`
pub async fn remove_webhook(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    api.store.set_org_webhook(caller.org, None).await.map_err(ApiError::from)?;
    Ok(Json(json!({ "url": null })))
}
