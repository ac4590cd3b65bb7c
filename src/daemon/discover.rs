//! Asking a server for its models: the one call that the command line makes to a provider itself.

use std::time::Duration;

use super::components::system_clock;
use crate::catalog::{Discovered, NotAList, Upstream, UpstreamError, read_models};
use crate::daemon::start_error::Environment;
use crate::descriptors::Descriptors;
use crate::domain::provider::body_edits::BodyEdits;
use crate::domain::provider::connection::{Api, HostAddresses, ServerConnection, Timeouts};
use crate::domain::row::priority::RowPriority;
use crate::provider::server::Server;
use crate::provider::{CallError, SetupError};

/// How long a server may take to list its models.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest list that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// Why the models could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error(transparent)]
    Url(#[from] UpstreamError),
    #[error("the variable {0} is not set, or holds nothing that can be used as a key")]
    NoKey(String),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the server answered {status} when asked for its models{}", hint(*status))]
    Status { status: u16 },
    #[error(transparent)]
    NotAList(#[from] NotAList),
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "; it wants a key: name the variable that holds it with --key-env",
        404 => "; is the path of the URL right?",
        _ => "",
    }
}

/// The models of a server, and where its API is.
#[derive(Debug)]
pub struct DiscoveredModels {
    pub models: Vec<Discovered>,
    /// As [`ServerConnection::api_path`].
    pub api_path: Option<String>,
}

/// The models that a server with OpenAI's API lists. A server that lists none below `/v1` is asked
/// at its root.
///
/// # Errors
/// When the URL or the key cannot be used, the server does not answer, or its answer is not a list.
pub async fn discover_models(url: String, key_env: Option<String>, env: Environment) -> Result<DiscoveredModels, DiscoverError> {
    let upstream = Upstream { model: None, ..url.parse::<Upstream>()? };
    let no_key = |name: &str| DiscoverError::NoKey(name.to_owned());
    let key = key_env.as_deref().map(|name| env.filled(name).ok().flatten().ok_or_else(|| no_key(name))).transpose()?;
    let timeouts = Timeouts { first_byte: PATIENCE, total: PATIENCE, ..Timeouts::default() };
    let has_path = !upstream.base_url.path().trim_matches('/').is_empty();
    let connection = ServerConnection {
        api: Api::OpenAi,
        base_url: upstream.base_url,
        addresses: HostAddresses::Any,
        api_path: None,
        body: BodyEdits::default(),
        timeouts,
        ca_file: None,
        max_response_bytes: MAX_LIST,
        pass_through: Vec::new(),
        row_priority: RowPriority::default(),
        forward_headers: Vec::new(),
        max_waiting: None,
    };
    match list(&connection, key.as_deref()).await {
        Err(DiscoverError::Status { status: 404 }) if !has_path => {
            let at_root = ServerConnection { api_path: Some(String::new()), ..connection };
            match list(&at_root, key.as_deref()).await {
                Ok(models) => Ok(DiscoveredModels { models, api_path: at_root.api_path }),
                Err(_) => Err(DiscoverError::Status { status: 404 }),
            }
        }
        listed => Ok(DiscoveredModels { models: listed?, api_path: None }),
    }
}

async fn list(connection: &ServerConnection, key: Option<&str>) -> Result<Vec<Discovered>, DiscoverError> {
    let key = key.map(|key| key.to_owned().into());
    let server = Server::new("the server", connection, key, system_clock(), &Descriptors::of_process(0))?;
    let answer = server.list_models(PATIENCE).await?;
    if answer.status != 200 {
        return Err(DiscoverError::Status { status: answer.status });
    }
    Ok(read_models(&answer.body)?)
}
