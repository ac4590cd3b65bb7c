//! Secrets: read from the environment or from files, never from the command line or the
//! configuration file, and never repeated in a message.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::environment::Strings;
use super::error::Origin;
use crate::domain::provider::connection::KeySource;

/// Why a provider's key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the environment variable {0} is not set or empty")]
    Missing(String),
    #[error("the environment variable {name} {reason}")]
    Variable { name: String, reason: String },
    #[error("the key file {} {reason}", path.display())]
    File { path: PathBuf, reason: String },
}

impl KeyError {
    /// Whether no key was given at all: the provider is then simply not used here.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Variable { .. } => false,
            Self::File { path, .. } => !path.exists(),
        }
    }
}

/// Reads a provider's key from the place that its connection names.
///
/// # Errors
/// When the variable or the file is missing, empty, or not one line of visible ASCII.
pub fn resolve_key(source: &KeySource, env: &dyn Strings) -> Result<Option<SecretString>, KeyError> {
    match source {
        KeySource::None => Ok(None),
        KeySource::Env(name) => {
            let fault = |reason: String| KeyError::Variable { name: name.clone(), reason };
            let text = env.filled(name).map_err(|fault_of| fault(fault_of.to_string()))?.ok_or_else(|| KeyError::Missing(name.clone()))?;
            key(&text).map(Some).map_err(fault)
        }
        KeySource::File(path) => {
            let fault = |reason| KeyError::File { path: path.clone(), reason };
            read(path).and_then(|text| key(&text)).map(Some).map_err(fault)
        }
    }
}

/// One key, without the white space around it. The key must fit into an HTTP header.
pub(super) fn key(text: &str) -> Result<SecretString, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("holds no key".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("holds a key with characters other than visible ASCII, or more than one line".to_owned());
    }
    Ok(SecretString::from(text))
}

/// The largest file of keys, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The content of a small text file.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let unreadable = |fault: std::io::Error| format!("cannot be read: {fault}");
    // Reading a pipe would wait for its writer, and a device has no end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no plain file".to_owned());
    }
    let mut text = String::new();
    std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text)).map_err(unreadable)?;
    Ok(text)
}

/// One key per line; empty lines and lines that start with `#` are skipped.
pub(super) fn key_lines(text: &str) -> Result<Vec<SecretString>, String> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let keys: Vec<_> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| key(line).map_err(|reason| format!("line {at} {reason}")))
        .collect::<Result<_, _>>()?;
    if keys.is_empty() { Err("holds no key".to_owned()) } else { Ok(keys) }
}

/// Adds the keys that are not in the list yet.
pub(super) fn add(keys: &mut Vec<SecretString>, more: Vec<SecretString>) {
    for key in more {
        if !keys.iter().any(|known| known.expose_secret() == key.expose_secret()) {
            keys.push(key);
        }
    }
}

/// The systemd credential of this name, if the service was given one.
pub(super) fn credential(env: &dyn Strings, name: &str) -> Option<(PathBuf, Origin)> {
    const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
    let path = Path::new(&env.filled(DIRECTORY).ok()??).join(name);
    path.is_file().then(|| (path, Origin::Env(DIRECTORY.to_owned())))
}
