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
use super::mark::Mark;
use super::seal::Seal;
use super::sum::{Sum, TREE};
use super::verify::{self, Refusal, Sound};
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
    #[error(
        "the data directory {dir} is not opened, and nothing in it was changed: {refusal}. `batchd store check` tells more. \
         Restore a backup, or copy what can be read to a new directory with `batchd store salvage --to NEWDIR`"
    )]
    Refused { dir: String, refusal: Refusal },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    fn refused(dir: &Path, refusal: Refusal) -> Self {
        let dir = dir.display().to_string();
        match refusal {
            Refusal::Newer { found, known } => Self::Newer { dir, found, known },
            refusal => Self::Refused { dir, refusal },
        }
    }
}

pub(super) fn open(options: Options) -> Result<(Store, Recovered), OpenError> {
    let dir = options.dir.clone();
    for folder in [FILES, PARTS, SPOOL] {
        create(&dir.join(folder))?;
    }
    let lock = lock(&dir)?;
    let refused = |refusal| OpenError::refused(&dir, refusal);
    let Sound { generation, sum, image } = verify::verify(&dir).map_err(refused)?;
    // Whatever was promised is there: from here on the directory is ours to change.
    let path = dir.join(folder(generation));
    create(&path)?;
    match image {
        Some(image) => image.hand_over(&path).map_err(|error| refused(error.into()))?,
        None => remove_snapshots(&path)?,
    }
    let tree = open_sled(&path, options.cache_bytes)?.open_tree(TREE).map_err(StoreError::from)?;
    if let Some(sum) = &sum
        && !verify::is_as_verified(&tree, sum)?
    {
        return Err(refused(Refusal::Damaged("sled does not open what is in its log".into())));
    }
    let mut sum = sum.unwrap_or_else(Sum::fresh);
    let mark = Mark::start(&dir, generation, &sum)?;
    migrate::run(&tree, &mut sum)?;
    clear(&dir.join(SPOOL))?;
    let store = start(dir, tree, lock, options.commit_interval, generation, sum, mark)?;
    let recovered = store.recover()?;
    Ok((store, recovered))
}

/// The folder of a database.
pub(super) fn folder(generation: u64) -> String {
    if generation == 0 { SLED.to_owned() } else { format!("{SLED}-{generation}") }
}

pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    // Prompts and answers are nobody else's business.
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|e| StoreError::io("creating", path, &e))
}

fn start(
    dir: PathBuf,
    tree: sled::Tree,
    lock: fs::File,
    interval: Duration,
    generation: u64,
    sum: Sum,
    mark: Mark,
) -> Result<Store, StoreError> {
    let seal = Seal::open(&dir)?;
    let path = dir.join(folder(generation)).join("db");
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
        sum,
        mark,
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

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    read().map_err(|e| StoreError::io("listing", folder, &e))
}

pub(super) fn open_sled(path: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None).mode(sled::Mode::HighThroughput);
    match open_once_it_is_free(&config) {
        Err(sled::Error::Io(error)) => Err(StoreError::io("opening the store in", path, &error)),
        other => Ok(other?),
    }
}

/// A store without data needs none, and sled refuses to open with one that is half written.
fn remove_snapshots(path: &Path) -> Result<(), StoreError> {
    for entry in entries(path)? {
        if entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            fs::remove_file(&entry).map_err(|e| StoreError::io("removing", &entry, &e))?;
        }
    }
    Ok(())
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

impl Store {
    fn recover(&self) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        for entry in self.inner.tree.scan_prefix(format::ACTIVE) {
            let (key, _) = entry?;
            let Some(id) = format::trailing_id(&key).map(BatchId::from_u128) else { continue };
            match self.revive(id) {
                Ok(()) => recovered.batches.push(id),
                // One damaged batch must not keep all the others from running.
                Err(error @ StoreError::Damaged(_)) => {
                    tracing::error!(batch = %id, %error, "an unfinished batch cannot be read and is left alone")
                }
                Err(error) => return Err(error),
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
