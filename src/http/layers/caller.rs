//! The caller of a request, and which routes a made key opens.

use std::sync::{Arc, OnceLock};

use axum::http::Method;

use crate::domain::batch::priority::Owner;
use crate::domain::error::Code;
use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::quotas::Quotas;
use crate::domain::org::scopes::{Scope, Scopes};
use crate::domain::org::{ApiKey, KeyState};
use crate::domain::time::Timestamp;
use crate::http::access_class::AccessClass;
use crate::http::response::error::ApiError;

/// The caller, among the extensions of a request that was let in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// SHA-256 of the key; zeros if no key is required.
    pub key: [u8; 32],
    /// The organisation that the key belongs to.
    pub org: OrgId,
    pub role: Role,
}

/// What a caller may do.
#[derive(Debug, Clone)]
pub enum Role {
    /// Everything: a caller with a key of the settings, or any caller on this machine while no key
    /// is required.
    Operator {
        /// Another organisation, once the request has reached something of it.
        reached: Arc<OnceLock<OrgId>>,
    },
    /// What a key permits that was made for a client.
    Client(ClientKey),
    /// To read the one file that a signed link leads to.
    Link,
}

/// What counts of a client's key while a request runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientKey {
    pub id: KeyId,
    pub scopes: Scopes,
    pub expires_at: Option<Timestamp>,
    pub quotas: Quotas,
}

impl Caller {
    /// The operator, with the key that has this SHA-256.
    pub fn operator(key: [u8; 32]) -> Self {
        Self { key, org: OrgId::OPERATOR, role: Role::Operator { reached: Arc::default() } }
    }

    /// The holder of a signed link.
    pub const fn link() -> Self {
        Self { key: [0; 32], org: OrgId::OPERATOR, role: Role::Link }
    }

    /// The caller with a key that was made, if the key opens this method of routes of this class.
    ///
    /// # Errors
    /// When the key is no longer accepted, or permits other things.
    pub fn with(key: &ApiKey, digest: [u8; 32], class: AccessClass, method: &Method, now: Timestamp) -> Result<Self, ApiError> {
        let refused = |code, message| Err(ApiError::unauthorized(code, message));
        match key.state(now) {
            KeyState::Expired => return refused(Code::ApiKeyExpired, "the API key has expired"),
            KeyState::Revoked => return refused(Code::ApiKeyRevoked, "the API key was revoked"),
            KeyState::Active => {}
        }
        match (key.kind.is_management(), class == AccessClass::Management) {
            (true, false) => return refused(Code::ApiKeyKind, "a management key opens nothing but the receivers of webhooks"),
            (false, true) => return refused(Code::ApiKeyKind, "only a management key opens this"),
            (true, true) | (false, false) => {}
        }
        if let Some(scope) = class.scope(method).filter(|scope| !key.scopes.has(*scope)) {
            return Err(lacks(scope, key.scopes));
        }
        let client = ClientKey { id: key.id, scopes: key.scopes, expires_at: key.expires_at, quotas: key.quotas };
        Ok(Self { key: digest, org: key.org, role: Role::Client(client) })
    }

    /// Whether the caller is the operator. A caller with a made key is not, even if the key belongs
    /// to the operator's organisation: made keys are handed to clients.
    pub const fn is_operator(&self) -> bool {
        matches!(self.role, Role::Operator { .. })
    }

    /// The key of a client.
    pub const fn client(&self) -> Option<&ClientKey> {
        match &self.role {
            Role::Client(key) => Some(key),
            Role::Operator { .. } | Role::Link => None,
        }
    }

    /// Whether the caller may reach what belongs to an organisation: its own callers and the
    /// operator may. To all others it does not exist.
    pub fn reaches(&self, org: OrgId) -> bool {
        match &self.role {
            Role::Operator { reached } if org != self.org => {
                reached.get_or_init(|| org);
                true
            }
            Role::Operator { .. } | Role::Client(_) | Role::Link => org == self.org,
        }
    }

    /// The other organisation of which the operator has reached something in this request.
    pub fn reached(&self) -> Option<OrgId> {
        match &self.role {
            Role::Operator { reached } => reached.get().copied(),
            Role::Client(_) | Role::Link => None,
        }
    }

    /// The owner whose share of a lane the caller's rows take. The operator's keys stand for teams,
    /// each with a share of its own; any other organisation has one share, however many keys it
    /// makes.
    pub fn owner(&self) -> Owner {
        match self.org == OrgId::OPERATOR {
            true => Owner::of_key(&self.key),
            false => Owner::of_org(self.org),
        }
    }
}

/// The refusal of a request for which a key lacks a scope.
pub fn lacks(scope: Scope, has: Scopes) -> ApiError {
    ApiError::new(Code::InsufficientScope, format!("the API key lacks the scope `{}`; it has {has}", scope.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::org::KeyKind;
    use crate::http::access_class::access_below;

    fn key(kind: KeyKind, scopes: Scopes) -> ApiKey {
        let created_at = Timestamp::UNIX_EPOCH;
        let (id, org) = (KeyId::from_u128(1), OrgId::from_u128(1));
        ApiKey { id, org, kind, scopes, name: None, created_at, expires_at: None, revoked_at: None, quotas: Quotas::NONE }
    }

    #[test]
    fn a_management_key_opens_what_no_other_key_does_and_nothing_else() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let code = |key: ApiKey, path| {
            let caller = Caller::with(&key, [1; 32], access_below(path), &Method::GET, now);
            caller.map(|caller| caller.client().unwrap().id).map_err(|error| error.code().as_str())
        };
        let managed =
            ["/v1/webhook-endpoints", "/phaseo/v1/webhook-endpoints", "/v1/webhook-endpoints/", "/phaseo/v1/webhook-endpoints/we_1/secret"];
        let others =
            ["/", "/v1", "/v1/batches", "/v1/webhook-endpoints-of-others", "/openai/v1/webhook-endpoints", "/admin/lanes", "/metrics"];
        for kind in KeyKind::ALL {
            for (paths, opens) in [(&managed[..], kind.is_management()), (&others[..], !kind.is_management())] {
                for path in paths {
                    let key = key(kind, Scopes::usual(kind));
                    let expected = if opens { Ok(key.id) } else { Err("api_key_wrong_kind") };
                    assert_eq!(code(key.clone(), path), expected, "{kind:?} {path}");
                    assert_eq!(code(ApiKey { expires_at: Some(now), ..key.clone() }, path), Err("api_key_expired"));
                    assert_eq!(code(ApiKey { revoked_at: Some(now), ..key }, path), Err("api_key_revoked"));
                }
            }
        }
    }

    #[test]
    fn a_key_opens_what_its_scopes_permit() {
        let now = Timestamp::UNIX_EPOCH;
        let mut opened = Vec::new();
        for scopes in (1..8).filter_map(Scopes::from_code) {
            let key = key(KeyKind::OpenAi, scopes);
            let mut open = Vec::new();
            for class in [AccessClass::Key, AccessClass::Manage] {
                for method in [Method::GET, Method::POST] {
                    if Caller::with(&key, [1; 32], class, &method, now).is_ok() {
                        open.push(format!("{method} {class:?}"));
                    }
                }
            }
            opened.push(format!("{scopes}: {}", open.join(", ")));
        }
        insta::assert_snapshot!(opened.join("\n"), @"
        `read`: GET Key, GET Manage
        `write`: POST Key
        `read`, `write`: GET Key, POST Key, GET Manage
        `manage`: POST Manage
        `read`, `manage`: GET Key, GET Manage, POST Manage
        `write`, `manage`: POST Key, POST Manage
        `read`, `write`, `manage`: GET Key, POST Key, GET Manage, POST Manage
        ");
        let refused = Caller::with(
            &key(KeyKind::OpenAi, Scopes::usual(KeyKind::OpenAi)),
            [1; 32],
            AccessClass::Manage,
            &Method::POST,
            Timestamp::UNIX_EPOCH,
        );
        let refused = refused.unwrap_err();
        assert_eq!(refused.code().as_str(), "insufficient_scope");
        insta::assert_snapshot!(refused.message(), @"the API key lacks the scope `manage`; it has `read`, `write`");
    }

    #[test]
    fn only_the_operator_reaches_what_is_of_others() {
        let (own, other) = (OrgId::from_u128(1), OrgId::from_u128(2));
        let client =
            Caller::with(&key(KeyKind::OpenAi, Scopes::ALL), [1; 32], AccessClass::Key, &Method::GET, Timestamp::UNIX_EPOCH).unwrap();
        assert!(client.reaches(own) && !client.reaches(other) && !client.reaches(OrgId::OPERATOR));
        assert!(Caller::link().reaches(OrgId::OPERATOR) && !Caller::link().reaches(own));
        let operator = Caller::operator([2; 32]);
        assert!(operator.reaches(OrgId::OPERATOR) && operator.reached().is_none());
        assert!(operator.reaches(other) && operator.clone().reached() == Some(other));
    }
}
