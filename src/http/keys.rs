//! Making API keys: the secret is told once and kept nowhere; what is kept is its SHA-256.

use sha2::{Digest, Sha256};

use crate::domain::id::{KeyId, OrgId};
use crate::domain::org::ApiKey;
use crate::domain::time::Timestamp;
use crate::http::error::ApiError;

/// What BatchRouter's production keys begin with.
const START: &str = "br_live_";
/// Random bytes of a key: 24 hexadecimal digits, as its documents show them.
const BYTES: usize = 12;

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
    pub fn generate(org: OrgId, name: Option<String>, expires_at: Option<Timestamp>, now: Timestamp) -> Result<Self, ApiError> {
        let mut random = [0; BYTES];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| ApiError::internal("the machine has no random numbers"))?;
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = format!("{START}{digits}");
        let digest = Sha256::digest(&secret).into();
        let key = ApiKey { id: KeyId::generate(now), org, name, created_at: now, expires_at, revoked_at: None };
        Ok(Self { key, secret, digest })
    }
}
