//! The caller of a request, and which routes a made key opens.

use crate::domain::batch::priority::Owner;
use crate::domain::error::Code;
use crate::domain::id::OrgId;
use crate::domain::org::{KeyKind, KeyState};
use crate::http::access_class::AccessClass;
use crate::http::response::error::ApiError;

/// The caller, among the extensions of a request that was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// SHA-256 of the key; zeros if no key is required.
    pub key: [u8; 32],
    /// The organisation that the key belongs to.
    pub org: OrgId,
    /// The purpose that the key was made for. `None` is the operator, who may do everything: a
    /// caller with a key of the settings, or any caller on this machine while no key is required.
    pub kind: Option<KeyKind>,
}

impl Caller {
    /// The operator, with the key that has this SHA-256.
    pub const fn operator(key: [u8; 32]) -> Self {
        Self { key, org: OrgId::OPERATOR, kind: None }
    }

    /// Whether the caller is the operator. A caller with a made key is not, even if the key belongs
    /// to the operator's organisation: made keys are handed to clients.
    pub const fn is_operator(&self) -> bool {
        self.kind.is_none()
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

/// A key that was made, as found in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundKey {
    pub org: OrgId,
    pub kind: KeyKind,
    pub state: KeyState,
}

impl FoundKey {
    /// The caller with this key, if the key opens routes of this class.
    pub fn admit(self, digest: [u8; 32], class: AccessClass) -> Result<Caller, ApiError> {
        let refused = |code, message| Err(ApiError::unauthorized(code, message));
        match self.state {
            KeyState::Expired => return refused(Code::ApiKeyExpired, "the API key has expired"),
            KeyState::Revoked => return refused(Code::ApiKeyRevoked, "the API key was revoked"),
            KeyState::Active => {}
        }
        match (self.kind.is_management(), class == AccessClass::Management) {
            (true, false) => refused(Code::ApiKeyKind, "a management key opens nothing but the receivers of webhooks"),
            (false, true) => refused(Code::ApiKeyKind, "only a management key opens this"),
            (true, true) | (false, false) => Ok(Caller { key: digest, org: self.org, kind: Some(self.kind) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::access_class::access_below;

    #[test]
    fn a_management_key_opens_what_no_other_key_does_and_nothing_else() {
        let code = |kind, state, path| {
            let found = FoundKey { org: OrgId::from_u128(1), kind, state };
            found.admit([1; 32], access_below(path)).map(|caller| caller.kind).map_err(|error| error.code().as_str())
        };
        let managed =
            ["/v1/webhook-endpoints", "/phaseo/v1/webhook-endpoints", "/v1/webhook-endpoints/", "/phaseo/v1/webhook-endpoints/we_1/secret"];
        let others =
            ["/", "/v1", "/v1/batches", "/v1/webhook-endpoints-of-others", "/openai/v1/webhook-endpoints", "/admin/lanes", "/metrics"];
        for kind in KeyKind::ALL {
            for (paths, opens) in [(&managed[..], kind.is_management()), (&others[..], !kind.is_management())] {
                for path in paths {
                    let expected = if opens { Ok(Some(kind)) } else { Err("api_key_wrong_kind") };
                    assert_eq!(code(kind, KeyState::Active, path), expected, "{kind:?} {path}");
                    assert_eq!(code(kind, KeyState::Expired, path), Err("api_key_expired"));
                    assert_eq!(code(kind, KeyState::Revoked, path), Err("api_key_revoked"));
                }
            }
        }
    }
}
