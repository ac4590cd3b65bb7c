//! The operator's own API keys: from the file and the environment variable that the settings name,
//! read at the start and read again while the daemon runs.

use std::net::SocketAddr;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::environment::Strings;
use super::secret::{add, key_lines, read};
use super::settings::{Settings, setting};

/// The fewest characters of a key where other machines can try keys.
const LEAST: usize = 16;

/// The keys of a file, one a line.
pub(super) fn of_file(path: &Path) -> Result<Vec<SecretString>, String> {
    read(path).and_then(|text| key_lines(&text))
}

/// The keys of a variable, separated by commas.
pub(super) fn of_variable(text: &str) -> Result<Vec<SecretString>, String> {
    key_lines(&text.replace(',', "\n"))
}

/// Refuses keys that other machines could find by trying.
pub(super) fn check_length(listen: SocketAddr, keys: &[SecretString]) -> Result<(), String> {
    let short = keys.iter().position(|key| key.expose_secret().len() < LEAST);
    match short.filter(|_| !listen.ip().to_canonical().is_loopback()) {
        Some(place) => Err(format!(
            "key {} of {} has fewer than {LEAST} characters, which is too few where other machines can try keys; \
             `openssl rand -hex 24` prints a good one",
            place + 1,
            keys.len()
        )),
        None => Ok(()),
    }
}

impl Settings {
    /// Reads the operator's keys again from where they are; the settings themselves stay.
    ///
    /// # Errors
    /// When a place cannot be read or holds something other than keys.
    pub fn read_keys_again(&self, env: &dyn Strings) -> Result<Vec<SecretString>, String> {
        let mut keys = Vec::new();
        if let Some(path) = &self.api_keys_file {
            add(&mut keys, of_file(path).map_err(|reason| format!("the key file {} {reason}", path.display()))?);
        }
        let name = setting("api_keys").env();
        if let Some(text) = env.filled(&name).map_err(|fault| format!("{name} {fault}"))? {
            add(&mut keys, of_variable(&text).map_err(|reason| format!("{name} {reason}"))?);
        }
        check_length(self.listen, &keys)?;
        Ok(keys)
    }
}
