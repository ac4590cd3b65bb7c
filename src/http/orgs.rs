//! `/admin/organisations`: whom the operator lets in, and what they may spend.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::Api;
use super::batchrouter::account::{add_org, shown};
use super::error::ApiError;
use super::extract::{Object, PathId};
use super::keys::NewKey;
use crate::domain::id::OrgId;
use crate::domain::ledger::{Account, Credits};
use crate::domain::money::Usd;
use crate::domain::org::{KeyKind, Organisation};
use crate::store::MAX_ORGS;

/// `GET /admin/organisations`: the operator's own first.
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let mut data = Vec::new();
    let own = api.store.org(OrgId::OPERATOR).await?;
    let others = api.store.orgs().await?.into_iter().filter(|org| org.id != OrgId::OPERATOR);
    for org in own.into_iter().chain(others) {
        data.push(shown(&org, &api.store.account(org.id).await?));
    }
    Ok(Json(json!({ "data": data })))
}

/// `POST /admin/organisations`: adds one; the answer has its first key.
pub async fn create(State(api): State<Arc<Api>>, body: Object) -> Result<Response, ApiError> {
    api.check_open()?;
    body.only(&["name", "credits"])?;
    let name = body.need_text("name", "it is what people call the organisation")?.to_owned();
    let credits = match body.dollars("credits")? {
        Some(amount) => Credits::Prepaid(Usd(amount)),
        None => Credits::Unlimited,
    };
    let now = api.clock.now();
    let org = Organisation::new(name, now);
    let made = NewKey::generate(org.id, KeyKind::BatchRouter, None, None, now)?;
    add_org(&api, &org, credits, Some(&made), MAX_ORGS).await?;
    let mut answer = shown(&org, &Account { credits, ..Account::default() });
    answer["api_key"] = json!(made.secret);
    answer["api_key_id"] = json!(made.key.id.in_hex());
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `POST /admin/organisations/{org_id}/credits`: grants more, or lifts the limit.
pub async fn credit(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>, body: Object) -> Result<Json<Value>, ApiError> {
    body.only(&["grant", "unlimited"])?;
    let org: Organisation = api.store.org(id).await?.ok_or_else(|| ApiError::not_found("organisation", id.in_hex()))?;
    let (grant, unlimited) = (body.dollars("grant")?, body.flag("unlimited")?.unwrap_or(false));
    let account = match (grant, unlimited) {
        (Some(amount), false) => api.store.change_credits(id, move |account| granted(account, amount)).await?,
        (None, true) => api.store.change_credits(id, |_| Credits::Unlimited).await?,
        (None, false) | (Some(_), true) => {
            return Err(ApiError::missing("grant", "it is an amount in US dollars such as \"25.00\"; or `unlimited` is true"));
        }
    };
    tracing::info!(org = %id, "credits changed");
    Ok(Json(shown(&org, &account)))
}

/// An organisation without a limit has one from its first grant on, and starts with that.
fn granted(account: &Account, amount: Decimal) -> Credits {
    match account.credits {
        Credits::Unlimited => Credits::Prepaid(Usd(amount).plus(account.charged).plus(account.reserved)),
        Credits::Prepaid(before) => Credits::Prepaid(before.plus(Usd(amount))),
    }
}
