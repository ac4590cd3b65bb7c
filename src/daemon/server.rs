//! The whole daemon: the parts, the HTTP API on top of them, and the order in which they stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::components::Core;
use super::config::{AgentRegister, Settings, Switch, WebhookEndpoints};
use super::keys_reloader::KeysReloader;
use super::lifecycle::{Fate, Finish, Notifier, Shutdown, Tasks, keep_alive, watch_signals};
use super::server_models::ServerModels;
use crate::catalog::Catalog;
use crate::daemon::start_error::{Environment, StartError};
use crate::domain::org::ledger::Credits;
use crate::http::{self, Access, Accounts, Api, Origins, UploadLimits};
use crate::service::feed::watcher::Feeds;
use crate::webhooks;
use crate::webhooks::Webhooks;

/// How long tasks may take to notice an abort.
const GRACE: Duration = Duration::from_secs(5);

/// Why the daemon could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: std::io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot send webhooks: {0}")]
    Webhooks(crate::provider::SetupError),
    #[error("cannot watch for signals: {0}")]
    Environment(std::io::Error),
    #[error("the daemon had to stop; its log says why")]
    Failed,
}

/// A running daemon that serves requests.
pub struct Daemon {
    /// The address that the daemon listens on.
    pub address: SocketAddr,
    core: Core,
    tasks: Tasks,
    drain_timeout: Duration,
    notifier: Arc<Notifier>,
}

impl Daemon {
    /// Starts everything; requests are served once this returns.
    ///
    /// # Errors
    /// When the address, the data directory or the catalog cannot be used.
    pub async fn start(settings: &Settings, env: Environment) -> Result<Self, ServeError> {
        let notifier = Arc::new(Notifier::from_env(&*env));
        // Bound before the store is opened: a port in use is found faster, and is the commoner
        // fault.
        let (listener, address) = listen(settings.listen).await?;
        let probes = match settings.health_listen {
            Some(address) => {
                let (listener, address) = listen(address).await?;
                tracing::info!(%address, "health is told there, too");
                Some(listener)
            }
            None => None,
        };
        let tasks = Tasks::new(Shutdown::new());
        let core = Core::start(settings, env.clone(), &tasks, settings.max_connections).await?;
        let listing =
            ServerModels::new(core.service.catalog.clone(), settings.upstream_api_key.clone(), env.clone(), core.descriptors.clone());
        tasks.spawn("server-models", Fate::Optional, listing.run(tasks.shutdown().drain().clone()));
        let access = Access::keys(&settings.api_keys).with_origins(Origins::of(settings.cors_origins.clone()));
        let keys = KeysReloader::new(settings.clone(), env, access.operator_keys().clone(), core.service.clone());
        let tester = start_courier(settings, &core, address, &tasks)?;
        let api = Arc::new(Api {
            service: core.service.clone(),
            limits: limits(settings),
            descriptors: core.descriptors.clone(),
            access,
            views: http::Views::default(),
            public_url: settings.public_url.clone(),
            accounts: accounts(settings),
            bodies: http::BodyRoom::default(),
            files: http::FilePlaces::new(core.descriptors.clone()),
            read_ahead: http::ReadAhead::default(),
            probe: Arc::new(move |receiver| {
                let tester = tester.clone();
                Box::pin(async move { tester.send(receiver).await })
            }),
            feeds: Feeds::new(http::batch_message),
        });
        let (drain, timeout) = (tasks.shutdown().drain().clone(), settings.drain_timeout);
        if let Some(listener) = probes {
            let (router, crowd) = (http::probes(api.clone()), http::Crowd::of_probes(&core.descriptors));
            tasks.spawn("probes", Fate::Essential, http::serve(listener, router, drain.clone(), timeout, crowd));
        }
        let crowd = http::Crowd::of_clients(&core.descriptors, settings.max_connections_per_peer);
        tasks.spawn("http", Fate::Essential, http::serve(listener, http::router(api), drain, timeout, crowd));
        let hangups = Arc::new(Notify::new());
        let reloads = reloads(core.service.catalog.clone(), keys.clone(), hangups.clone(), notifier.clone(), serving_on(address));
        let drain = tasks.shutdown().drain().clone();
        let follow = drain.clone().run_until_cancelled_owned(keys.follow());
        tasks.spawn("keys", Fate::Optional, async move { _ = follow.await });
        tasks.spawn("reloads", Fate::Optional, async move { _ = drain.run_until_cancelled(reloads).await });
        watch_signals(&tasks, move || hangups.notify_one()).map_err(ServeError::Environment)?;
        keep_alive(tasks.shutdown(), notifier.clone());
        Ok(Self { address, core, tasks, drain_timeout: settings.drain_timeout, notifier })
    }

    /// Tells the service manager that requests are served.
    pub fn announce(&self) {
        self.notifier.ready(&serving_on(self.address));
    }

    /// The switch that stops the daemon.
    pub fn shutdown(&self) -> &Shutdown {
        self.tasks.shutdown()
    }

    /// Waits for the stop and carries it out: stop accepting, stop dispatching, let rows in flight
    /// finish, flush.
    ///
    /// # Errors
    /// When the daemon stopped because it could not go on.
    pub async fn run(self) -> Result<(), ServeError> {
        let shutdown = self.tasks.shutdown().clone();
        shutdown.drain().cancelled().await;
        self.notifier.stopping(self.drain_timeout + GRACE);
        let finish = self.tasks.finish(self.drain_timeout, GRACE).await;
        let requests = &self.core.service.tasks;
        requests.close();
        // Only writes with a waiting client are left; each of them is one commit.
        if tokio::time::timeout(GRACE, requests.wait()).await.is_err() {
            tracing::warn!("requests are still being worked on; their clients get no answer");
        }
        if let Finish::Stuck { tasks } = finish {
            tracing::error!(tasks, "tasks did not end");
        }
        let broken = self.core.service.store.broken();
        self.core.close().await;
        if shutdown.failed() || broken.is_cancelled() { Err(ServeError::Failed) } else { Ok(()) }
    }
}

/// Takes a port, and says which.
async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let refused = |reason| ServeError::Listen { address, reason };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

/// The status of a daemon that serves, for the service manager.
fn serving_on(address: SocketAddr) -> String {
    format!("serving on http://{address}")
}

/// Reloads after each SIGHUP and tells the service manager when a reload begins and ends. Signals
/// that come during a reload lead to one more.
async fn reloads(catalog: Arc<Catalog>, keys: Arc<KeysReloader>, hangups: Arc<Notify>, notifier: Arc<Notifier>, serving: String) {
    loop {
        hangups.notified().await;
        notifier.reloading();
        // The manager waits for the end, not for success: the last good catalog and keys stay in force.
        let catalog = catalog.reload("SIGHUP").await.map(drop).map_err(|error| error.to_string());
        let keys = keys.clone().reload().await;
        match catalog.and(keys) {
            Ok(()) => notifier.ready(&serving),
            Err(told) => {
                // A status has one line. The log has all faults.
                let told: Vec<_> = told.lines().map(str::trim).take(2).collect();
                notifier.ready(&format!("{serving}; not reloaded: {}", told.join(" ")));
            }
        }
    }
}

fn accounts(settings: &Settings) -> Accounts {
    let local_only = settings.is_local_only();
    Accounts {
        may_register: match settings.agent_register {
            AgentRegister::Auto => local_only,
            AgentRegister::On => true,
            AgentRegister::Off => false,
        },
        first_credits: settings.registered_credits.map_or(Credits::Unlimited, Credits::Prepaid),
        targets: settings.webhook_targets.rule(local_only),
        managed_receivers: settings.webhook_endpoints == WebhookEndpoints::Managed,
    }
}

/// Starts notifying receivers of what has happened.
fn start_courier(settings: &Settings, core: &Core, address: SocketAddr, tasks: &Tasks) -> Result<webhooks::TestSender, ServeError> {
    let public = settings.public_url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
    // `0.0.0.0` and `[::]` are no addresses that a receiver can call back.
    let base_url = public.or_else(|| (!address.ip().to_canonical().is_unspecified()).then(|| format!("http://{address}")));
    if base_url.is_none() {
        tracing::warn!("webhooks will have no links to results: `public_url` is not set and `listen` names no single address");
    }
    let courier = webhooks::WebhookSettings {
        render: http::told_of_batches(base_url.clone()),
        base_url,
        targets: accounts(settings).targets,
        retry_base: settings.webhook_retry_base,
        standard: settings.webhook_standard_headers == Switch::On,
    };
    let courier = Webhooks::new(core.service.store.clone(), core.service.clock.clone(), core.descriptors.clone(), courier)
        .map_err(ServeError::Webhooks)?;
    let tester = courier.tester();
    tasks.spawn("courier", Fate::Essential, courier.run(tasks.shutdown().drain().clone()));
    Ok(tester)
}

fn limits(settings: &Settings) -> UploadLimits {
    UploadLimits {
        max_file_bytes: settings.max_file_bytes,
        max_upload_bytes: settings.max_upload_bytes,
        file_retention: settings.file_retention,
        ..UploadLimits::default()
    }
}
