//! Quotas of organisations and keys: `/admin/organisations/{org_id}/quotas` and
//! `/admin/organisations/{org_id}/keys/{api_key_id}/quotas`, and their form in answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::keys;
use super::orgs::known;
use crate::domain::id::{KeyId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::ApiKey;
use crate::domain::org::quotas::{Limit, of_micros, to_micros};
use crate::http::request::{Object, PathId, PathIds};
use crate::http::response::error::ApiError;
use crate::http::response::money::digits;
use crate::http::state::Api;
use crate::service::quotas::{QuotaChange, QuotaUsed};

/// `GET /admin/organisations/{org_id}/quotas`: each limit with its quota and what is used of it.
pub async fn of_org(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>) -> Result<Json<Value>, ApiError> {
    known(&api, id).await?;
    Ok(Json(of_an_org(&api, id).await?))
}

/// `POST /admin/organisations/{org_id}/quotas`: sets the quotas that the body names, and lifts those
/// that are null in it. What the organisation has already stays.
pub async fn set_of_org(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>, body: Object) -> Result<Json<Value>, ApiError> {
    let change = change(&body, &Limit::ALL)?;
    known(&api, id).await?;
    api.service.set_org_quotas(id, change).await?;
    Ok(Json(of_an_org(&api, id).await?))
}

/// `GET /admin/organisations/{org_id}/keys/{api_key_id}/quotas`
pub async fn of_key(State(api): State<Arc<Api>>, PathIds(org, id): PathIds<OrgId, KeyId>) -> Result<Json<Value>, ApiError> {
    known(&api, org).await?;
    Ok(Json(of_a_key(&api, &keys::find(&api.service, org, id).await?)))
}

/// `POST /admin/organisations/{org_id}/keys/{api_key_id}/quotas`
pub async fn set_of_key(
    State(api): State<Arc<Api>>,
    PathIds(org, id): PathIds<OrgId, KeyId>,
    body: Object,
) -> Result<Json<Value>, ApiError> {
    let change = change(&body, &Limit::OF_KEYS)?;
    known(&api, org).await?;
    Ok(Json(of_a_key(&api, &api.service.set_key_quotas(org, id, change).await?)))
}

async fn of_an_org(api: &Api, id: OrgId) -> Result<Value, ApiError> {
    Ok(json!({ "org_id": id.in_hex(), "quotas": shown(&api.service.org_quotas(id).await?) }))
}

fn of_a_key(api: &Api, key: &ApiKey) -> Value {
    let quotas = shown(&api.service.key_quotas(key.id, &key.quotas));
    json!({ "org_id": key.org.in_hex(), "api_key_id": key.id.in_hex(), "quotas": quotas })
}

/// Reads which limits are to change.
fn change(body: &Object, limits: &[Limit]) -> Result<QuotaChange, ApiError> {
    let known: Vec<_> = limits.iter().map(|limit| limit.as_str()).collect();
    body.only(&known)?;
    let mut change = Vec::new();
    for limit in limits {
        match amount(body, *limit)? {
            Some(amount) => change.push((*limit, Some(amount))),
            None if body.is_null(limit.as_str()) => change.push((*limit, None)),
            None => {}
        }
    }
    match (change.is_empty(), known.first()) {
        (true, Some(first)) => {
            let message = format!("name at least one quota to set, or to lift with null, such as `{first}`");
            Err(ApiError::invalid(first, message))
        }
        _ => Ok(change),
    }
}

fn amount(body: &Object, limit: Limit) -> Result<Option<u64>, ApiError> {
    let field = limit.as_str();
    if limit.is_money() {
        return Ok(body.dollars(field)?.map(|dollars| to_micros(Usd(dollars))));
    }
    let found = body.integer(field)?;
    let amount = found.map(|amount| u64::try_from(amount).map_err(|_| body.invalid(field, "must not be negative")));
    amount.transpose()
}

/// Renders quotas with what is used of each; null where there is no quota, or nothing is counted.
pub fn shown(quotas: &[QuotaUsed]) -> Value {
    let amount = |limit: Limit, amount: Option<u64>| match amount {
        Some(micros) if limit.is_money() => json!(digits(of_micros(micros).0)),
        amount => json!(amount),
    };
    let each = |QuotaUsed { limit, most, used }: &QuotaUsed| {
        (limit.as_str().to_owned(), json!({ "limit": amount(*limit, *most), "used": amount(*limit, *used) }))
    };
    Value::Object(quotas.iter().map(each).collect::<Map<_, _>>())
}
