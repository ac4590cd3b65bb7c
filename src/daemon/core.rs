//! The parts without the HTTP server: store, catalog and executor, started in that order.
//!
//! `serve` puts the API on top of it; `run` works with it directly.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::config::{KeyError, Settings, Strings, resolve_key};
use super::lifecycle::{Fate, Tasks};
use crate::catalog::{
    Catalog, Faults, Snapshot, UPSTREAM_KEY_ENV, UpstreamError, UpstreamOptions, Upstreams, WatchError, Watcher, load_dir, load_embedded,
    watch,
};
use crate::domain::connection::{Connection, KeySource, ProviderKind, Timeouts};
use crate::domain::retry::RetryPolicy;
use crate::domain::time::{Clock, Timestamp};
use crate::executor::{self, Handle, InputLimits, OpenProvider};
use crate::provider::{self, SetupError};
use crate::store::{OpenError, Options, Recovered, Store};

/// How often expired files, uploads and keys are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Batches that run at the same time; further ones wait. Bounds the memory of their windows.
const MAX_RUNNING: usize = 256;

/// Why the parts could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    Catalog(#[from] Faults),
    #[error("`upstream`: {0}")]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("the store could not be opened: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The environment, shared with whatever reads keys later.
pub type Environment = Arc<dyn Strings + Send + Sync>;

/// Store, catalog and executor at work.
pub struct Core {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub executor: Handle,
    pub clock: Clock,
    /// Loads the catalog anew; for the signal and whoever else asks.
    pub reload: Arc<dyn Fn() + Send + Sync>,
    _watcher: Option<Watcher>,
}

/// Loads the catalog as a daemon with these settings would.
///
/// # Errors
/// When the upstreams or the catalog have faults.
pub fn load_catalog(settings: &Settings, env: Environment) -> Result<Snapshot, StartError> {
    Ok(CatalogSource::new(settings, env)?.load()?)
}

/// The clock of the machine: the one place that reads it.
pub fn system_clock() -> Clock {
    Clock::new(Timestamp::now)
}

impl Core {
    /// Starts the parts; their tasks are counted among `tasks`.
    ///
    /// # Errors
    /// When the data directory or the catalog cannot be used.
    pub async fn start(settings: &Settings, env: Environment, tasks: &Tasks) -> Result<Self, StartError> {
        let clock = system_clock();
        let source = CatalogSource::new(settings, env.clone())?;
        let catalog = Arc::new(Catalog::new(source.load()?));
        if catalog.current().is_simulated() {
            tracing::warn!("no provider is configured: known models are answered by the built-in simulated provider");
        }
        let (store, recovered) = open_store(settings).await?;
        let parts = executor::Parts {
            store: store.clone(),
            catalog: catalog.clone(),
            clock: clock.clone(),
            open: open_provider(settings, env, clock.clone()),
        };
        let shutdown = tasks.shutdown();
        let (drain, abort) = (shutdown.drain().clone(), shutdown.abort().clone());
        let (executor, run) = executor::start(parts, executor_settings(settings), recovered, drain, abort);
        tasks.spawn("executor", Fate::Essential, run);
        watch_store(&store, &clock, tasks);
        let (reload, watcher) = follow_catalog(settings, source, catalog.clone())?;
        Ok(Self { store, catalog, executor, clock, reload, _watcher: watcher })
    }

    /// Makes everything durable and closes the store. Call it after the tasks have ended.
    pub async fn close(self) {
        let store = self.store;
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "the store was not closed");
        }
    }
}

async fn open_store(settings: &Settings) -> Result<(Store, Recovered), StartError> {
    let options = Options { dir: settings.data_dir.clone(), cache_bytes: settings.cache_bytes, commit_interval: settings.commit_interval };
    Ok(tokio::task::spawn_blocking(move || Store::open(options)).await??)
}

fn executor_settings(settings: &Settings) -> executor::Settings {
    executor::Settings {
        in_flight_limit: settings.in_flight_limit,
        max_running: MAX_RUNNING,
        min_free_bytes: settings.min_free_bytes,
        retry: RetryPolicy { max_attempts: settings.max_attempts, base: settings.retry_base, cap: settings.retry_cap },
        input: InputLimits { max_rows: settings.max_rows, max_row_bytes: usize::try_from(settings.max_row_bytes).unwrap_or(usize::MAX) },
    }
}

/// Sweeps what has expired, and stops the daemon when the store has failed: a restart recovers.
fn watch_store(store: &Store, clock: &Clock, tasks: &Tasks) {
    let (shutdown, broken) = (tasks.shutdown().clone(), store.broken());
    tasks.spawn("store-watch", Fate::Optional, async move {
        tokio::select! {
            () = broken.cancelled() => shutdown.fail(),
            () = shutdown.drain().cancelled() => {}
        }
    });
    let (store, clock, drain) = (store.clone(), clock.clone(), tasks.shutdown().drain().clone());
    tasks.spawn("sweep", Fate::Optional, async move {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        while drain.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(error) = store.sweep(clock.now()).await {
                tracing::error!(%error, "sweeping failed");
            }
        }
    });
}

/// Where the catalog comes from, and how to tell which providers can be used.
struct CatalogSource {
    dir: Option<PathBuf>,
    upstreams: Upstreams,
    options: UpstreamOptions,
    upstream_key: Option<SecretString>,
    env: Environment,
}

impl CatalogSource {
    fn new(settings: &Settings, env: Environment) -> Result<Self, UpstreamError> {
        let total = settings.upstream_timeout;
        let timeouts = Timeouts { connect: Timeouts::default().connect.min(total), first_byte: total, total };
        let options = UpstreamOptions {
            has_key: settings.upstream_api_key.is_some(),
            concurrency: settings.upstream_concurrency,
            timeouts,
            max_response_bytes: settings.max_response_bytes,
        };
        let upstreams = Upstreams::parse(&settings.upstream)?;
        let upstream_key = settings.upstream_api_key.clone();
        Ok(Self { dir: settings.catalog_dir.clone(), upstreams, options, upstream_key, env })
    }

    fn load(&self) -> Result<Snapshot, Faults> {
        let seeds = match &self.dir {
            Some(dir) => load_dir(dir)?,
            None => load_embedded()?,
        };
        let seeds = seeds.with_upstreams(&self.upstreams, &self.options);
        Ok(seeds.into_snapshot(&|connection| key_of(connection, self.upstream_key.as_ref(), &*self.env).is_ok()))
    }
}

fn key_of(connection: &Connection, upstream_key: Option<&SecretString>, env: &dyn Strings) -> Result<Option<SecretString>, KeyError> {
    match (&connection.key, upstream_key) {
        (KeySource::Env(name), Some(key)) if name == UPSTREAM_KEY_ENV => Ok(Some(key.clone())),
        (source, _) => resolve_key(source, env),
    }
}

fn open_provider(settings: &Settings, env: Environment, clock: Clock) -> OpenProvider {
    let (upstream_key, cap) = (settings.upstream_api_key.clone(), settings.max_response_bytes);
    Arc::new(move |connection| {
        let key = key_of(connection, upstream_key.as_ref(), &*env).map_err(|error| {
            tracing::error!(provider = connection.id, %error, "the provider's key cannot be read");
            SetupError::Key { provider: connection.id.clone() }
        })?;
        let mut connection = connection.clone();
        if let ProviderKind::OpenAi(openai) = &mut connection.kind {
            openai.max_response_bytes = openai.max_response_bytes.min(cap);
        }
        provider::open(&connection, key, &clock)
    })
}

type Reload = Arc<dyn Fn() + Send + Sync>;

/// Follows the catalog folder, if there is one.
fn follow_catalog(settings: &Settings, source: CatalogSource, catalog: Arc<Catalog>) -> Result<(Reload, Option<Watcher>), StartError> {
    let reload: Reload = Arc::new(move || {
        // Faults are logged by the catalog; the last good snapshot stays.
        let _ = catalog.reload(|| source.load());
    });
    let on_change = reload.clone();
    let watcher = settings.catalog_dir.as_deref().map(|dir| watch(dir, move || on_change())).transpose()?;
    Ok((reload, watcher))
}
