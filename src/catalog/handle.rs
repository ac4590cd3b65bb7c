//! The one place where the current snapshot changes, and the one place to ask for a change.
//!
//! Readers take a snapshot and keep it for as long as one decision lasts. Every source of a reload
//! (the folder's watcher, a signal, a client, the calendar) sends a request. One keeper, a task of
//! the daemon, takes the requests in order, and is the only one that publishes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::diff::Changes;
use super::discover::Discovered;
use super::fault::Faults;
use super::snapshot::Snapshot;

/// Requests that can queue for the keeper. One reload serves all of them.
const REQUESTS: usize = 256;

/// Where a snapshot comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The seeds in the binary.
    Embedded,
    /// The catalog folder, as it is written in the settings.
    Folder(String),
    /// The last good seeds of that folder, kept in the store, because the folder cannot be used.
    Stored(String),
}

/// A snapshot that was put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Grows with each snapshot, across restarts too.
    pub version: u64,
    pub hash: String,
    pub origin: Origin,
    pub at: Timestamp,
}

/// The state of the catalog: the current snapshot, and the refusals since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogStatus {
    pub accepted: Accepted,
    /// The faults and the time of the last attempt, if that failed.
    pub refused: Option<(Faults, Timestamp)>,
    /// Reloads since the start: those that put a new snapshot in place, changed nothing, and were
    /// refused.
    pub reloads: [u64; 3],
}

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    pub accepted: Accepted,
    /// `None` if there were no differences.
    pub changes: Option<Changes>,
}

/// Why a reload failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReloadError {
    /// The seeds have faults; the current snapshot stays in force.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// The snapshot could not be stored, so it was not put in place.
    #[error("the catalog could not be stored: {0}")]
    Store(String),
    #[error("the daemon is stopping")]
    Gone,
}

/// A request for a reload.
#[derive(Debug)]
pub struct Reload {
    /// The reason, for the log.
    pub why: &'static str,
    /// Receives the result.
    pub reply: Option<oneshot::Sender<Result<Reloaded, ReloadError>>>,
}

/// The keeper's end of the queue.
pub type Requests = mpsc::Receiver<Reload>;

/// The current catalog.
#[derive(Debug)]
pub struct Catalog {
    current: ArcSwap<(u64, Arc<Snapshot>)>,
    version: watch::Sender<u64>,
    standing: watch::Sender<CatalogStatus>,
    requests: mpsc::Sender<Reload>,
    server_models: ArcSwap<ServerListing>,
}

/// The models that the operator's own server lists, besides those of the seeds. No decision rests
/// on it: the server takes every model, listed or not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ServerListing {
    /// Grows whenever the list changes.
    pub generation: u64,
    pub models: Vec<Discovered>,
}

impl Catalog {
    /// A catalog with its first snapshot, and the keeper's end of the queue.
    pub fn new(snapshot: Snapshot, accepted: Accepted) -> (Self, Requests) {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let version = accepted.version;
        let catalog = Self {
            current: ArcSwap::from_pointee((version, Arc::new(snapshot))),
            version: watch::Sender::new(version),
            standing: watch::Sender::new(CatalogStatus { accepted, refused: None, reloads: [0; 3] }),
            requests,
            server_models: ArcSwap::default(),
        };
        (catalog, receiver)
    }

    /// The current snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load().1.clone()
    }

    /// The current snapshot with its version, both from one moment.
    pub fn versioned(&self) -> Arc<(u64, Arc<Snapshot>)> {
        self.current.load_full()
    }

    /// What the operator's own server lists.
    pub fn server_models(&self) -> Arc<ServerListing> {
        self.server_models.load_full()
    }

    /// Replaces what the operator's own server lists. Only for the task that asks it.
    pub fn list_server_models(&self, models: Vec<Discovered>) {
        let before = self.server_models.load();
        if before.models != models {
            self.server_models.store(Arc::new(ServerListing { generation: before.generation + 1, models }));
        }
    }

    /// Follows the version, which grows with every snapshot.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The state of the catalog.
    pub fn standing(&self) -> CatalogStatus {
        self.standing.borrow().clone()
    }

    /// Asks for a reload and does not wait for it. When the queue is full, a reload is due anyway.
    pub fn ask(&self, why: &'static str) {
        let _ = self.requests.try_send(Reload { why, reply: None });
    }

    /// Reloads, all or nothing: with any fault the current snapshot stays in force.
    ///
    /// # Errors
    /// The faults, or why the reload could not be tried.
    pub async fn reload(&self, why: &'static str) -> Result<Reloaded, ReloadError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Reload { why, reply: Some(reply) }).await.map_err(|_| ReloadError::Gone)?;
        answer.await.map_err(|_| ReloadError::Gone)?
    }

    /// Puts another snapshot in place and notifies the subscribers. Only for the keeper, after the
    /// snapshot has been stored.
    pub fn publish(&self, snapshot: Snapshot, accepted: Accepted) {
        let version = accepted.version;
        self.current.store(Arc::new((version, Arc::new(snapshot))));
        self.standing.send_modify(|standing| {
            standing.reloads[0] += 1;
            (standing.accepted, standing.refused) = (accepted, None);
        });
        // After the snapshot is in place, so that woken subscribers find the new one.
        self.version.send_replace(version);
    }

    /// The seeds are unchanged: any faults in between have been fixed.
    pub fn confirm(&self, origin: Origin) {
        self.standing.send_modify(|standing| {
            standing.reloads[1] += 1;
            (standing.accepted.origin, standing.refused) = (origin, None);
        });
        // A key may have changed: it is no part of the seeds.
        self.version.send_modify(|_| {});
    }

    /// The seeds have faults: the current snapshot stays in force.
    pub fn refuse(&self, faults: Faults, at: Timestamp) {
        self.standing.send_modify(|standing| {
            standing.reloads[2] += 1;
            standing.refused = Some((faults, at));
        });
    }
}

#[cfg(test)]
impl Catalog {
    /// A catalog without a keeper.
    pub fn for_tests(snapshot: Snapshot) -> Self {
        let accepted = Accepted { version: 1, hash: snapshot.hash().to_owned(), origin: Origin::Embedded, at: Timestamp::UNIX_EPOCH };
        Self::new(snapshot, accepted).0
    }

    /// Does what a keeper would do with a different snapshot.
    pub fn replace(&self, snapshot: Snapshot) {
        let accepted = self.standing().accepted;
        self.publish(snapshot, Accepted { version: accepted.version + 1, ..accepted });
    }
}
