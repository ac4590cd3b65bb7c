//! `/admin/organisations`: the organisations that the operator lets in, their keys, and what they
//! may spend.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::keys;
use crate::domain::id::{KeyId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Account, Credits};
use crate::domain::org::{KeyKind, NoKind, Organisation};
use crate::http::layers::audit::Made;
use crate::http::request::{Object, Params, PathId, PathIds, quoted, unknown_choice};
use crate::http::response::error::ApiError;
use crate::http::response::money::money;
use crate::http::response::time::moment;
use crate::http::state::Api;
use crate::service::orgs::{KeyOrder, NewKey};
use crate::store::MAX_ORGS;

/// The balance that an account without a limit shows: clients compare the balance with what they
/// are about to spend.
const NO_LIMIT: u64 = 1_000_000_000;

/// `GET /admin/organisations`: the operator's own organisation first. `name` selects the
/// organisations with that name, `api_key_id` the organisation that the key belongs to.
pub async fn list(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Value>, ApiError> {
    let (name, key) = (params.text("name")?, params.id::<KeyId>("api_key_id")?);
    let owner = key.map(|key| api.service.store.org_of_key(key)).transpose()?;
    let is_asked_for = |org: &Organisation| name.is_none_or(|name| org.name == name) && owner.is_none_or(|owner| Some(org.id) == owner);
    let mut data = Vec::new();
    let own = api.service.store.org(OrgId::OPERATOR).await?;
    let others = api.service.store.orgs().await?.into_iter().filter(|org| org.id != OrgId::OPERATOR);
    for org in own.into_iter().chain(others).filter(is_asked_for) {
        data.push(shown(&org, &api.service.store.account(org.id).await?));
    }
    Ok(Json(json!({ "data": data })))
}

/// `POST /admin/organisations`: adds an organisation; the answer has its first key, unless
/// `api_key` is false.
pub async fn create(State(api): State<Arc<Api>>, body: Object) -> Result<Response, ApiError> {
    api.check_open()?;
    body.only(&["name", "credits", "api_key"])?;
    let name = keys::name(&body, &["name"])?.ok_or_else(|| ApiError::missing("name", "it is what people call the organisation"))?;
    let credits = match body.dollars("credits")? {
        Some(amount) => Credits::Prepaid(Usd(amount)),
        None => Credits::Unlimited,
    };
    let now = api.service.clock.now();
    let org = Organisation::new(name, now);
    let made = match body.flag("api_key")? {
        Some(true) | None => Some(NewKey::generate(org.id, KeyOrder::first(), now)?),
        Some(false) => None,
    };
    api.service.add_org(&org, credits, made.as_ref(), MAX_ORGS).await?;
    let mut answer = shown(&org, &Account { credits, ..Account::default() });
    if let Some(made) = made {
        answer["api_key"] = json!(made.secret);
        answer["api_key_id"] = json!(made.key.id.in_hex());
    }
    let made = Made(org.id.to_string());
    Ok((StatusCode::CREATED, Extension(made), Json(answer)).into_response())
}

/// `POST /admin/organisations/{org_id}/credits`: grants more credits, or lifts the limit.
pub async fn credit(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>, body: Object) -> Result<Json<Value>, ApiError> {
    body.only(&["grant", "unlimited"])?;
    let org = known(&api, id).await?;
    let (grant, unlimited) = (body.dollars("grant")?, body.flag("unlimited")?.unwrap_or(false));
    let account = match (grant, unlimited) {
        (Some(amount), false) => api.service.grant(id, amount).await?,
        (None, true) => api.service.lift_limit(id).await?,
        (None, false) | (Some(_), true) => {
            return Err(ApiError::missing("grant", "it is an amount in US dollars such as \"25.00\"; or `unlimited` is true"));
        }
    };
    Ok(Json(shown(&org, &account)))
}

/// `GET /admin/organisations/{org_id}`
pub async fn retrieve(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>) -> Result<Json<Value>, ApiError> {
    let org = known(&api, id).await?;
    Ok(Json(shown(&org, &api.service.store.account(id).await?)))
}

/// `POST /admin/organisations/{org_id}`: gives it another name.
pub async fn rename(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>, body: Object) -> Result<Json<Value>, ApiError> {
    body.only(&["name"])?;
    let name = keys::name(&body, &["name"])?.ok_or_else(|| ApiError::missing("name", "it is what people call the organisation"))?;
    known(&api, id).await?;
    let org = api.service.rename_org(id, name).await?;
    Ok(Json(shown(&org, &api.service.store.account(id).await?)))
}

/// `POST /admin/organisations/{org_id}/close`: its keys are dead when this answers. Its batches are
/// cancelled after that, and its data is kept or erased.
pub async fn close(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>, body: Object) -> Result<Json<Value>, ApiError> {
    body.only(&["data"])?;
    let erases = match body.need_text("data", "it is `keep` or `erase`, and what is erased does not come back")? {
        "keep" => false,
        "erase" => true,
        other => return Err(unknown_choice("data", other, "`keep` or `erase`")),
    };
    known(&api, id).await?;
    let org = api.service.close_org(id, erases).await?;
    let service = api.service.clone();
    api.service.tasks.spawn(async move {
        if let Err(error) = service.wind_up(&HashSet::new()).await {
            tracing::warn!(org = %id, %error, "what is left of a closed organisation has to wait for the next look");
        }
    });
    Ok(Json(shown(&org, &api.service.store.account(id).await?)))
}

/// The organisation with that id.
///
/// # Errors
/// When there is none, or the store has failed.
pub async fn known(api: &Api, id: OrgId) -> Result<Organisation, ApiError> {
    api.service.store.org(id).await?.ok_or_else(|| ApiError::not_found("organisation", id.in_hex()))
}

/// `POST /admin/organisations/{org_id}/keys`: only this answer contains the secret.
pub async fn create_key(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>, body: Object) -> Result<Response, ApiError> {
    body.only(&["dialect", "management", "name", "expires_at", "scopes"])?;
    let dialect = body.need_text("dialect", "it says whose clients the key is for")?;
    let kind = KeyKind::of(dialect, body.flag("management")?.unwrap_or(false)).map_err(|error| match error {
        NoKind::Dialect => unknown_choice("dialect", dialect, &quoted(KeyKind::DIALECTS.iter())),
        NoKind::Management => body.invalid("management", &error.to_string()),
    })?;
    let org = known(&api, id).await?;
    let made = keys::create(&api.service, id, kind, &body, None).await?;
    Ok((StatusCode::CREATED, keys::id_of(&made), Json(owned(made, &org))).into_response())
}

/// `GET /admin/organisations/{org_id}/keys`
pub async fn list_keys(State(api): State<Arc<Api>>, PathId(id): PathId<OrgId>) -> Result<Json<Value>, ApiError> {
    let org = known(&api, id).await?;
    let data: Vec<_> = keys::list(&api.service, id).await?.into_iter().map(|key| owned(key, &org)).collect();
    Ok(Json(json!({ "data": data })))
}

/// `DELETE /admin/organisations/{org_id}/keys/{api_key_id}`
pub async fn revoke_key(State(api): State<Arc<Api>>, PathIds(id, key): PathIds<OrgId, KeyId>) -> Result<Json<Value>, ApiError> {
    let org = known(&api, id).await?;
    Ok(Json(owned(keys::revoke(&api.service, id, key, None).await?, &org)))
}

/// A key together with its organisation, which only the operator needs to see.
fn owned(mut key: Value, org: &Organisation) -> Value {
    key["org_id"] = json!(org.id.in_hex());
    key["org_name"] = json!(org.name);
    key
}

/// Renders an organisation and its account.
pub fn shown(org: &Organisation, account: &Account) -> Value {
    let available = account.available();
    json!({
        "org_id": org.id.in_hex(),
        "name": org.name,
        "created_at": moment(org.created_at),
        "state": if org.closure.is_some() { "closed" } else { "open" },
        "closed_at": org.closure.map(|closure| moment(closure.at)),
        "erased": org.closure.is_some_and(|closure| closure.erases),
        "credit_balance": money(available.map_or_else(|| NO_LIMIT.into(), |available| available.0)),
        "unlimited": available.is_none(),
        "credits": {
            "granted": match account.credits { Credits::Prepaid(granted) => money(granted.0), Credits::Unlimited => Value::Null },
            "reserved": money(account.reserved.0),
            "charged": money(account.charged.0),
        },
    })
}
