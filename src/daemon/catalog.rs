//! The keeper of the catalog: the one task that loads, stores and publishes it.
//!
//! Requests come from the folder's watcher, from SIGHUP, from clients and from the calendar, and are
//! served in order; those that wait together are served by one reload. A snapshot is stored before
//! it is published: what was ever shown is there after a crash.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::config::{KeyError, Settings, Strings, resolve_key};
use super::core::{Environment, StartError};
use crate::catalog::{
    Accepted, Archive, Catalog, Changes, Faults, Origin, Reload, ReloadError, Reloaded, Requests, Snapshot, UPSTREAM_KEY_ENV,
    UpstreamError, UpstreamOptions, Upstreams, diff, embedded, load_archive, read_dir, unix_seconds,
};
use crate::domain::connection::{Connection, KeySource, Timeouts};
use crate::domain::time::{Clock, Timestamp};
use crate::store::{Store, StoreError, StoredCatalog};

/// The longest wait for the calendar: the machine's clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(3_600);
/// The most requests served by one reload.
const TOGETHER: usize = 256;

/// Where the catalog comes from, and how to tell which providers can be used.
#[derive(Clone)]
pub(super) struct Source {
    pub dir: Option<PathBuf>,
    upstreams: Upstreams,
    options: UpstreamOptions,
    upstream_key: Option<SecretString>,
    env: Environment,
}

impl Source {
    pub fn new(settings: &Settings, env: Environment) -> Result<Self, UpstreamError> {
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

    /// The folder as it is written in the settings.
    fn folder(&self) -> Option<String> {
        self.dir.as_ref().map(|dir| dir.display().to_string())
    }

    fn origin(&self) -> Origin {
        self.folder().map_or(Origin::Embedded, Origin::Folder)
    }

    /// The files as they are now. Blocks.
    pub fn read(&self) -> Result<Archive, Faults> {
        match &self.dir {
            Some(dir) => read_dir(dir),
            None => Ok(embedded()),
        }
    }

    /// What these files make, as of now. Blocks.
    pub fn build(&self, archive: Archive, now: Timestamp) -> Result<Snapshot, Faults> {
        let seeds = load_archive(archive)?.with_urls(&|name| self.env.filled(name).ok().flatten())?;
        let seeds = seeds.with_upstreams(&self.upstreams, &self.options);
        Ok(seeds.into_snapshot(today(now), &|connection| key_of(connection, self.upstream_key.as_ref(), &*self.env).is_ok()))
    }
}

/// As it is stored: what is shown now is shown after a restart, too.
fn moment(clock: &Clock) -> Timestamp {
    let now = clock.now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

fn today(now: Timestamp) -> jiff::civil::Date {
    now.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// The key of a provider: the one of the upstreams comes with the settings, every other from where
/// the seed says.
pub(super) fn key_of(
    connection: &Connection,
    upstream_key: Option<&SecretString>,
    env: &dyn Strings,
) -> Result<Option<SecretString>, KeyError> {
    match (&connection.key, upstream_key) {
        (KeySource::Env(name), Some(key)) if name == UPSTREAM_KEY_ENV => Ok(Some(key.clone())),
        (source, _) => resolve_key(source, env),
    }
}

/// The catalog and the task that keeps it.
pub(super) struct Keeper {
    source: Source,
    store: Store,
    clock: Clock,
    catalog: Arc<Catalog>,
    requests: Requests,
}

impl Keeper {
    /// Loads the catalog for the first time. If its folder cannot be used, the last good one of that
    /// folder takes its place.
    ///
    /// # Errors
    /// The faults, if there is no last good one.
    pub async fn start(source: Source, store: Store, clock: Clock) -> Result<(Arc<Catalog>, Self), StartError> {
        let now = moment(&clock);
        let history = store.catalogs().await?;
        let loaded = blocking({
            let source = source.clone();
            move || source.read().and_then(|archive| Ok((source.build(archive.clone(), now)?, archive)))
        });
        let (snapshot, accepted, refused) = match loaded.await? {
            Ok((snapshot, archive)) => {
                let accepted = first(&source, &store, &history, &snapshot, archive, now).await?;
                (snapshot, accepted, None)
            }
            Err(faults) => {
                let Some((snapshot, accepted)) = last_good(&source, &store, &history, now).await? else { return Err(faults.into()) };
                log_faults(&faults);
                let since = accepted.at;
                tracing::error!(version = accepted.version, %since, "the catalog folder cannot be used; its last good state is served");
                (snapshot, accepted, Some(faults))
            }
        };
        let (catalog, requests) = Catalog::new(snapshot, accepted);
        if let Some(faults) = refused {
            catalog.refuse(faults, now);
        }
        let catalog = Arc::new(catalog);
        Ok((catalog.clone(), Self { source, store, clock, catalog, requests }))
    }

    /// Serves requests until the daemon stops.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            let next_day = self.until_next_day();
            tokio::select! {
                () = drain.cancelled() => return,
                count = self.requests.recv_many(&mut waiting, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                }
                () = tokio::time::sleep(next_day) => {
                    let due = self.catalog.current().next_change().is_some_and(|day| day <= today(self.clock.now()));
                    if !due {
                        continue;
                    }
                    waiting.push(Reload { why: "a date of the catalog has come", reply: None });
                }
            }
            let why = waiting.first().map_or("", |request| request.why);
            let outcome = self.reload(why).await;
            for request in waiting.drain(..) {
                if let Some(reply) = request.reply {
                    // Whoever asked may have gone.
                    let _ = reply.send(outcome.clone());
                }
            }
        }
    }

    /// Until the next day on which a price or an offering begins or ends.
    fn until_next_day(&self) -> Duration {
        let Some(day) = self.catalog.current().next_change() else { return LOOK };
        let seconds = unix_seconds(day).saturating_sub(self.clock.now().as_second());
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).clamp(Duration::from_secs(1), LOOK)
    }

    async fn reload(&self, why: &'static str) -> Result<Reloaded, ReloadError> {
        let (now, before) = (moment(&self.clock), self.catalog.current());
        let source = self.source.clone();
        let loaded = blocking(move || {
            let archive = source.read()?;
            let snapshot = source.build(archive.clone(), now)?;
            let changes = if snapshot.equals(&before) { None } else { Some(diff(&before, &snapshot)) };
            Ok((archive, snapshot, changes))
        });
        let (archive, snapshot, changes) = match loaded.await.map_err(|error| ReloadError::Store(error.to_string()))? {
            Ok(loaded) => loaded,
            Err(faults) => {
                log_faults(&faults);
                tracing::error!(why, faults = faults.as_slice().len(), "the catalog was not reloaded; the last good one stays");
                self.catalog.refuse(faults.clone(), now);
                return Err(faults.into());
            }
        };
        let Some(changes) = changes else {
            self.catalog.confirm(self.source.origin());
            tracing::debug!(why, "the catalog is as it was");
            return Ok(Reloaded { accepted: self.catalog.standing().accepted, changes: None });
        };
        let version = self.catalog.versioned().0 + 1;
        let accepted = Accepted { version, hash: snapshot.hash().to_owned(), origin: self.source.origin(), at: now };
        store(&self.store, &self.source, &accepted, &changes, archive).await.map_err(|error| {
            tracing::error!(%error, "the catalog was not reloaded, because it could not be stored");
            ReloadError::Store(error.to_string())
        })?;
        self.catalog.publish(snapshot, accepted.clone());
        tracing::info!(why, version, hash = accepted.hash, %changes, "catalog reloaded");
        Ok(Reloaded { accepted, changes: Some(changes) })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}

fn log_faults(faults: &Faults) {
    for fault in faults.as_slice() {
        tracing::error!(%fault, "catalog fault");
    }
}

async fn store(store: &Store, source: &Source, accepted: &Accepted, changes: &Changes, archive: Archive) -> Result<(), StoreError> {
    let catalog = StoredCatalog {
        version: accepted.version,
        hash: accepted.hash.clone(),
        accepted_at: accepted.at,
        folder: source.folder(),
        changes: serde_json::to_vec(changes).map_err(|error| StoreError::Broken(error.to_string()))?,
    };
    // What is in the binary need not be kept apart from it.
    let files = if source.dir.is_some() { archive.0 } else { Vec::new() };
    store.accept_catalog(catalog, files).await
}

/// The entry of the first snapshot: the latest one of the history if nothing has changed since.
async fn first(
    source: &Source,
    into: &Store,
    history: &[StoredCatalog],
    snapshot: &Snapshot,
    archive: Archive,
    now: Timestamp,
) -> Result<Accepted, StartError> {
    let (hash, latest) = (snapshot.hash().to_owned(), history.first());
    if let Some(same) = latest.filter(|latest| latest.hash == hash && latest.folder == source.folder()) {
        return Ok(Accepted { version: same.version, hash, origin: source.origin(), at: same.accepted_at });
    }
    let changes = match latest {
        Some(latest) => match into.catalog_files(latest.version).await? {
            Some(files) => source.build(Archive(files), now).map(|before| diff(&before, snapshot)).unwrap_or_default(),
            None => Changes::default(),
        },
        None => Changes::default(),
    };
    let accepted = Accepted { version: latest.map_or(1, |latest| latest.version + 1), hash, origin: source.origin(), at: now };
    store(into, source, &accepted, &changes, archive).await?;
    Ok(accepted)
}

/// The last good state of the folder, if it was kept and this build can still read it.
async fn last_good(
    source: &Source,
    store: &Store,
    history: &[StoredCatalog],
    now: Timestamp,
) -> Result<Option<(Snapshot, Accepted)>, StartError> {
    let Some(folder) = source.folder() else { return Ok(None) };
    for entry in history.iter().filter(|entry| entry.folder.as_ref() == Some(&folder)) {
        let Some(files) = store.catalog_files(entry.version).await? else { continue };
        let source = source.clone();
        if let Ok(snapshot) = blocking(move || source.build(Archive(files), now)).await? {
            let (version, hash) = (history.first().map_or(entry.version, |latest| latest.version), entry.hash.clone());
            return Ok(Some((snapshot, Accepted { version, hash, origin: Origin::Stored(folder), at: entry.accepted_at })));
        }
    }
    Ok(None)
}
