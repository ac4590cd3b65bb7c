//! The parts of the daemon without the HTTP server: store, catalog and executor, started in that
//! order.
//!
//! `serve` puts the API on top of it; `run` works with it directly.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog_reloader::{CatalogReloader, CatalogSource, key_of};
use super::config::Settings;
use super::lifecycle::{Fate, Tasks};
use crate::catalog::{Snapshot, Watcher, watch};
use crate::daemon::start_error::{Environment, StartError};
use crate::descriptors::Descriptors;
use crate::domain::provider::connection::ProviderKind;
use crate::domain::quote::constraints::TierTimes;
use crate::domain::row::retry::RetryPolicy;
use crate::domain::time::{Clock, Timestamp};
use crate::executor::{self, CancelGrace, InputLimits, OpenProvider, RecordingLimits};
use crate::provider::fetch::Fetcher;
use crate::provider::{self, AnswerRoom, SetupError};
use crate::service::quotes::turns::QuoteTurns;
use crate::service::{QuoteTerms, Service, ServiceLimits};
use crate::store::error::StoreError;
use crate::store::{Compact, Options, Recovered, Store};

/// How often expired files, uploads and keys are swept.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// The sweeps between two scans of all answers that rows may share: there may be millions of
/// answers.
const SWEEPS_BETWEEN_ANSWERS: u64 = 120;
/// Batches that run at the same time; further ones wait. The more batches run, the less of each is
/// in memory.
const MAX_RUNNING: usize = 1_024;

/// The service, with its store, catalog and executor running.
pub struct Core {
    pub service: Arc<Service>,
    pub descriptors: Descriptors,
    _watcher: Option<Watcher>,
}

/// Loads the catalog as a daemon with these settings would.
///
/// # Errors
/// When the upstreams or the catalog have faults.
pub fn load_catalog(settings: &Settings, env: Environment) -> Result<Snapshot, StartError> {
    let source = CatalogSource::new(settings, env)?;
    Ok(source.build(source.read()?, system_clock().now())?)
}

/// The clock of the machine. This is the only place that reads it.
pub fn system_clock() -> Clock {
    Clock::new(Timestamp::now)
}

impl Core {
    /// Starts the parts; their tasks are counted among `tasks`. Enough file descriptors for
    /// `max_clients` connections are left to clients.
    ///
    /// # Errors
    /// When the data directory or the catalog cannot be used.
    pub async fn start(settings: &Settings, env: Environment, tasks: &Tasks, max_clients: u32) -> Result<Self, StartError> {
        let descriptors = Descriptors::of_process(max_clients);
        let clock = system_clock();
        let source = CatalogSource::new(settings, env.clone())?;
        let (store, recovered) = open_store(settings).await?;
        let (catalog, keeper) = CatalogReloader::start(source, store.clone(), clock.clone()).await?;
        tasks.spawn("catalog", Fate::Essential, keeper.run(tasks.shutdown().drain().clone()));
        if catalog.current().is_simulated() {
            tracing::warn!("no provider is configured: known models are answered by the built-in simulated provider");
        }
        let parts = executor::Parts {
            store: store.clone(),
            catalog: catalog.clone(),
            clock: clock.clone(),
            open: open_provider(settings, env, clock.clone(), descriptors.clone()),
            fetcher: Fetcher::new(settings.file_url_targets.rule(settings.is_local_only()), descriptors.clone())?,
        };
        let shutdown = tasks.shutdown();
        let (drain, abort) = (shutdown.drain().clone(), shutdown.abort().clone());
        let (executor, run) = executor::start(parts, executor_settings(settings), recovered, drain, abort);
        tasks.spawn("executor", Fate::Essential, run);
        watch_store(&store, &clock, RetentionSettings { answers: settings.dedup_max_age, batches: settings.batch_retention }, tasks);
        let follow = |dir: &std::path::PathBuf| {
            let catalog = catalog.clone();
            watch(dir, move || catalog.ask("the catalog folder has changed"))
        };
        let watcher = settings.catalog_dir.as_ref().map(follow).transpose()?;
        if watcher.is_some() {
            // Picks up changes between the first load and the start of the watch.
            catalog.ask("the start");
        }
        let service = Service {
            store,
            catalog,
            executor,
            clock,
            limits: limits(settings),
            turns: QuoteTurns::default(),
            requests: Default::default(),
            key_changes: watch::Sender::default(),
            draining: shutdown.drain().clone(),
            tasks: TaskTracker::new(),
        };
        let service = Arc::new(service);
        tasks.spawn("closing", Fate::Optional, wind_up(service.clone(), shutdown.drain().clone()));
        Ok(Self { service, descriptors, _watcher: watcher })
    }

    /// Makes everything durable and closes the store. Call this after the tasks have ended.
    pub async fn close(self) {
        let store = self.service.store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "the store was not closed");
        }
    }
}

fn limits(settings: &Settings) -> ServiceLimits {
    ServiceLimits {
        max_line_bytes: usize::try_from(settings.max_row_bytes).unwrap_or(usize::MAX),
        min_free_bytes: settings.min_free_bytes,
        quotes: QuoteTerms {
            // The items of one request become the rows of a batch.
            max_items: usize::try_from(settings.max_inline_items.min(settings.max_rows)).unwrap_or(usize::MAX),
            max_body_bytes: settings.max_inline_bytes,
            validity: settings.quote_validity,
            tiers: TierTimes { standard: settings.sla_standard, flex: settings.sla_flex, priority: settings.sla_priority },
            fee: settings.fee_percent,
        },
    }
}

async fn open_store(settings: &Settings) -> Result<(Store, Recovered), StartError> {
    let options = Options {
        dir: settings.data_dir.clone(),
        cache_bytes: settings.cache_bytes,
        commit_interval: settings.commit_interval,
        compact: Compact {
            below_percent: settings.compact_below,
            from_bytes: settings.compact_from,
            min_free_bytes: settings.min_free_bytes,
        },
    };
    Ok(tokio::task::spawn_blocking(move || Store::open(options)).await??)
}

impl Settings {
    /// The limits of an input file.
    pub(super) fn input_limits(&self) -> InputLimits {
        InputLimits { max_rows: self.max_rows, max_row_bytes: usize::try_from(self.max_row_bytes).unwrap_or(usize::MAX) }
    }
}

fn executor_settings(settings: &Settings) -> executor::Settings {
    executor::Settings {
        in_flight_limit: settings.in_flight_limit,
        max_running: MAX_RUNNING,
        min_free_bytes: settings.min_free_bytes,
        retry: RetryPolicy { max_attempts: settings.max_attempts, base: settings.retry_base, cap: settings.retry_cap },
        hold_after: settings.hold_after,
        input: settings.input_limits(),
        recordings: RecordingLimits { max_bytes: settings.max_audio_bytes, at_once: settings.audio_memory },
        dedup: settings.dedup,
        dedup_max_age: settings.dedup_max_age,
        cancel_grace: CancelGrace { hosted: settings.cancel_grace, local: settings.cancel_grace_local },
    }
}

/// How long files and batches are kept if they do not state it themselves.
#[derive(Debug, Clone, Copy)]
struct RetentionSettings {
    answers: Duration,
    /// After the batch's end; `None` for ever.
    batches: Option<Duration>,
}

/// Deletes batches whose retention time has passed.
async fn delete_old(store: &Store, now: Timestamp, kept: Duration, drain: &CancellationToken) -> Result<(), StoreError> {
    let Ok(limit) = now.checked_sub(kept) else { return Ok(()) };
    let deleted = store.delete_ended_before(limit, drain).await?;
    if deleted > 0 {
        tracing::info!(batches = deleted, "batches deleted that had been kept for `batch_retention`");
    }
    Ok(())
}

/// Sweeps expired data, and stops the daemon when the store has failed: a restart recovers.
fn watch_store(store: &Store, clock: &Clock, kept: RetentionSettings, tasks: &Tasks) {
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
        let mut sweeps = 0_u64;
        while drain.run_until_cancelled(ticks.tick()).await.is_some() {
            let now = clock.now();
            if let Err(error) = store.sweep(now).await {
                tracing::error!(%error, "sweeping failed");
            }
            if let Some(kept) = kept.batches
                && let Err(error) = delete_old(&store, now, kept, &drain).await
            {
                tracing::error!(%error, "deleting old batches failed");
            }
            let all_answers = sweeps.is_multiple_of(SWEEPS_BETWEEN_ANSWERS);
            sweeps += 1;
            if all_answers && let Err(error) = store.forget_answers(now.checked_sub(kept.answers).unwrap_or(Timestamp::MIN)).await {
                tracing::error!(%error, "old answers could not be forgotten");
            }
        }
    });
}

/// Does what is left to do for closed organisations, until `drain` is cancelled.
async fn wind_up(service: Arc<Service>, drain: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    let mut done = HashSet::new();
    while drain.run_until_cancelled(ticks.tick()).await.is_some() {
        match service.wind_up(&done).await {
            Ok(finished) => done.extend(finished),
            Err(error) => tracing::error!(%error, "what is left of closed organisations could not be removed"),
        }
    }
}

fn open_provider(settings: &Settings, env: Environment, clock: Clock, descriptors: Descriptors) -> OpenProvider {
    let (upstream_key, cap) = (settings.upstream_api_key.clone(), settings.max_response_bytes);
    let room = AnswerRoom::new(settings.answer_memory);
    Arc::new(move |connection| {
        let key = key_of(connection, upstream_key.as_ref(), &*env).map_err(|error| {
            tracing::error!(provider = connection.id, %error, "the provider's key cannot be read");
            SetupError::Key { provider: connection.id.clone() }
        })?;
        let mut connection = connection.clone();
        if let ProviderKind::Server(server) = &mut connection.kind {
            server.max_response_bytes = server.max_response_bytes.min(cap);
        }
        provider::open(&connection, key, &clock, &descriptors, &room)
    })
}
