//! Opening a data directory: the lock, sled's known faults, migration, what was unfinished.
//!
//! Recovery reads the records of unfinished batches and their pages, never a result: its time does
//! not grow with the number of finished rows.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::dir::{DAMAGED_SNAPSHOTS, DataDir, Folder, Locked, Report, STORE};
use super::live::{LiveBatch, Lives};
use super::seal::Seal;
use super::tree::Tree;
use super::writer::Writer;
use super::{Inner, Store, StoreError, format, migrate};
use crate::domain::batch::BatchState;
use crate::domain::id::BatchId;

/// Operations that wait for the writer. Rows are bounded by the in-flight limit, metadata by the
/// number of connections; beyond this, callers wait.
const QUEUE: usize = 16_384;

/// How to open the store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory; created if absent.
    pub dir: PathBuf,
    /// sled's page cache in bytes. Resident memory exceeds it, see the manual.
    pub cache_bytes: u64,
    /// How long row results may gather before one flush.
    pub commit_interval: Duration,
}

/// What a process that ended before left to do.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Unfinished batches, oldest first.
    pub batches: Vec<BatchId>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data directory {dir} is in use by another batchd process; stop it, or choose another directory with --data-dir")]
    InUse { dir: String },
    #[error("the data directory {dir} was written by a newer batchd (format {found}, this one knows up to {known}); use that version")]
    Newer { dir: String, found: u32, known: u32 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) fn open(dir: Locked, options: &Options) -> Result<(Store, Recovered), OpenError> {
    let sled = dir.root().folder(STORE)?;
    // It opens its files by their paths, and with the permissions that the umask leaves.
    sled.vet(Report::Loud)?;
    let dir = dir.furnish()?;
    let db = open_sled(&dir, &sled, options.cache_bytes)?;
    sled.vet(Report::Quiet)?;
    let tree = db.open_tree("data").map_err(StoreError::from)?;
    if let Some(found) = migrate::version(&tree)?
        && found > migrate::CURRENT
    {
        return Err(OpenError::Newer { dir: dir.root().path().display().to_string(), found, known: migrate::CURRENT });
    }
    migrate::run(&tree)?;
    let store = start(dir, &sled, tree, options.commit_interval)?;
    let recovered = store.recover()?;
    Ok((store, recovered))
}

fn start(dir: DataDir, sled: &Folder, tree: sled::Tree, interval: Duration) -> Result<Store, StoreError> {
    let seal = Seal::open(dir.root())?;
    let log = sled.open("db")?;
    let lives = Lives::default();
    let (queue, receiver) = mpsc::channel(QUEUE);
    let begun = Arc::new(AtomicU64::new(0));
    let (durable_sender, durable) = watch::channel(0);
    let (rows_sender, durable_rows) = watch::channel(0);
    let commits = Arc::new(AtomicU64::new(0));
    let broken = CancellationToken::new();
    let tree = Tree::new(tree, broken.clone(), dir.root().seam());
    let writer = Writer {
        tree: tree.clone(),
        lives: lives.clone(),
        queue: receiver,
        begun: begun.clone(),
        durable: durable_sender,
        durable_rows: rows_sender,
        commits: commits.clone(),
        broken: broken.clone(),
        log,
        interval,
    };
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run())
        .map_err(|e| StoreError::io("starting the writer of", dir.root().path(), &e))?;
    let writer = std::sync::Mutex::new(Some(thread));
    let inner = Inner {
        dir,
        tree,
        lives,
        lost: Default::default(),
        holds: Arc::default(),
        queue,
        begun,
        durable,
        durable_rows,
        commits,
        broken,
        writer,
        seal,
        #[cfg(test)]
        recorded: Arc::default(),
        #[cfg(test)]
        writing: Default::default(),
    };
    Ok(Store { inner: Arc::new(inner) })
}

fn open_sled(dir: &DataDir, folder: &Folder, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    // sled 0.34 takes a snapshot that was being written when the process died for a damaged one
    // and then never opens again (reported there as 1527 and 1533). It is not needed: the log has it all.
    for name in folder.entries()?.into_iter().map(|entry| entry.name) {
        if std::path::Path::new(&name).extension() == Some(OsStr::new("generating")) {
            tracing::warn!(path = %folder.path_of(&name).display(), "removing a half-written snapshot");
            folder.remove(&name)?;
        }
    }
    let config = sled::Config::new().path(folder.path()).cache_capacity(cache_bytes).flush_every_ms(None).mode(sled::Mode::HighThroughput);
    match open_once_it_is_free(&config) {
        Err(sled::Error::Io(error)) => Err(StoreError::io("opening the store in", folder.path(), &error)),
        Err(sled::Error::Corruption { .. }) => {
            set_snapshots_aside(dir, folder)?;
            Ok(config.open()?)
        }
        other => Ok(other?),
    }
}

/// sled's threads let go of its lock a moment after the last handle is gone. That no other process has
/// it is known from our own lock, so whoever has it is about to leave.
fn open_once_it_is_free(config: &sled::Config) -> sled::Result<sled::Db> {
    const PAUSE: Duration = Duration::from_millis(10);
    const TRIES: u32 = 200;
    for _ in 1..TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    config.open()
}

/// Moves damaged snapshots away, so that sled recovers from its log alone.
fn set_snapshots_aside(dir: &DataDir, folder: &Folder) -> Result<(), StoreError> {
    let aside = dir.root().folder(DAMAGED_SNAPSHOTS)?;
    for name in folder.entries()?.into_iter().map(|entry| entry.name).filter(|name| name.to_string_lossy().starts_with("snap.")) {
        let (path, kept_as) = (folder.path_of(&name), aside.path_of(&name));
        tracing::error!(path = %path.display(), kept_as = %kept_as.display(), "a snapshot is damaged; recovering from the log");
        folder.rename(&name, &aside, &name)?;
    }
    Ok(())
}

impl Store {
    fn recover(&self) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        for entry in self.inner.tree.scan_prefix(format::ACTIVE) {
            let (key, _) = entry?;
            let Some(id) = format::trailing_id(&key).map(BatchId::from_u128) else { continue };
            match self.revive(id) {
                Ok(()) => recovered.batches.push(id),
                // One damaged batch must not keep all the others from running.
                Err(error) => tracing::error!(batch = %id, %error, "an unfinished batch cannot be read and is left alone"),
            }
        }
        self.revive_holds()?;
        self.set_unknown_aside()?;
        Ok(recovered)
    }

    /// Brings the rows of an unfinished batch into memory.
    fn revive(&self, id: BatchId) -> Result<(), StoreError> {
        match self.read_state(id)? {
            Some((BatchState::Validating, _)) | None => {}
            Some(_) => self.inner.lives.insert(id, LiveBatch::new(self.read_pages(id)?, self.read_control(id)?)),
        }
        Ok(())
    }
}
