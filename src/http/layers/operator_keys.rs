//! The keys of the settings, each of which makes its holder the operator. They can be replaced while
//! the daemon runs.
//!
//! Keys are kept as SHA-256 and compared in constant time. No key, right or wrong, is ever logged.
//!
//! Invariant: a daemon that asks for keys goes on to ask: an empty set never replaces another.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// The keys of the operator; none if no key is required.
#[derive(Debug)]
pub struct OperatorKeys(watch::Sender<Vec<[u8; 32]>>);

impl OperatorKeys {
    pub fn new(keys: &[SecretString]) -> Self {
        Self(watch::Sender::new(digests(keys)))
    }

    /// Whether a key is required at all.
    pub fn are_required(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    /// Whether one of the keys has this SHA-256.
    pub fn have(&self, digest: &[u8; 32]) -> bool {
        // Every key is compared, so that the time does not reveal which key was close.
        let keys = self.0.borrow();
        keys.iter().fold(subtle::Choice::from(0), |known, each| known | each.ct_eq(digest)).into()
    }

    /// Puts other keys in their place. Returns how many came and how many went; `None` if nothing
    /// was replaced because there are no keys to replace, or none to put in their place.
    pub fn replace(&self, keys: &[SecretString]) -> Option<(usize, usize)> {
        let new = digests(keys);
        let mut changed = None;
        self.0.send_if_modified(|old| {
            if old.is_empty() || new.is_empty() {
                return false;
            }
            let missing = |all: &[[u8; 32]], from: &[[u8; 32]]| all.iter().filter(|key| !from.contains(key)).count();
            let (came, went) = (missing(&new, old), missing(old, &new));
            changed = Some((came, went));
            *old = new;
            came + went > 0
        });
        changed
    }

    /// Tells when the keys change.
    pub fn changes(&self) -> watch::Receiver<Vec<[u8; 32]>> {
        self.0.subscribe()
    }
}

fn digests(keys: &[SecretString]) -> Vec<[u8; 32]> {
    keys.iter().map(|key| Sha256::digest(key.expose_secret()).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(texts: &[&str]) -> Vec<SecretString> {
        texts.iter().map(|text| SecretString::from(*text)).collect()
    }

    fn has(operator: &OperatorKeys, key: &str) -> bool {
        operator.have(&Sha256::digest(key).into())
    }

    #[test]
    fn keys_are_replaced_but_never_by_none() {
        let operator = OperatorKeys::new(&keys(&["alpha", "beta"]));
        let mut changes = operator.changes();
        assert!(has(&operator, "alpha") && !has(&operator, "alph") && operator.are_required());
        assert_eq!(operator.replace(&[]), None);
        assert_eq!(operator.replace(&keys(&["alpha", "beta"])), Some((0, 0)));
        assert!(!changes.has_changed().unwrap() && has(&operator, "beta"));
        assert_eq!(operator.replace(&keys(&["beta", "gamma", "delta"])), Some((2, 1)));
        assert!(changes.has_changed().unwrap() && has(&operator, "gamma") && !has(&operator, "alpha"));
        changes.mark_unchanged();
        // A daemon that asks for no key does not begin to: whoever works with it would be locked out.
        let open = OperatorKeys::new(&[]);
        assert_eq!(open.replace(&keys(&["alpha"])), None);
        assert!(!open.are_required() && !has(&open, "alpha"));
        assert!(!format!("{operator:?}").contains("beta"));
    }
}
