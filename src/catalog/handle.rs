//! The one place where the current snapshot changes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::fault::Faults;
use super::snapshot::Snapshot;

/// The current catalog. Readers take a snapshot and keep it for as long as one decision lasts.
#[derive(Debug)]
pub struct Catalog {
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
}

impl Catalog {
    /// A catalog at version 1.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(snapshot), version: watch::Sender::new(1) }
    }

    /// The snapshot now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts another snapshot in place and tells the subscribers. Returns its version.
    pub fn replace(&self, snapshot: Snapshot) -> u64 {
        self.current.store(Arc::new(snapshot));
        // After the store, so that whoever is woken finds the new snapshot.
        self.version.send_modify(|version| *version += 1);
        *self.version.borrow()
    }

    /// Follows the version, which grows with every [`Self::replace`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Loads anew, all or nothing: on faults the last good snapshot stays and the faults are logged.
    /// Returns the version if anything changed.
    ///
    /// # Errors
    /// The faults, for whoever asked for the reload.
    pub fn reload(&self, load: impl FnOnce() -> Result<Snapshot, Faults>) -> Result<Option<u64>, Faults> {
        let snapshot = load().inspect_err(|faults| {
            for fault in faults.as_slice() {
                tracing::error!(%fault, "catalog fault");
            }
            tracing::error!(faults = faults.as_slice().len(), "the catalog was not reloaded; the last good one stays");
        })?;
        if snapshot == **self.current.load() {
            return Ok(None);
        }
        let hash = snapshot.hash().to_owned();
        let version = self.replace(snapshot);
        tracing::info!(version, hash, "catalog reloaded");
        Ok(Some(version))
    }
}
