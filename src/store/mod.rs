//! Everything durable: batches, results, files, uploads. The only module that names sled and
//! bincode, and the only one that writes to the data directory.
//!
//! The store makes no decisions: states come from `domain`, and the executor says when.
//!
//! Invariants that other modules rely on:
//! * a write call returns only after its data is on disk, and every read waits for the writes that
//!   it has seen: whatever a caller was ever shown survives `kill -9`;
//! * each row of a batch has at most one result, the first one recorded;
//! * in-flight work is never stored: on disk a row is pending or has a result.
//!
//! One thread writes ([`writer`]); all other threads send work to it. That makes group commit,
//! ordering and "check, then write" trivial, and one flush serves all callers that wait.

mod audit_log;
mod backup;
mod batches;
mod catalog;
mod check;
mod compaction;
mod content;
mod copier;
mod copies;
mod creation;
mod databases;
mod deletion;
mod deliveries;
mod dir;
pub mod error;
mod event_log;
mod examine;
mod files;
mod format;
mod holdings;
mod image;
mod key;
mod lane_holds;
mod ledger;
mod live;
mod lost;
mod mark;
mod migrate;
mod op;
mod open;
mod open_sled;
mod orgs;
mod output_stats;
#[cfg(test)]
mod quiesce;
mod quotas;
mod quotes;
mod readable;
mod record;
mod removals;
mod results;
mod salvage;
mod seal;
mod spool;
mod sum;
mod sweep;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod uploads;
mod verify;
mod webhook_events;
mod writer;
mod writes;

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use crate::store::record::stored_catalog::StoredCatalog;
pub use backup::{Backup, BackupError};
pub use batches::{BatchQuery, End};
pub use catalog::CATALOGS_KEPT;
pub use check::{Checked, check};
pub use compaction::{Compact, Space};
pub use content::Verified;
pub use creation::{CreateOutcome, Idempotency, MadeInput, UsedKey};
pub use deletion::BatchDeletion;
pub use deliveries::{DeliveryChoice, Due, DueSearch, FoundDue};
#[cfg(test)]
pub use dir::{Act, Faults};
pub use dir::{DataFile, RUN_OUTPUTS, RUNS, discard};
pub use error::DamagedContent;
pub use files::{Deletion, FileQuery, NewFile, SortOrder};
pub use format::ROWS_PER_PAGE;
pub use lane_holds::{HoldOutcome, MAX_HOLDS};
pub use live::LiveBatch;
pub use open::{OpenError, Options, Recovered};
pub use orgs::{Added, MAX_KEYS, MAX_ORGS, MAX_REGISTERED, Revoked};
#[cfg(test)]
pub use quiesce::Quiesce;
pub use quotas::Ask;
pub use readable::Unlookable;
#[doc(hidden)]
pub use record::decode_anything as fuzz_decode;
pub use record::page::Page;
pub use results::PackedRow;
pub use results::line_form::{LineOf, LineRender};
pub use results::lines::{ByteRange, Chunk, Lines};
pub use salvage::{SalvageError, SalvageNote, Salvaged, Thing, salvage};
pub use seal::{Seal, Unsealable};
pub use spool::{Sealed, Spool};
pub use unpack::{Packing, UnpackError, UnpackLimits, unpack_file};
pub use uploads::{CompleteError, PartError};
pub use verify::StartRefused;
pub use webhook_events::{WatchedBatch, WebhookEvents};

use error::StoreError;
use live::Lives;
use op::{Op, Tx};
use tree::Tree;

/// A page of a list, and whether more items follow.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    pub items: Vec<T>,
    pub has_more: bool,
}

/// A handle on the store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: dir::DataDir,
    audit: audit_log::AuditLog,
    tree: Tree,
    space: Arc<Space>,
    removals: removals::Removals,
    lives: Lives,
    pages: results::shared_pages::SharedPages,
    lost: lost::LostFound,
    holds: Arc<arc_swap::ArcSwap<Vec<crate::domain::provider::lane_hold::LaneHold>>>,
    queue: mpsc::Sender<Op>,
    /// Metadata commits that have begun and those that are durable; see [`Store::await_durable`].
    begun: Arc<std::sync::atomic::AtomicU64>,
    durable: watch::Receiver<u64>,
    /// Row results that are durable, counted since the store was opened.
    durable_rows: watch::Receiver<u64>,
    /// Groups of writes that were made durable together.
    commits: Arc<std::sync::atomic::AtomicU64>,
    broken: CancellationToken,
    damage_found: Arc<std::sync::atomic::AtomicU64>,
    writer: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
    seal: Seal,
    #[cfg(test)]
    writing: quiesce::WhileWriting,
}

impl Store {
    /// Opens or creates the store in `options.dir`. Blocks; call it on a blocking thread.
    ///
    /// # Errors
    /// When another process has the store open, a newer version wrote it, or it cannot be read.
    pub fn open(options: Options) -> Result<(Self, Recovered), OpenError> {
        let dir = dir::Locked::take(&options.dir)?;
        open::open(dir, &options)
    }

    /// [`Self::open`], with injected faults in operations on the data directory, except for sled's
    /// own.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[cfg(test)]
    pub fn open_with(options: &Options, faults: &Faults) -> Result<(Self, Recovered), OpenError> {
        let dir = dir::Locked::take_with(&options.dir, faults)?;
        open::open(dir, options)
    }

    /// The daemon's own key.
    pub fn seal(&self) -> &Seal {
        &self.inner.seal
    }

    /// Runs `op` on the writer's thread and waits until what it wrote is durable.
    async fn commit<R: Send + 'static>(
        &self,
        op: impl FnOnce(&mut Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        #[cfg(test)]
        let _standstill = Quiesce::begin();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let op = Op::meta(op, sender);
        self.inner.queue.send(op).await.map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| self.closed_or_broken())?
    }

    /// Waits until everything that was handed in before is durable, results of rows included.
    ///
    /// # Errors
    /// When the store is closed or broken.
    pub async fn settle(&self) -> Result<(), StoreError> {
        // The writer takes what is handed in in its order, and a group is durable as a whole.
        self.commit(|_| Ok(())).await
    }

    fn closed_or_broken(&self) -> StoreError {
        if self.inner.broken.is_cancelled() { StoreError::Broken("a write failed earlier".into()) } else { StoreError::Closed }
    }

    /// Hands the result of a row that ran to the writer, at once if the writer's queue has room; the
    /// future waits only while it has none. The result is durable once [`Self::durable_rows`] has
    /// counted it.
    ///
    /// # Errors
    /// When the store is closed or broken.
    pub fn record(&self, row: PackedRow) -> impl Future<Output = Result<(), StoreError>> {
        // The futures of the many callers that wait for something else before this stay small: the
        // row is in none of them.
        let waits = match self.inner.queue.try_send(Op::Row { row, ran: true }) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(op)) => Ok(Some(Box::pin(self.inner.queue.send(op)))),
            Err(TrySendError::Closed(_)) => Err(self.closed_or_broken()),
        };
        async move {
            if let Some(waits) = waits? {
                waits.await.map_err(|_| self.closed_or_broken())?;
            }
            #[cfg(test)]
            self.stand_still();
            Ok(())
        }
    }

    #[cfg(test)]
    fn stand_still(&self) {
        let (durable, broken) = (self.durable_rows(), self.broken());
        self.inner.writing.handed(move || broken.is_cancelled() || durable.has_changed().is_err());
    }

    /// Hands the result of a row that never ran to the writer; [`Self::durable_rows`] announces the
    /// result but does not count it.
    ///
    /// # Errors
    /// When the store is closed or broken.
    pub async fn record_unrun(&self, row: PackedRow) -> Result<(), StoreError> {
        self.inner.queue.send(Op::Row { row, ran: false }).await.map_err(|_| self.closed_or_broken())?;
        #[cfg(test)]
        self.stand_still();
        Ok(())
    }

    /// [`Self::record_unrun`] for a blocking thread.
    ///
    /// # Errors
    /// When the store is closed or broken.
    pub fn record_unrun_blocking(&self, row: PackedRow) -> Result<(), StoreError> {
        self.inner.queue.blocking_send(Op::Row { row, ran: false }).map_err(|_| self.closed_or_broken())?;
        #[cfg(test)]
        self.stand_still();
        Ok(())
    }

    /// Counts the durable results that were handed to [`Self::record`] since the store was opened;
    /// changes with every commit.
    pub fn durable_rows(&self) -> watch::Receiver<u64> {
        self.inner.durable_rows.clone()
    }

    /// How often the disk was asked to make a group of writes durable, since the store was opened.
    pub fn commits(&self) -> u64 {
        self.inner.commits.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// How large the store is.
    pub fn space(&self) -> &Space {
        &self.inner.space
    }

    /// The ids behind the keys that consist of `list` and an id, only ids after `after`.
    fn ids(&self, list: &[u8], after: Option<u128>) -> impl Iterator<Item = Result<u128, StoreError>> + use<> {
        let from = after.map_or_else(|| list.to_vec(), |id| [list, &id.to_be_bytes(), &[0]].concat());
        self.inner.tree.range(from..format::behind(list)).keys().map(id_of)
    }

    /// Like `ids`, from the last to the first, only ids before `after`.
    fn ids_backwards(&self, list: &[u8], after: Option<u128>) -> impl Iterator<Item = Result<u128, StoreError>> + use<> {
        let end = after.map_or_else(|| format::behind(list), |id| [list, &id.to_be_bytes()].concat());
        self.inner.tree.range(list.to_vec()..end).rev().map(|entry| id_of(entry.map(|(key, _)| key)))
    }

    /// Waits until everything that the caller may have just read is durable. Every read of metadata
    /// ends with this wait: sled shows a write before it is flushed, and what is shown must
    /// survive.
    async fn await_durable(&self) -> Result<(), StoreError> {
        let begun = self.inner.begun.load(std::sync::atomic::Ordering::SeqCst);
        let mut durable = self.inner.durable.clone();
        durable.wait_for(|durable| *durable >= begun).await.map_err(|_| self.closed_or_broken())?;
        Ok(())
    }

    /// A token that is cancelled when the store has failed; the daemon then stops, so that a
    /// restart can recover.
    pub fn broken(&self) -> CancellationToken {
        self.inner.broken.clone()
    }

    /// Bytes left on the disk of the data directory for an unprivileged writer.
    ///
    /// # Errors
    /// When the file system does not report it.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.inner.dir.root().free_bytes()
    }

    /// Waits until everything that was handed in is durable, then stops the writer. Blocks.
    pub fn close(self) {
        let writer = self.inner.writer.lock().unwrap_or_else(|p| p.into_inner()).take();
        // The writer ends when it has emptied its queue up to this message.
        let _ = self.inner.queue.blocking_send(Op::Stop);
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the store's writer ended with a panic");
        }
    }
}

/// The id that ends the key of an entry.
fn id_of(key: Result<sled::IVec, StoreError>) -> Result<u128, StoreError> {
    format::trailing_id(&key?).ok_or_else(|| StoreError::Unexpected("a key of a list has no id".into()))
}

/// Runs blocking work on the store off the async threads; a panic in the work becomes its error.
/// The work begins at once, whether or not a caller awaits it yet.
///
/// # Errors
/// Errors of the work, and [`StoreError::Unexpected`] for a panic.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> impl Future<Output = Result<T, StoreError>> + Send + 'static {
    let working = tokio::task::spawn_blocking(work);
    async move {
        working.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a store operation panicked");
            Err(StoreError::Unexpected("an operation ended unexpectedly".into()))
        })
    }
}
