//! The keeper of the catalog: the one task that loads, stores and publishes it.
//!
//! Requests come from the folder's watcher, from SIGHUP, from clients and from the calendar, and
//! are served in order; requests that wait together are served by one reload. A snapshot is stored
//! before it is published, so every snapshot that was ever shown survives a crash.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::config::{self, KeyError, Settings, Strings, resolve_key};
use crate::catalog::{
    Accepted, Archive, Catalog, Changes, Faults, Origin, Reload, ReloadError, Reloaded, Requests, Snapshot, UPSTREAM_KEY_ENV,
    UpstreamError, UpstreamOptions, Upstreams, diff, embedded, load_archive, parse_api_path, read_dir, unix_seconds,
};
use crate::daemon::start_error::{Environment, StartError};
use crate::domain::audit::{AuditLine, AuditOutcome};
use crate::domain::provider::connection::{Connection, KeySource, Timeouts};
use crate::domain::time::{Clock, Timestamp};
use crate::store::error::StoreError;
use crate::store::{Store, StoredCatalog};

/// The longest wait for the calendar: the machine's clock may be set in the meantime.
const SCAN_INTERVAL: Duration = Duration::from_secs(3_600);
/// The most requests served by one reload.
const TOGETHER: usize = 256;

/// Where the catalog comes from, and how to find out which providers can be used.
#[derive(Clone)]
pub(super) struct CatalogSource {
    pub dir: Option<PathBuf>,
    upstreams: Upstreams,
    options: UpstreamOptions,
    upstream_key: Option<SecretString>,
    env: Environment,
}

impl CatalogSource {
    pub fn new(settings: &Settings, env: Environment) -> Result<Self, UpstreamError> {
        let total = settings.upstream_timeout;
        let timeouts = Timeouts { connect: Timeouts::default().connect.min(total), first_byte: total, total };
        let api_path = settings
            .upstream_api_path
            .as_deref()
            .map(|path| parse_api_path(path).map_err(|rule| UpstreamError::ApiPath { path: path.to_owned(), rule }));
        let options = UpstreamOptions {
            key: upstream_key_source(settings),
            api_path: api_path.transpose()?,
            concurrency: settings.upstream_concurrency,
            timeouts,
            max_response_bytes: settings.max_response_bytes,
            row_priority: settings.upstream_row_priority,
        };
        let upstreams = Upstreams::parse(&settings.upstream)?;
        let upstream_key = settings.upstream_api_key.clone();
        Ok(Self { dir: settings.catalog_dir.clone(), upstreams, options, upstream_key, env })
    }

    /// The folder's absolute path with its links unresolved: the same folder, however the setting
    /// spells it.
    fn folder(&self) -> Option<String> {
        let absolute = |dir: &PathBuf| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string();
        self.dir.as_ref().map(absolute)
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

    /// The snapshot that these files make, as of now. Blocks.
    pub fn build(&self, archive: Archive, now: Timestamp) -> Result<Snapshot, Faults> {
        let seeds = load_archive(archive)?.with_urls(&|name| self.env.filled(name).ok().flatten())?;
        let seeds = seeds.with_upstreams(&self.upstreams, &self.options);
        let usable = |connection: &Connection| match key_of(connection, self.upstream_key.as_ref(), &*self.env) {
            Ok(_) => true,
            Err(error) => {
                if !error.is_absence() {
                    tracing::warn!(provider = connection.id, %error, "a provider is not used, because its key cannot be");
                }
                false
            }
        };
        Ok(seeds.into_snapshot(today(now), &usable))
    }
}

/// The current time at the precision at which it is stored, so that it reads the same after a
/// restart.
fn moment(clock: &Clock) -> Timestamp {
    let now = clock.now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

fn today(now: Timestamp) -> jiff::civil::Date {
    now.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// Where the key of the upstreams is found. A file is read again while the key is refused.
fn upstream_key_source(settings: &Settings) -> KeySource {
    match (&settings.upstream_api_key, settings.origin("upstream_api_key")) {
        (None, _) => KeySource::None,
        (Some(_), config::Origin::File(path)) => KeySource::File(path),
        (Some(_), config::Origin::Default | config::Origin::Env(_) | config::Origin::Flag) => KeySource::Env(UPSTREAM_KEY_ENV.to_owned()),
    }
}

/// The key of a provider. The key of the upstreams comes with the settings if it comes from the
/// environment; every other key comes from the place that the settings or the seed name.
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

/// The catalog's keeper.
pub(super) struct CatalogReloader {
    source: CatalogSource,
    store: Store,
    clock: Clock,
    catalog: Arc<Catalog>,
    requests: Requests,
    /// The files behind the current snapshot. When a price or offering date comes, the snapshot is
    /// rebuilt from these, whatever the folder looks like by then.
    archive: Archive,
    /// The latest version that was ever assigned.
    latest: u64,
}

/// The seeds that a reload makes the next snapshot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReloadFrom {
    /// The seeds as they are now.
    Seeds,
    /// The seeds of the current snapshot.
    Kept,
}

impl CatalogReloader {
    /// Loads the catalog for the first time. If its folder cannot be used, the last good state of
    /// that folder takes its place.
    ///
    /// # Errors
    /// The faults, if there is no last good state.
    pub async fn start(source: CatalogSource, store: Store, clock: Clock) -> Result<(Arc<Catalog>, Self), StartError> {
        let now = moment(&clock);
        let history = store.catalogs().await?;
        let loaded = blocking({
            let source = source.clone();
            move || source.read().and_then(|archive| Ok((source.build(archive.clone(), now)?, archive)))
        });
        let (snapshot, archive, accepted, refused) = match loaded.await? {
            Ok((snapshot, archive)) => {
                let accepted = first(&source, &store, &history, &snapshot, archive.clone(), now).await?;
                (snapshot, archive, accepted, None)
            }
            Err(faults) => {
                let found = last_good(&source, &store, &history, now).await?;
                let Some((snapshot, archive, accepted)) = found else { return Err(faults.into()) };
                log_faults(&faults);
                let since = accepted.at;
                tracing::error!(version = accepted.version, %since, "the catalog folder cannot be used; its last good state is served");
                (snapshot, archive, accepted, Some(faults))
            }
        };
        let (catalog, requests) = Catalog::new(snapshot, accepted);
        if let Some(faults) = refused {
            catalog.refuse(faults, now);
        }
        let catalog = Arc::new(catalog);
        let latest = history.first().map_or(0, |latest| latest.version).max(catalog.versioned().0);
        Ok((catalog.clone(), Self { source, store, clock, catalog, requests, archive, latest }))
    }

    /// Serves requests until the daemon stops.
    pub async fn run(mut self, drain: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            let (next_day, mut from) = (self.until_next_day(), ReloadFrom::Seeds);
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
                    from = ReloadFrom::Kept;
                    waiting.push(Reload { why: "a scheduled catalog change is due", reply: None });
                }
            }
            let why = waiting.first().map_or("", |request| request.why);
            let outcome = self.reload(why, from).await;
            for request in waiting.drain(..) {
                if let Some(reply) = request.reply {
                    // The requester may have gone.
                    let _ = reply.send(outcome.clone());
                }
            }
        }
    }

    /// The time until the next day on which a price or an offering begins or ends.
    fn until_next_day(&self) -> Duration {
        let Some(day) = self.catalog.current().next_change() else { return SCAN_INTERVAL };
        let seconds = unix_seconds(day).saturating_sub(self.clock.now().as_second());
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).clamp(Duration::from_secs(1), SCAN_INTERVAL)
    }

    async fn reload(&mut self, why: &'static str, from: ReloadFrom) -> Result<Reloaded, ReloadError> {
        let (now, before) = (moment(&self.clock), self.catalog.current());
        let (source, kept) = (self.source.clone(), self.archive.clone());
        let loaded = blocking(move || {
            let archive = match from {
                ReloadFrom::Seeds => source.read()?,
                ReloadFrom::Kept => kept,
            };
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
            if from == ReloadFrom::Seeds {
                self.catalog.confirm(self.source.origin());
            }
            tracing::debug!(why, "the catalog is as it was");
            return Ok(Reloaded { accepted: self.catalog.standing().accepted, changes: None });
        };
        let standing = self.catalog.standing();
        let (version, origin) = (self.latest + 1, if from == ReloadFrom::Seeds { self.source.origin() } else { standing.accepted.origin });
        let accepted = Accepted { version, hash: snapshot.hash().to_owned(), origin, at: now };
        store(&self.store, &self.source, &accepted, &changes, archive.clone()).await.map_err(|error| {
            tracing::error!(%error, "the catalog was not reloaded, because it could not be stored");
            ReloadError::Store(error.to_string())
        })?;
        (self.latest, self.archive) = (version, archive);
        self.catalog.publish(snapshot, accepted.clone());
        if let (ReloadFrom::Kept, Some((faults, at))) = (from, standing.refused) {
            // The folder is as broken as it was before.
            self.catalog.refuse(faults, at);
        }
        tracing::info!(why, version, hash = accepted.hash, %changes, "catalog reloaded");
        let what = format!("accepted version {version} of the catalog: {why}");
        self.store.audit(AuditLine::of_daemon(now, what, AuditOutcome::Done)).await;
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

async fn store(store: &Store, source: &CatalogSource, accepted: &Accepted, changes: &Changes, archive: Archive) -> Result<(), StoreError> {
    let catalog = StoredCatalog {
        version: accepted.version,
        hash: accepted.hash.clone(),
        accepted_at: accepted.at,
        folder: source.folder(),
        changes: serde_json::to_vec(changes).map_err(|error| StoreError::Unexpected(error.to_string()))?,
    };
    // Seeds from the binary need not be stored separately.
    let files = if source.dir.is_some() { archive.0 } else { Vec::new() };
    store.accept_catalog(catalog, files).await
}

/// The entry of the first snapshot: the latest entry of the history if nothing has changed since.
async fn first(
    source: &CatalogSource,
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
        Some(latest) => changes_since(latest, source, into, snapshot, now).await?,
        None => Changes::default(),
    };
    let accepted = Accepted { version: latest.map_or(1, |latest| latest.version + 1), hash, origin: source.origin(), at: now };
    store(into, source, &accepted, &changes, archive).await?;
    Ok(accepted)
}

/// The differences from the catalog of an earlier run, as far as its files are kept.
async fn changes_since(
    earlier: &StoredCatalog,
    source: &CatalogSource,
    from: &Store,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Changes, StartError> {
    let Ok(Some(files)) = from.catalog_files(earlier.version).await else { return Ok(Changes::unknown()) };
    let (source, snapshot) = (source.clone(), snapshot.clone());
    let compared = blocking(move || source.build(Archive(files), now).map(|before| diff(&before, &snapshot)));
    Ok(compared.await?.unwrap_or_else(|_| Changes::unknown()))
}

/// The last good state of the folder, if it was kept and this build can still read it.
async fn last_good(
    source: &CatalogSource,
    store: &Store,
    history: &[StoredCatalog],
    now: Timestamp,
) -> Result<Option<(Snapshot, Archive, Accepted)>, StartError> {
    let Some(folder) = source.folder() else { return Ok(None) };
    for entry in history.iter().filter(|entry| entry.folder.as_ref() == Some(&folder)) {
        // An entry that cannot be read does not keep us from the one before it.
        let Ok(Some(files)) = store.catalog_files(entry.version).await else { continue };
        let (source, archive) = (source.clone(), Archive(files));
        let built = blocking(move || (source.build(archive.clone(), now), archive));
        if let (Ok(snapshot), archive) = built.await? {
            let (version, hash) = (entry.version, entry.hash.clone());
            return Ok(Some((snapshot, archive, Accepted { version, hash, origin: Origin::Stored(folder), at: entry.accepted_at })));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::daemon::config::Flags;
    use crate::store::Options;

    const PROVIDER: &str = "schema = 1\nid = \"sim\"\nname = \"Sim\"\nkind = \"simulated\"\n";
    const MODEL: &str = "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/responses\"]\n\
        [[model.offering]]\nprovider = \"sim\"\n\
        [[model.offering.price]]\ninput = \"1\"\nuntil = 2026-06-01\nsource = \"https://p\"\nverified_at = 2026-01-01\n\
        [[model.offering.price]]\ninput = \"2\"\nfrom = 2026-06-01\nsource = \"https://p\"\nverified_at = 2026-01-01\n";

    fn price(catalog: &Catalog) -> String {
        catalog.current().resolve("m").unwrap().price.input.unwrap().to_string()
    }

    /// Guards against a price that stays in force after its last day because the folder is broken
    /// by then.
    #[tokio::test]
    async fn a_date_that_comes_counts_even_if_the_folder_is_broken_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let seeds = dir.path().join("seeds");
        for (file, text) in [("providers/sim.toml", PROVIDER), ("models/m.toml", MODEL)] {
            std::fs::create_dir_all(seeds.join(file).parent().unwrap()).unwrap();
            std::fs::write(seeds.join(file), text).unwrap();
        }
        let env: Environment = Arc::new(HashMap::from([("HOME", "/nowhere")]));
        let mut settings = Settings::load(&Flags::default(), &*env).unwrap();
        settings.catalog_dir = Some(seeds.clone());
        let options = Options { commit_interval: Duration::ZERO, ..Options::new(dir.path().join("data")) };
        let (store, _) = tokio::task::spawn_blocking(|| Store::open(options)).await.unwrap().unwrap();
        // Two seconds before midnight on the last day of May.
        let time = Arc::new(AtomicI64::new("2026-05-31T23:59:58Z".parse::<Timestamp>().unwrap().as_second()));
        let read = time.clone();
        let clock = Clock::new(move || Timestamp::from_second(read.load(Ordering::Relaxed)).unwrap());
        let source = CatalogSource::new(&settings, env).unwrap();
        let (catalog, keeper) = CatalogReloader::start(source, store.clone(), clock).await.unwrap();
        assert_eq!((price(&catalog), catalog.versioned().0), ("1".to_owned(), 1));

        std::fs::write(seeds.join("models/m.toml"), "broken").unwrap();
        let drain = CancellationToken::new();
        let mut versions = catalog.subscribe();
        let running = keeper.run(drain.clone());
        let check = async {
            assert!(matches!(catalog.reload("a test").await, Err(ReloadError::Faults(_))));
            time.fetch_add(10, Ordering::Relaxed);
            versions.wait_for(|version| *version == 2).await.unwrap();
            assert_eq!(price(&catalog), "2");
            assert!(catalog.standing().refused.is_some(), "the folder is still broken");
            let history = store.catalogs().await.unwrap();
            let changes: Changes = serde_json::from_slice(&history[0].changes).unwrap();
            assert_eq!((history.len(), changes.prices), (2, 1), "{changes:?}");
            drain.cancel();
        };
        tokio::join!(running, check);
        let store = store.clone();
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }
}
