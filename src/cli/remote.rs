//! Commands that ask a running daemon: its address, the key that it requires, and the exit codes
//! for its answers.

use clap::Args;

use super::output::CommandRefused;
use super::{FAILURE, USAGE, block_on_result};
use crate::client::{Client, ClientError};
use crate::daemon::Environment;
use crate::daemon::config::resolve_key;
use crate::domain::authority::without_passwords;
use crate::domain::provider::connection::KeySource;

/// Holds the key for a daemon that requires one. No flag holds it: command lines are visible to
/// every user.
const KEY_VARIABLE: &str = "BATCHD_API_KEY";

/// Which daemon.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// Where the daemon is. If it asks for an API key, put one into BATCHD_API_KEY
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7400")]
    url: String,
    /// Print the daemon's answer as one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl RemoteArgs {
    /// A client for the daemon; no call is made yet.
    pub(super) fn client(&self, env: &Environment) -> Result<Client, CommandRefused> {
        if !self.url.starts_with("http://") {
            let url = without_passwords(&self.url);
            return Err(CommandRefused::usage(format!("--url {url:?} must begin with `http://`; a daemon's port has no TLS")));
        }
        if self.url.contains('@') {
            // It would stand in every message about a call that failed.
            let message = format!("--url must hold no user name, password or key; put the key into {KEY_VARIABLE}");
            return Err(CommandRefused::usage(message));
        }
        let base = self.url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let key = match resolve_key(&KeySource::Env(KEY_VARIABLE.to_owned()), &**env) {
            Ok(key) => key,
            Err(error) if error.is_absence() => None,
            Err(error) => return Err(CommandRefused::usage(error)),
        };
        Ok(Client::new(format!("{base}/v1")).with_key(key))
    }
}

/// Runs a command that asks a daemon; returns the exit code.
pub(super) fn run(command: impl Future<Output = Result<u8, CommandRefused>>) -> u8 {
    let outcome = block_on_result(command).map_err(|error| CommandRefused(FAILURE, error.to_string())).and_then(|outcome| outcome);
    outcome.unwrap_or_else(|CommandRefused(code, message)| super::complain(&message, code))
}

impl From<ClientError> for CommandRefused {
    fn from(error: ClientError) -> Self {
        let (code, hint) = match &error {
            ClientError::Refused { status: 401, .. } => (USAGE, format!("; batchd takes it from the environment variable {KEY_VARIABLE}")),
            // The request itself is at fault.
            ClientError::Refused { status: 400..=404, .. } => (USAGE, String::new()),
            ClientError::Refused { .. } | ClientError::Unreachable { .. } | ClientError::Unexpected { .. } => (FAILURE, String::new()),
        };
        Self(code, format!("{error}{hint}"))
    }
}
