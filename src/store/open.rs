//! Opening a data directory: the lock, sled's known faults, migration, what was unfinished.
//!
//! ```text
//! lock      held by the one process that has the directory
//! store/    sled
//! files/    content of uploaded files, by id
//! parts/    content of upload parts, by id
//! spool/    being written; emptied on opening
//! seal.key  the daemon's own key
//! ```
//!
//! Recovery reads the records of unfinished batches and their pages, never a result: its time does
//! not grow with the number of finished rows.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::live::{LiveBatch, Lives};
use super::seal::Seal;
use super::writer::Writer;
use super::{Inner, Store, StoreError, format, migrate};
use crate::domain::batch::BatchState;
use crate::domain::id::BatchId;

pub(super) const FILES: &str = "files";
pub(super) const PARTS: &str = "parts";
pub(super) const SPOOL: &str = "spool";
const SLED: &str = "store";
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

pub(super) fn open(options: Options) -> Result<(Store, Recovered), OpenError> {
    let dir = options.dir.clone();
    for folder in [FILES, PARTS, SPOOL, SLED] {
        let path = dir.join(folder);
        // Prompts and answers are nobody else's business.
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        created.map_err(|e| StoreError::io("creating", &path, &e))?;
    }
    let lock = lock(&dir)?;
    clear(&dir.join(SPOOL))?;
    let db = open_sled(&dir.join(SLED), options.cache_bytes)?;
    let tree = db.open_tree("data").map_err(StoreError::from)?;
    if let Some(found) = migrate::version(&tree)?
        && found > migrate::CURRENT
    {
        return Err(OpenError::Newer { dir: dir.display().to_string(), found, known: migrate::CURRENT });
    }
    migrate::run(&tree)?;
    let store = start(dir, tree, lock, options.commit_interval)?;
    let recovered = store.recover()?;
    Ok((store, recovered))
}

fn start(dir: PathBuf, tree: sled::Tree, lock: fs::File, interval: Duration) -> Result<Store, StoreError> {
    let seal = Seal::open(&dir)?;
    let path = dir.join(SLED).join("db");
    let log = fs::File::open(&path).map_err(|e| StoreError::io("opening", &path, &e))?;
    let lives = Lives::default();
    let (queue, receiver) = mpsc::channel(QUEUE);
    let begun = Arc::new(AtomicU64::new(0));
    let (durable_sender, durable) = watch::channel(0);
    let (rows_sender, durable_rows) = watch::channel(0);
    let commits = Arc::new(AtomicU64::new(0));
    let broken = CancellationToken::new();
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
        .map_err(|e| StoreError::io("starting the writer of", &dir, &e))?;
    let writer = std::sync::Mutex::new(Some(thread));
    let inner = Inner {
        dir,
        tree,
        lives,
        holds: Arc::default(),
        queue,
        begun,
        durable,
        durable_rows,
        commits,
        broken,
        damage_found: Arc::default(),
        writer,
        seal,
        _lock: lock,
        #[cfg(test)]
        recorded: Arc::default(),
        #[cfg(test)]
        writing: Default::default(),
    };
    Ok(Store { inner: Arc::new(inner) })
}

fn lock(dir: &Path) -> Result<fs::File, OpenError> {
    let path = dir.join("lock");
    let open = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|e| StoreError::io("opening", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.display().to_string() }),
        Err(fs::TryLockError::Error(error)) => Err(StoreError::io("locking", &path, &error).into()),
    }
}

fn clear(folder: &Path) -> Result<(), StoreError> {
    for entry in entries(folder)? {
        fs::remove_file(&entry).map_err(|e| StoreError::io("removing", &entry, &e))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    read().map_err(|e| StoreError::io("listing", folder, &e))
}

fn open_sled(path: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    // sled 0.34 takes a snapshot that was being written when the process died for a damaged one
    // and then never opens again (reported there as 1527 and 1533). It is not needed: the log has it all.
    for entry in entries(path)? {
        if entry.extension().is_some_and(|ext| ext == "generating") {
            tracing::warn!(path = %entry.display(), "removing a half-written snapshot");
            fs::remove_file(&entry).map_err(|e| StoreError::io("removing", &entry, &e))?;
        }
    }
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None).mode(sled::Mode::HighThroughput);
    match open_once_it_is_free(&config) {
        Err(sled::Error::Io(error)) => Err(StoreError::io("opening the store in", path, &error)),
        Err(sled::Error::Corruption { .. }) => {
            set_snapshots_aside(path)?;
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
fn set_snapshots_aside(path: &Path) -> Result<(), StoreError> {
    let aside = path.with_extension("damaged-snapshots");
    fs::create_dir_all(&aside).map_err(|e| StoreError::io("creating", &aside, &e))?;
    for entry in entries(path)? {
        let Some(name) = entry.file_name().filter(|name| name.to_string_lossy().starts_with("snap.")) else { continue };
        let target = aside.join(name);
        tracing::error!(path = %entry.display(), kept_as = %target.display(), "a snapshot is damaged; recovering from the log");
        fs::rename(&entry, &target).map_err(|e| StoreError::io("moving", &entry, &e))?;
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
        self.remove_orphans()?;
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

    /// Removes content that no record names: its process died between the two.
    fn remove_orphans(&self) -> Result<(), StoreError> {
        for path in entries(&self.inner.dir.join(FILES))? {
            let id = path.file_name().and_then(|name| u128::from_str_radix(name.to_str()?, 16).ok());
            let Some(id) = id.map(crate::domain::id::FileId::from_u128) else { continue };
            let known = self.inner.tree.contains_key(format::file(id))? || self.inner.tree.contains_key(format::deleted(id))?;
            if !known {
                fs::remove_file(&path).map_err(|e| StoreError::io("removing", &path, &e))?;
            }
        }
        self.remove_orphaned_parts()
    }
}
