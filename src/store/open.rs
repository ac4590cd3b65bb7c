//! Opening a data directory: the lock, sled's known faults, migration, unfinished batches.
//!
//! Recovery reads the records of unfinished batches and their pages, never a result: its time does
//! not grow with the number of finished rows.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::compaction::{Compact, Compaction};
use super::copies::Copies;
use super::databases::remove_others;
use super::dir::{DataDir, Folder, Locked, Report, database};
use super::live::{LiveBatch, Lives};
use super::mark::Mark;
use super::open_sled::open_sled;
use super::seal::Seal;
use super::sum::Sum;
use super::tree::Tree;
use super::verify::{self, Sound, StartRefused};
use super::writer::Writer;
use super::{Inner, Store, format, migrate};
use crate::domain::batch::BatchState;
use crate::domain::id::BatchId;
use crate::store::error::StoreError;
use crate::store::verify::LOG;

/// sled's own settings file, beside its log.
const SETTINGS: &str = "conf";
/// Operations that wait for the writer. Rows are bounded by the in-flight limit, metadata by the
/// number of connections; beyond this, callers wait.
const QUEUE: usize = 16_384;

/// How to open the store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory; created if absent.
    pub dir: PathBuf,
    /// sled's page cache in bytes. Resident memory exceeds this, see the manual.
    pub cache_bytes: u64,
    /// How long row results may gather before one flush.
    pub commit_interval: Duration,
    /// When the store is compacted.
    pub compact: Compact,
}

impl Options {
    /// Options for a directory, with a small cache and defaults for everything else.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), cache_bytes: 8 << 20, commit_interval: Duration::from_millis(5), compact: Compact::default() }
    }
}

/// Work that an earlier process left unfinished.
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
    Refused { dir: String, refusal: StartRefused },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    fn refused(root: &Folder, refusal: StartRefused) -> Self {
        let dir = root.path().display().to_string();
        match refusal {
            StartRefused::Newer { found, known } => Self::Newer { dir, found, known },
            refusal => Self::Refused { dir, refusal },
        }
    }
}

pub(super) fn open(dir: Locked, options: &Options) -> Result<(Store, Recovered), OpenError> {
    let refused = |refusal| OpenError::refused(dir.root(), refusal);
    let Sound { generation, sum, held, image } = verify::verify(dir.root()).map_err(refused)?;
    // All that was promised is there: from here on we may change the directory.
    let folder = dir.root().folder(database(generation))?;
    // sled opens its files by their paths, and with the permissions that the umask leaves.
    folder.vet(Report::Loud)?;
    match image {
        Some(image) => {
            let handed_over = image.hand_over(folder.path());
            handed_over.map_err(|error| StoreError::io("preparing", folder.path(), &std::io::Error::other(error.to_string())))?;
        }
        None => remove_rest(&folder)?,
    }
    let tree = open_sled(&folder, options.cache_bytes)?;
    // sled does not make the names of its files durable, and the mark is about to say that the
    // files are there.
    folder.sync()?;
    let broken = CancellationToken::new();
    let tree = Tree::new(tree, broken.clone(), dir.root().seam());
    if let Some(sum) = &sum
        && !verify::is_as_verified(&tree, sum)?
    {
        return Err(refused(StartRefused::Damaged("sled does not open what is in its log".into())));
    }
    let mut sum = sum.unwrap_or_else(Sum::fresh);
    let mark = Mark::start(dir.root(), generation, &sum)?;
    migrate::run(&tree, &mut sum)?;
    tree.count(held.into_holdings());
    remove_others(dir.root(), generation)?;
    let store = start(dir.furnish()?, options, Opened { generation, folder, tree, broken, sum, mark })?;
    let recovered = store.recover()?;
    Ok((store, recovered))
}

/// The database of a data directory.
struct Opened {
    generation: u64,
    folder: Folder,
    tree: Tree,
    broken: CancellationToken,
    sum: Sum,
    mark: Mark,
}

fn start(dir: DataDir, options: &Options, opened: Opened) -> Result<Store, StoreError> {
    let Opened { generation, folder, tree, broken, sum, mark } = opened;
    let seal = Seal::open(dir.root())?;
    let log = folder.open(LOG)?;
    let lives = Lives::default();
    let (queue, receiver) = mpsc::channel(QUEUE);
    let begun = Arc::new(AtomicU64::new(0));
    let (durable_sender, durable) = watch::channel(0);
    let (rows_sender, durable_rows) = watch::channel(0);
    let commits = Arc::new(AtomicU64::new(0));
    let compaction = Compaction::new(options.compact, dir.root());
    let space = compaction.space.clone();
    let copies = Copies {
        mirror: None,
        wanted: None,
        compaction,
        queue: queue.downgrade(),
        root: dir.root().clone(),
        generation,
        cache_bytes: options.cache_bytes,
    };
    #[cfg(test)]
    let writing = super::quiesce::WhileWriting::default();
    let writer = Writer {
        tree: tree.clone(),
        copies,
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
        interval: options.commit_interval,
        #[cfg(test)]
        writing: writing.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run())
        .map_err(|e| StoreError::io("starting the writer of", dir.root().path(), &e))?;
    let writer = std::sync::Mutex::new(Some(thread));
    let inner = Inner {
        audit: super::audit_log::AuditLog::new(dir.root()),
        dir,
        tree,
        space,
        removals: Default::default(),
        pages: super::results::shared_pages::SharedPages::default(),
        lives,
        lost: Default::default(),
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
        #[cfg(test)]
        writing,
    };
    Ok(Store { inner: Arc::new(inner) })
}

/// Removes snapshots and settings, because sled refuses to open with half-written ones. A store
/// without data needs none.
fn remove_rest(folder: &Folder) -> Result<(), StoreError> {
    for entry in folder.entries()? {
        if entry.name == SETTINGS || entry.name.to_string_lossy().starts_with("snap.") {
            folder.remove(&entry.name)?;
        }
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
                Err(error @ StoreError::Damaged(_)) => {
                    tracing::error!(batch = %id, %error, "an unfinished batch cannot be read; it is skipped")
                }
                Err(error) => return Err(error),
            }
        }
        self.revive_holds()?;
        self.set_unknown_aside()?;
        Ok(recovered)
    }

    /// Loads the rows of an unfinished batch into memory.
    fn revive(&self, id: BatchId) -> Result<(), StoreError> {
        match self.read_state(id)? {
            Some((BatchState::Validating, _)) | None => {}
            Some(_) => {
                let pages = self.read_pages(id)?;
                super::quotas::note_rows(&self.inner.tree, id, &pages);
                self.inner.lives.insert(id, LiveBatch::new(pages, self.read_control(id)?));
            }
        }
        Ok(())
    }
}
