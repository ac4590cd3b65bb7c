//! API keys: their form in answers, and the fields that bodies give for them.

use serde_json::{Value, json};

use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::{ApiKey, KeyKind, KeyState};
use crate::domain::time::Timestamp;
use crate::http::request::Object;
use crate::http::response::error::ApiError;
use crate::http::response::time::moment;
use crate::service::orgs::NewKey;
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

/// Makes a key with the name and the expiry of the body; only this answer contains the secret.
///
/// # Errors
/// When the body asks for something impossible, the organisation has as many keys as it may have,
/// or the store has failed.
pub async fn create(service: &Service, org: OrgId, kind: KeyKind, body: &Object) -> Result<Value, ApiError> {
    service.check_open()?;
    let now = service.clock.now();
    let made = NewKey::generate(org, kind, name(body, &["name", "label"])?, expires_at(body, now)?, now)?;
    service.add_key(&made).await?;
    let mut shown = shown(&made.key, now);
    shown["api_key"] = json!(made.secret);
    Ok(shown)
}

/// Lists the keys of an organisation, oldest first.
///
/// # Errors
/// When the store has failed.
pub async fn list(service: &Service, org: OrgId) -> Result<Vec<Value>, ApiError> {
    let (keys, now) = (service.store.keys(org).await?, service.clock.now());
    Ok(keys.iter().map(|key| shown(key, now)).collect())
}

/// Revokes a key of an organisation, and returns the key's object.
///
/// # Errors
/// When the organisation has no such key, or the store has failed.
pub async fn revoke(service: &Service, org: OrgId, id: KeyId) -> Result<Value, ApiError> {
    let revoked = service.revoke_key(org, id).await.map_err(|error| match error {
        ServiceError::KeyNotFound(id) => ApiError::not_found("API key", id.in_hex()),
        other => other.into(),
    })?;
    Ok(shown(&revoked, service.clock.now()))
}

fn shown(key: &ApiKey, now: Timestamp) -> Value {
    let state = key.state(now);
    json!({
        "api_key_id": key.id.in_hex(),
        "dialect": key.kind.dialect(),
        "management": key.kind.is_management(),
        "name": key.name,
        "created_at": moment(key.created_at),
        "expires_at": key.expires_at.map(moment),
        "revoked_at": key.revoked_at.map(moment),
        "state": state.as_str(),
        "active": state == KeyState::Active,
    })
}
