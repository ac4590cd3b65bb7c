//! sled's tree, as all code except the opening of the store sees it.
//!
//! Invariant: an error of sled's, in a read or a write, means that the store has failed. The error
//! is reported to the daemon once, here: the daemon stops, and the next start sees what can be
//! read. A record that cannot be understood is different (`RecordError`): only that record is
//! damaged, and all else goes on.

use std::ops::RangeBounds;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use sled::IVec;
use tokio_util::sync::CancellationToken;

use super::dir::{Act, Seam};
use super::holdings::Holdings;
use crate::store::error::StoreError;

/// A handle on the tree; clones share it, even after another tree has replaced it.
#[derive(Debug, Clone)]
pub(super) struct Tree(Arc<TreeInner>);

#[derive(Debug)]
struct TreeInner {
    sled: ArcSwap<sled::Tree>,
    broken: CancellationToken,
    seam: Seam,
    holdings: OnceLock<Holdings>,
}

impl TreeInner {
    fn done<T>(&self, result: sled::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| {
            if !self.broken.is_cancelled() {
                tracing::error!(%error, "the store has failed; the daemon stops");
            }
            self.broken.cancel();
            StoreError::from(error)
        })
    }

    fn read<T>(&self, read: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        self.done(self.seam.pass(Act::ReadStore).map_err(sled::Error::from).and_then(|()| read()))
    }
}

impl Tree {
    /// `broken` is cancelled when sled fails.
    pub fn new(sled: sled::Tree, broken: CancellationToken, seam: Seam) -> Self {
        Self(Arc::new(TreeInner { sled: ArcSwap::from_pointee(sled), broken, seam, holdings: OnceLock::new() }))
    }

    /// sled's own tree that is current now.
    pub fn sled(&self) -> sled::Tree {
        sled::Tree::clone(&self.0.sled.load())
    }

    /// Replaces the tree by another tree with the same entries.
    pub fn replace(&self, with: sled::Tree) {
        self.0.sled.store(Arc::new(with));
    }

    /// Has what organisations hold counted with every write from now on.
    pub fn count(&self, holdings: Holdings) {
        // Set once, when the store is opened.
        let _ = self.0.holdings.set(holdings);
    }

    /// What organisations hold; `None` for a tree that nobody uses yet.
    pub fn holdings(&self) -> Option<&Holdings> {
        self.0.holdings.get()
    }

    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<IVec>, StoreError> {
        self.0.read(|| self.0.sled.load().get(key))
    }

    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool, StoreError> {
        self.0.read(|| self.0.sled.load().contains_key(key))
    }

    /// The entries whose keys are in the range, in key order.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Entries {
        Entries { entries: self.0.sled.load().range(range), tree: self.0.clone() }
    }

    /// The entries whose keys begin with `prefix`, in key order.
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Entries {
        Entries { entries: self.0.sled.load().scan_prefix(prefix), tree: self.0.clone() }
    }

    /// Applies the whole batch at once. Not durable before the next flush.
    pub fn apply_batch(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.0.done(self.0.sled.load().apply_batch(batch))
    }

    /// Waits until sled has handed all writes to the operating system.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.0.done(self.0.sled.load().flush()).map(drop)
    }

    #[cfg(test)]
    pub fn insert(&self, key: impl AsRef<[u8]>, value: &[u8]) -> Result<(), StoreError> {
        self.0.done(self.0.sled.load().insert(key, value)).map(drop)
    }

    #[cfg(test)]
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<(), StoreError> {
        self.0.done(self.0.sled.load().remove(key)).map(drop)
    }
}

/// Entries of the tree, which can be iterated forwards and backwards.
pub(super) struct Entries {
    entries: sled::Iter,
    tree: Arc<TreeInner>,
}

impl Entries {
    /// The keys of the entries, without the values.
    pub fn keys(self) -> impl DoubleEndedIterator<Item = Result<IVec, StoreError>> {
        self.map(|entry| entry.map(|(key, _)| key))
    }
}

impl Iterator for Entries {
    type Item = Result<(IVec, IVec), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.tree.read(|| self.entries.next().transpose()).transpose()
    }
}

impl DoubleEndedIterator for Entries {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.tree.read(|| self.entries.next_back().transpose()).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::io::Errno;

    use super::super::{Faults, Options, Store, format};
    use super::*;
    use crate::domain::id::{FileId, UploadId};
    use crate::domain::time::Timestamp;

    const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);

    fn open(dir: &tempfile::TempDir) -> (Store, Faults) {
        let options = Options { commit_interval: Duration::ZERO, ..Options::new(dir.path()) };
        let faults = Faults::default();
        (Store::open_with(&options, &faults).unwrap().0, faults)
    }

    /// Includes reads on the writer's thread, whose own writes succeed.
    #[tokio::test]
    async fn whichever_read_fails_the_daemon_is_told() {
        for which in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let (store, faults) = open(&dir);
            faults.fail(Some(Act::ReadStore), 0, Errno::IO);
            let error = match which {
                0 => store.sweep(NOW).await.map(drop),
                1 => store.file(FileId::from_u128(1), NOW).await.map(drop),
                2 => store.upload(UploadId::from_u128(1), NOW).await.map(drop),
                3 => store.delete_file(FileId::from_u128(1)).await.map(drop),
                _ => store.orgs().await.map(drop),
            };
            assert!(matches!(error, Err(StoreError::Broken(_))), "{which}: {error:?}");
            assert!(store.broken().is_cancelled(), "{which}");
            tokio::task::spawn_blocking(move || store.close()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_damaged_record_is_damaged_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(&dir);
        let (file, upload) = (FileId::from_u128(1), UploadId::from_u128(1));
        store.inner.tree.insert(format::file(file), b"\xff").unwrap();
        store.inner.tree.insert(format::upload(upload), b"\xff").unwrap();
        assert!(matches!(store.file(file, NOW).await, Err(StoreError::Damaged(_))));
        assert!(matches!(store.upload(upload, NOW).await, Err(StoreError::Damaged(_))));
        assert!(matches!(store.delete_file(file).await, Err(StoreError::Damaged(_))));
        store.sweep(NOW).await.unwrap();
        assert!(!store.broken().is_cancelled());
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }
}
