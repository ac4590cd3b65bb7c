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
use super::error::Refusal;
use super::money::money;
use super::quotes::object::moment;
use crate::domain::error::Code;
use crate::domain::id::KeyId;
use crate::domain::org::ledger::{Account, Credits};
use crate::domain::org::{KeyKind, Organisation};
use crate::http::admin::keys;
use crate::http::admin::keys::NewKey;
use crate::http::layers::auth::Caller;
use crate::http::request::{Object, PathId};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::{Added, MAX_REGISTERED};

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

/// `POST /v1/auth/account/api-keys`: the one answer that has the secret.
pub async fn create_key(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Object) -> Result<Response, Refusal> {
    let made = keys::create(&api, caller.org, KeyKind::BatchRouter, &body).await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// `GET /v1/auth/account/api-keys`
pub async fn list_keys(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({ "data": keys::list(&api, caller.org).await? })))
}

/// `DELETE /v1/auth/account/api-keys/{api_key_id}`
pub async fn revoke_key(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<KeyId>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(keys::revoke(&api, caller.org, id).await?))
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
    let name = keys::name(&body, &["agent_name", "name"])?.unwrap_or_else(|| "Registered by itself".to_owned());
    let now = api.clock.now();
    let org = Organisation::new(name, now);
    let made = NewKey::generate(org.id, KeyKind::BatchRouter, None, None, now)?;
    add_org(&api, &org, api.accounts.first_credits, Some(&made), MAX_REGISTERED).await?;
    let answer = json!({
        "org_id": org.id.in_hex(), "name": org.name,
        "api_key": made.secret, "api_key_id": made.key.id.in_hex(), "expires_at": null,
    });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Keeps a new organisation, with its first key if it is to have one.
///
/// # Errors
/// When there are `most` already, or the store has failed.
pub async fn add_org(api: &Api, org: &Organisation, credits: Credits, made: Option<&NewKey>, most: usize) -> Result<(), ApiError> {
    let key = made.map(|made| (made.key.clone(), made.digest));
    match api.store.add_org(org.clone(), credits, key, most).await? {
        Added::Done => {
            tracing::info!(org = %org.id, "organisation added");
            Ok(())
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
