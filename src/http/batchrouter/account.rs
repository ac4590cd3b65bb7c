//! `/v1/auth`: the caller's account, its keys, its webhook receiver, and new organisations (the
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
use crate::domain::error::Code;
use crate::domain::id::KeyId;
use crate::domain::org::{KeyKind, Organisation};
use crate::http::admin::{keys, orgs, quotas};
use crate::http::layers::audit::Made;
use crate::http::layers::caller::Caller;
use crate::http::request::{Object, PathId};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::orgs::{KeyOrder, NewKey};
use crate::store::MAX_REGISTERED;

/// `GET /v1/auth/account`
pub async fn account(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    let org = api.service.store.org(caller.org).await.map_err(ApiError::from)?;
    let org = org.ok_or_else(|| ApiError::internal("a key belongs to an organisation that does not exist"))?;
    let account = api.service.store.account(caller.org).await.map_err(ApiError::from)?;
    let mut shown = orgs::shown(&org, &account);
    shown["delivery_webhook"] = json!(org.webhook.map(|webhook| json!({ "url": webhook.url })));
    Ok(Json(shown))
}

/// `GET /v1/auth/account/quotas`: what the caller's organisation and key may use, and use now.
pub async fn quotas(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    let key = caller.client().map(|key| quotas::shown(&api.service.key_quotas(key.id, &key.quotas)));
    let org = api.service.org_quotas(caller.org).await?;
    Ok(Json(json!({ "org_id": caller.org.in_hex(), "organisation": quotas::shown(&org), "api_key": key })))
}

/// `POST /v1/auth/account/api-keys`: the only answer that has the key's secret.
pub async fn create_key(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Object) -> Result<Response, Refusal> {
    let made = keys::create(&api.service, caller.org, KeyKind::BatchRouter, &body, caller.client()).await?;
    Ok((StatusCode::CREATED, keys::id_of(&made), Json(made)).into_response())
}

/// `GET /v1/auth/account/api-keys`
pub async fn list_keys(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({ "data": keys::list(&api.service, caller.org).await? })))
}

/// `DELETE /v1/auth/account/api-keys/{api_key_id}`
pub async fn revoke_key(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<KeyId>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(keys::revoke(&api.service, caller.org, id, caller.client()).await?))
}

/// `POST /v1/auth/agent-register`: an organisation and its first key, for every client that can
/// reach the daemon.
pub async fn register(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refusal> {
    if !api.accounts.may_register {
        return Err(ApiError::new(Code::Forbidden, "registration is off; ask the operator of this daemon for a key").into());
    }
    api.check_open()?;
    api.check_room(0)?;
    // Every field is optional, and so is the body.
    let has_body = !request.body().is_end_stream() && request.headers().contains_key(CONTENT_TYPE);
    let body = if has_body { Object::from_request(request, &api).await? } else { Object::default() };
    let name = keys::name(&body, &["agent_name", "name"])?.unwrap_or_else(|| "Registered by itself".to_owned());
    let now = api.service.clock.now();
    let org = Organisation::new(name, now);
    let made = NewKey::generate(org.id, KeyOrder::first(), now)?;
    api.service.add_org(&org, api.accounts.first_credits, Some(&made), MAX_REGISTERED).await?;
    let answer = json!({
        "org_id": org.id.in_hex(), "name": org.name,
        "api_key": made.secret, "api_key_id": made.key.id.in_hex(), "expires_at": null,
    });
    let made = Made(org.id.to_string());
    Ok((StatusCode::CREATED, Extension(made), Json(answer)).into_response())
}

/// `GET /v1/auth/account/delivery-webhook`
pub async fn webhook(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    let org = api.service.store.org(caller.org).await.map_err(ApiError::from)?;
    Ok(Json(json!({ "url": org.and_then(|org| org.webhook).map(|webhook| webhook.url) })))
}

/// `PUT /v1/auth/account/delivery-webhook`: sets the receiver for every batch that names no
/// receiver of its own.
pub async fn set_webhook(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Object) -> Result<Json<Value>, Refusal> {
    let receiver = receiver(&body)?;
    check_receiver(&api, &receiver)?;
    let webhook = sealed(&api, receiver)?;
    let url = webhook.url.clone();
    api.service.store.set_org_webhook(caller.org, Some(webhook)).await.map_err(ApiError::from)?;
    Ok(Json(json!({ "url": url })))
}

/// `DELETE /v1/auth/account/delivery-webhook`
pub async fn remove_webhook(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Refusal> {
    api.service.store.set_org_webhook(caller.org, None).await.map_err(ApiError::from)?;
    Ok(Json(json!({ "url": null })))
}
