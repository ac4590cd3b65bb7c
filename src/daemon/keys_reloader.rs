//! Reads the operator's keys again when their file changes, and after each SIGHUP.
//!
//! Not here: what keys look like (`config`), and who holds them (`http`).
//!
//! Invariant: keys that cannot be read, or are none, never replace those in force.

use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::config::Settings;
use crate::daemon::start_error::Environment;
use crate::domain::audit::{AuditLine, AuditOutcome};
use crate::http::OperatorKeys;
use crate::service::Service;

/// How often the file is looked at. Files of secrets are often replaced through links, of which
/// watches of the file system tell nothing.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the keys in force up to date.
pub struct KeysReloader {
    settings: Settings,
    env: Environment,
    keys: Arc<OperatorKeys>,
    service: Arc<Service>,
}

impl KeysReloader {
    pub fn new(settings: Settings, env: Environment, keys: Arc<OperatorKeys>, service: Arc<Service>) -> Arc<Self> {
        Arc::new(Self { settings, env, keys, service })
    }

    /// Reads the keys again whenever their file changes.
    pub async fn follow(self: Arc<Self>) {
        let Some(path) = self.settings.api_keys_file.clone() else { return };
        let mut known = mark(&path);
        loop {
            sleep(LOOK).await;
            let now = mark(&path);
            if now != known {
                known = now;
                // A fault is in the log.
                let _ = self.clone().reload().await;
            }
        }
    }

    /// Reads the keys again.
    ///
    /// # Errors
    /// When they cannot be used: those before stay in force.
    pub async fn reload(self: Arc<Self>) -> Result<(), String> {
        let reader = self.clone();
        let read = spawn_blocking(move || reader.settings.read_keys_again(&*reader.env)).await;
        let read = read.map_err(|error| error.to_string()).flatten();
        let replaced = read.and_then(|keys| self.replace(&keys));
        match &replaced {
            Ok((0, 0)) => {}
            Ok((came, went)) => {
                tracing::info!(came, went, "the operator's keys have changed");
                self.audit(format!("replaced the operator's keys: {came} came, {went} went"), AuditOutcome::Done).await;
            }
            Err(reason) => {
                tracing::error!(%reason, "the operator's keys stay as they are");
                self.audit("replaced the operator's keys".to_owned(), AuditOutcome::Refused).await;
            }
        }
        replaced.map(drop)
    }

    async fn audit(&self, what: String, outcome: AuditOutcome) {
        self.service.store.audit(AuditLine::of_daemon(self.service.clock.now(), what, outcome)).await;
    }

    /// Returns how many keys came and how many went.
    fn replace(&self, keys: &[SecretString]) -> Result<(usize, usize), String> {
        match self.keys.replace(keys) {
            Some(changes) => Ok(changes),
            None if self.keys.are_required() => Err("there are none any more, and a daemon that asks for keys goes on to ask".to_owned()),
            None if keys.is_empty() => Ok((0, 0)),
            None => Err("a daemon that was started without keys asks for none until it is restarted".to_owned()),
        }
    }
}

/// What changes when a file is written or replaced; `None` if there is none.
fn mark(path: &Path) -> Option<(u64, u64, Option<std::time::SystemTime>)> {
    use std::os::unix::fs::MetadataExt;
    let of = |found: Metadata| (found.ino(), found.len(), found.modified().ok());
    std::fs::metadata(path).ok().map(of)
}
