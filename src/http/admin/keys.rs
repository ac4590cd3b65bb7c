//! API keys: their form in answers, and the fields that bodies give for them.

use axum::Extension;
use serde_json::{Value, json};

use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::scopes::{Scope, Scopes};
use crate::domain::org::{ApiKey, KeyKind, KeyState};
use crate::domain::time::Timestamp;
use crate::http::layers::audit::Made;
use crate::http::layers::caller::{ClientKey, lacks};
use crate::http::request::Object;
use crate::http::response::error::ApiError;
use crate::http::response::time::moment;
use crate::service::orgs::{KeyOrder, NewKey};
use crate::service::{Service, ServiceError};

/// The most characters that a name may have.
const MAX_NAME: usize = 200;

/// Reads a name: the first of these fields that is present.
///
/// # Errors
/// When the field is no valid name.
pub fn name(body: &Object, fields: &[&str]) -> Result<Option<String>, ApiError> {
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

/// Reads the scopes; `None` if the body has none.
fn scopes(body: &Object, kind: KeyKind) -> Result<Option<Scopes>, ApiError> {
    let words = body.texts("scopes")?;
    let scopes: Option<Vec<_>> = words.iter().map(|word| Scope::of(word)).collect();
    let wrong = || body.invalid("scopes", "must be a list of some of `read`, `write` and `manage`");
    let scopes = scopes.ok_or_else(wrong)?;
    if words.is_empty() {
        return if body.value("scopes").is_some() { Err(wrong()) } else { Ok(None) };
    }
    let scopes = Scopes::of(scopes);
    if kind.is_management() && scopes != Some(Scopes::usual(kind)) {
        return Err(body.invalid("scopes", "must be `manage` alone for a management key, which opens nothing else"));
    }
    Ok(scopes)
}

/// The key that a body asks for: it has no scope that its `maker` lacks, and does not outlive it.
/// Without a maker, the operator makes it.
fn order(body: &Object, kind: KeyKind, maker: Option<&ClientKey>, now: Timestamp) -> Result<KeyOrder, ApiError> {
    let (asked, expires_at, name) = (scopes(body, kind)?, expires_at(body, now)?, name(body, &["name", "label"])?);
    let Some(maker) = maker else {
        return Ok(KeyOrder { kind, scopes: asked.unwrap_or(Scopes::usual(kind)), name, expires_at });
    };
    // A maker has at least the scope to make keys.
    let scopes = asked.or_else(|| Scopes::usual(kind).within(maker.scopes)).unwrap_or(maker.scopes);
    if let Some(missing) = scopes.iter().find(|scope| !maker.scopes.has(*scope)) {
        return Err(lacks(missing, maker.scopes).param("scopes"));
    }
    match (maker.expires_at, expires_at) {
        (Some(last), Some(at)) if at > last => {
            let rule = format!("must not be later than {}, when the key expires that makes this one", moment(last));
            Err(body.invalid("expires_at", &rule))
        }
        (last, at) => Ok(KeyOrder { kind, scopes, name, expires_at: at.or(last) }),
    }
}

/// Makes the key that a body asks for; only this answer contains the secret. `maker` is the key of
/// the client that makes it; `None` for the operator.
///
/// # Errors
/// When the body asks for something impossible or for more than the maker has, the organisation has
/// as many keys as it may have, or the store has failed.
pub async fn create(service: &Service, org: OrgId, kind: KeyKind, body: &Object, maker: Option<&ClientKey>) -> Result<Value, ApiError> {
    service.check_open()?;
    let now = service.clock.now();
    let made = NewKey::generate(org, order(body, kind, maker, now)?, now)?;
    service.add_key(&made).await?;
    let mut shown = shown(&made.key, now);
    shown["api_key"] = json!(made.secret);
    Ok(shown)
}

/// The id of a key that was just made, for the audit log.
pub fn id_of(made: &Value) -> Extension<Made> {
    Extension(Made(made["api_key_id"].as_str().unwrap_or_default().to_owned()))
}

/// Lists the keys of an organisation, oldest first.
///
/// # Errors
/// When the store has failed.
pub async fn list(service: &Service, org: OrgId) -> Result<Vec<Value>, ApiError> {
    let (keys, now) = (service.store.keys(org).await?, service.clock.now());
    Ok(keys.iter().map(|key| shown(key, now)).collect())
}

/// Finds a key of an organisation.
///
/// # Errors
/// When the organisation has no such key, or the store has failed.
pub async fn find(service: &Service, org: OrgId, id: KeyId) -> Result<ApiKey, ApiError> {
    let found = service.store.keys(org).await?.into_iter().find(|key| key.id == id);
    Ok(found.ok_or(ServiceError::KeyNotFound(id))?)
}

/// Revokes a key of an organisation, and returns the key's object. `by` is the key of the client
/// that revokes it; `None` for the operator.
///
/// # Errors
/// When the organisation has no such key, the key has scopes that the client's lacks, or the store
/// has failed.
pub async fn revoke(service: &Service, org: OrgId, id: KeyId, by: Option<&ClientKey>) -> Result<Value, ApiError> {
    if let Some(by) = by {
        let key = find(service, org, id).await?;
        if let Some(missing) = key.scopes.iter().find(|scope| !by.scopes.has(*scope)) {
            return Err(lacks(missing, by.scopes));
        }
    }
    let revoked = service.revoke_key(org, id).await?;
    Ok(shown(&revoked, service.clock.now()))
}

fn shown(key: &ApiKey, now: Timestamp) -> Value {
    let state = key.state(now);
    json!({
        "api_key_id": key.id.in_hex(),
        "dialect": key.kind.dialect(),
        "management": key.kind.is_management(),
        "scopes": key.scopes.iter().map(Scope::as_str).collect::<Vec<_>>(),
        "name": key.name,
        "created_at": moment(key.created_at),
        "expires_at": key.expires_at.map(moment),
        "revoked_at": key.revoked_at.map(moment),
        "state": state.as_str(),
        "active": state == KeyState::Active,
    })
}
