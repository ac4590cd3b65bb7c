//! The daemon's own key: it signs links to results and seals secrets that clients leave with it.
//!
//! The key lies beside the store and not in it (`seal.key`, readable by the daemon alone), so that
//! a copy of the store reveals no secret. If the file is lost, links that were given out no longer
//! work and sealed secrets are lost; nothing else is.

use std::fmt;
use std::io::Read;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::dir::{Folder, SEAL_KEY};
use crate::domain::id::FileId;
use crate::store::error::StoreError;

pub(super) const BYTES: usize = 32;

/// Signs links and seals secrets.
pub struct Seal {
    signing: hmac::Key,
    sealing: LessSafeKey,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

/// A sealed secret cannot be opened: it was damaged, or the key is a different one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret cannot be unsealed; was `{SEAL_KEY}` of the data directory replaced?")]
pub struct Unsealable;

impl Seal {
    /// Reads the key of a data directory, or creates it.
    pub(super) fn open(dir: &Folder) -> Result<Self, StoreError> {
        let path = dir.path_of(SEAL_KEY);
        let key = match dir.open(SEAL_KEY) {
            Ok(file) => {
                let mut key = Vec::new();
                // One byte more than the key reveals a file that is too long.
                file.take(BYTES as u64 + 1).read_to_end(&mut key).map_err(|error| StoreError::io("reading", &path, &error))?;
                key
            }
            Err(StoreError::Io { missing: true, .. }) => make(dir)?,
            Err(error) => return Err(error),
        };
        let bad = || StoreError::Io {
            action: "reading",
            path: path.display().to_string(),
            reason: format!("it must have {BYTES} bytes; restore it, or remove it to have a new one made"),
            missing: false,
        };
        Self::of(&key).ok_or_else(bad)
    }

    /// The key of a directory that has no store.
    #[cfg(test)]
    pub fn for_tests(dir: &std::path::Path) -> Self {
        let locked = super::dir::Locked::take(dir).unwrap_or_else(|error| panic!("{error}"));
        Self::open(locked.root()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn of(key: &[u8]) -> Option<Self> {
        let key: &[u8; BYTES] = key.try_into().ok()?;
        // A separate key is derived for each purpose.
        let derive = |purpose: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), purpose);
        let sealing = UnboundKey::new(&AES_256_GCM, derive(b"seal").as_ref()).ok()?;
        Some(Self { signing: hmac::Key::new(hmac::HMAC_SHA256, derive(b"sign").as_ref()), sealing: LessSafeKey::new(sealing) })
    }

    /// The signature of a message.
    fn sign(&self, message: &[u8]) -> [u8; BYTES] {
        let mut signature = [0; BYTES];
        signature.copy_from_slice(hmac::sign(&self.signing, message).as_ref());
        signature
    }

    /// Whether a signature is that of a message. Takes the same time for every wrong signature.
    fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&self.signing, message, signature).is_ok()
    }

    /// The path and query of a link to a file, valid until a time in seconds since 1970. The form
    /// was observed at BatchRouter.
    pub fn link(&self, file: FileId, expires: i64) -> String {
        let signature = URL_SAFE_NO_PAD.encode(self.sign(&link_message(file, expires)));
        format!("/v1/files/{}?expires={expires}&signature={signature}", file.in_hex())
    }

    /// Whether a link to a file, valid until `expires`, has this signature.
    pub fn is_link(&self, file: FileId, expires: i64, signature: &str) -> bool {
        URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| self.is_signed(&link_message(file, expires), &signature))
    }

    /// Seals a secret: the nonce, then the cipher text. `None` if the machine provides no random
    /// numbers.
    pub fn seal(&self, secret: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = secret.to_vec();
        self.sealing.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// Returns the secret that was sealed.
    ///
    /// # Errors
    /// When the secret was sealed with another key, or is damaged.
    pub fn unseal(&self, sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        let mut secret = sealed.to_vec();
        let opened = self.sealing.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut secret);
        Ok(opened.map_err(|_| Unsealable)?.to_vec())
    }
}

fn link_message(file: FileId, expires: i64) -> Vec<u8> {
    format!("GET file {} until {expires}", file.in_hex()).into_bytes()
}

fn make(dir: &Folder) -> Result<Vec<u8>, StoreError> {
    let mut key = vec![0; BYTES];
    rand::fill(&mut key).map_err(|_| StoreError::Unexpected("the machine has no random numbers".into()))?;
    // Written as a whole: a truncated key would stay for ever.
    dir.replace(SEAL_KEY, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_and_signed_holds_across_starts_and_with_no_other_key() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let seal = Seal::for_tests(dir.path());
        let (sealed, signature) = (seal.seal(b"hush").unwrap(), seal.sign(b"a"));
        assert_ne!(seal.seal(b"hush").unwrap(), sealed, "never the same twice");
        assert!(!sealed.windows(4).any(|part| part == b"hush"));
        let again = Seal::for_tests(dir.path());
        assert_eq!(again.unseal(&sealed), Ok(b"hush".to_vec()));
        assert!(again.is_signed(b"a", &signature) && !again.is_signed(b"b", &signature) && !again.is_signed(b"a", &signature[1..]));
        let foreign = Seal::for_tests(other.path());
        assert_eq!(foreign.unseal(&sealed), Err(Unsealable));
        assert!(!foreign.is_signed(b"a", &signature));
        for damaged in [&sealed[..5], &sealed[..sealed.len() - 1], &[]] {
            assert_eq!(again.unseal(damaged), Err(Unsealable));
        }
        std::fs::write(dir.path().join(SEAL_KEY), b"short").unwrap();
        let locked = super::super::dir::Locked::take(dir.path()).unwrap();
        assert!(Seal::open(locked.root()).unwrap_err().to_string().contains("32 bytes"));
    }
}
