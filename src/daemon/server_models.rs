//! Asks the operator's own server for its models, so that clients find them in the list of models.
//!
//! A server that takes every model (`--upstream URL`) has models that no seed names. Its list is
//! asked for at the start, after each change of the catalog, and about once a minute. An answer that
//! cannot be had changes nothing: what was listed before stays, as long as the server is the same.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::catalog_reloader::key_of;
use super::components::system_clock;
use crate::catalog::{Catalog, Discovered, read_models};
use crate::daemon::start_error::Environment;
use crate::descriptors::Descriptors;
use crate::domain::provider::connection::{Connection, ProviderKind};
use crate::provider::server::Server;

/// How long a server may take to list its models.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a server is asked, and how often one that has not answered yet.
const EVERY: Duration = Duration::from_secs(60);
const EVERY_UNANSWERED: Duration = Duration::from_secs(5);
/// The largest list that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// Keeps the list up to date.
pub(super) struct ServerModels {
    catalog: Arc<Catalog>,
    upstream_key: Option<SecretString>,
    env: Environment,
    descriptors: Descriptors,
}

impl ServerModels {
    pub fn new(catalog: Arc<Catalog>, upstream_key: Option<SecretString>, env: Environment, descriptors: Descriptors) -> Self {
        Self { catalog, upstream_key, env, descriptors }
    }

    /// Asks until the daemon stops.
    pub async fn run(self, drain: CancellationToken) {
        let mut changes = self.catalog.subscribe();
        let mut asked: Option<Connection> = None;
        loop {
            changes.borrow_and_update();
            let current = self.catalog.current().own_catch_all().map(|provider| provider.connection.clone());
            if current != asked {
                self.catalog.list_server_models(Vec::new());
                asked.clone_from(&current);
            }
            let wait = match &current {
                // Until the catalog changes.
                None => Duration::MAX,
                Some(connection) => match drain.run_until_cancelled(self.ask(connection)).await {
                    None => return,
                    Some(Ok(models)) => {
                        self.catalog.list_server_models(models);
                        EVERY
                    }
                    Some(Err(reason)) => {
                        tracing::debug!(provider = connection.id, reason, "the server does not list its models");
                        EVERY_UNANSWERED
                    }
                },
            };
            tokio::select! {
                () = drain.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn ask(&self, connection: &Connection) -> Result<Vec<Discovered>, String> {
        let ProviderKind::Server(server) = &connection.kind else { return Ok(Vec::new()) };
        let key = key_of(connection, self.upstream_key.as_ref(), &*self.env).map_err(|error| error.to_string())?;
        let mut place = server.clone();
        place.max_response_bytes = MAX_LIST;
        let opened = Server::new(&connection.id, &place, key, system_clock(), &self.descriptors).map_err(|error| error.to_string())?;
        let answer = opened.list_models(PATIENCE).await.map_err(|error| error.to_string())?;
        match answer.status {
            200 => read_models(&answer.body).map_err(|error| error.to_string()),
            status => Err(format!("it answered {status}")),
        }
    }
}
