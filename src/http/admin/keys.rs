//! API keys: making, listing and revoking them. A secret is told once and kept nowhere; what is kept is
//! its SHA-256.

mod secret;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::domain::error::Code;
use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::{ApiKey, KeyKind, KeyState};
use crate::domain::time::Timestamp;
use crate::http::batchrouter::moment;
use crate::http::request::Object;
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::{Added, MAX_KEYS, Revoked};

/// Characters of a name.
const MAX_NAME: usize = 200;

/// A key that was just made.
pub struct NewKey {
    pub key: ApiKey,
    pub secret: String,
    /// SHA-256 of the secret.
    pub digest: [u8; 32],
}

impl NewKey {
    /// Makes one.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub fn generate(
        org: OrgId,
        kind: KeyKind,
        name: Option<String>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let secret = secret::generate(kind).map_err(|_| ApiError::internal("the machine has no random numbers"))?;
        let digest = Sha256::digest(&secret).into();
        let key = ApiKey { id: KeyId::generate(now), org, kind, name, created_at: now, expires_at, revoked_at: None };
        Ok(Self { key, secret, digest })
    }
}

/// What people call something: the first of these fields that is there.
///
/// # Errors
/// When it is no such name.
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

/// Makes a key with the name and the expiry that a body asks for: the one answer that has the secret.
///
/// # Errors
/// When the body asks for what cannot be, the organisation has all the keys it can have, or the store has failed.
pub async fn create(api: &Api, org: OrgId, kind: KeyKind, body: &Object) -> Result<Value, ApiError> {
    api.check_open()?;
    let now = api.clock.now();
    let made = NewKey::generate(org, kind, name(body, &["name", "label"])?, expires_at(body, now)?, now)?;
    match api.store.add_key(made.key.clone(), made.digest).await? {
        Added::Done => {}
        Added::TooMany => {
            let message = format!("an organisation can have {MAX_KEYS} keys, those that were revoked included");
            return Err(ApiError::new(Code::Conflict, message));
        }
    }
    tracing::info!(key = %made.key.id, org = %made.key.org, "API key made");
    let mut shown = shown(&made.key, now);
    shown["api_key"] = json!(made.secret);
    Ok(shown)
}

/// The keys of an organisation, oldest first.
///
/// # Errors
/// When the store has failed.
pub async fn list(api: &Api, org: OrgId) -> Result<Vec<Value>, ApiError> {
    let (keys, now) = (api.store.keys(org).await?, api.clock.now());
    Ok(keys.iter().map(|key| shown(key, now)).collect())
}

/// Revokes a key of an organisation, and shows it.
///
/// # Errors
/// When the organisation has no such key, or the store has failed.
pub async fn revoke(api: &Api, org: OrgId, id: KeyId) -> Result<Value, ApiError> {
    let now = api.clock.now();
    match api.store.revoke_key(org, id, now).await? {
        Revoked::Done(key) => {
            tracing::info!(key = %id, "API key revoked");
            Ok(shown(&key, now))
        }
        Revoked::NotFound => Err(ApiError::not_found("API key", id.in_hex())),
        Revoked::Foreign => Err(ApiError::new(Code::Forbidden, "the key belongs to another organisation")),
    }
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
