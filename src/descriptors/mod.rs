//! Shares out the file descriptors of this process: some for clients, some for calls, some for
//! files, and the rest for the listener, the store and the log.
//!
//! Knows nothing of HTTP or files. It hands out places, and an opener holds a place as long as its
//! connection or file is open. Where places run short, holders of resting connections are asked to
//! give one up, and the others wait.
//!
//! Invariant: as long as every opener asks first, the kernel refuses no descriptor. If it does all
//! the same (the whole machine may be short), the opener reports it with [`Descriptors::refused`]
//! and [`Descriptors::shortage`] shows it.

mod limit;
mod places;
mod share;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use self::limit::{is_refusal, open, raise};
pub use self::places::{Place, Places, Spare};
pub use self::share::Share;

/// How long a refusal by the kernel counts as a shortage.
const SHORT_FOR: Duration = Duration::from_secs(10);
/// A shortage is logged at most once in this time.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The file descriptors of this process. Clones share one state.
#[derive(Debug, Clone)]
pub struct Descriptors(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    share: Share,
    clients: Arc<Semaphore>,
    client_waits: Arc<AtomicBool>,
    calls: Arc<Places>,
    files: Arc<Semaphore>,
    refusals: Mutex<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    count: u64,
    latest: Option<Instant>,
    logged: Option<Instant>,
}

/// The use of one of the descriptors reserved for files.
#[derive(Debug)]
pub struct FilePlace {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Descriptors {
    /// Shares out `limit` descriptors; at most `max_clients` of them are for connections of
    /// clients.
    pub fn new(limit: u64, max_clients: u32) -> Self {
        let share = Share::of(limit, max_clients);
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner {
            limit,
            share,
            clients: semaphore(share.clients),
            client_waits: Arc::default(),
            calls: Places::new(share.calls),
            files: semaphore(share.files),
            refusals: Mutex::default(),
        }))
    }

    /// The descriptors that this process may open, and how they are shared out.
    pub fn of_process(max_clients: u32) -> Self {
        let descriptors = Self::new(limit::soft(), max_clients);
        let Share { clients, calls, files } = descriptors.share();
        tracing::info!(limit = descriptors.limit(), clients, calls, files, "file descriptors are shared out");
        if clients < max_clients as usize {
            tracing::warn!(
                limit = descriptors.limit(),
                max_connections = max_clients,
                clients,
                "the limit of file descriptors allows fewer connections of clients than `max_connections`; raise it (`ulimit -n`, `LimitNOFILE=`)"
            );
        }
        descriptors
    }

    /// The most descriptors that the process may have open.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// How the descriptors are shared out.
    pub fn share(&self) -> Share {
        self.0.share
    }

    /// The places for connections of clients.
    pub fn clients(&self) -> &Arc<Semaphore> {
        &self.0.clients
    }

    /// Whether a client waits for one of these places; the part that lets it wait sets this flag.
    pub fn client_waits(&self) -> &Arc<AtomicBool> {
        &self.0.client_waits
    }

    /// The places for connections to providers and to receivers of messages.
    pub fn calls(&self) -> &Arc<Places> {
        &self.0.calls
    }

    /// A place for a file that stays open while its client sends or reads it; waits for one.
    pub async fn file(&self) -> FilePlace {
        // The semaphore is never closed.
        FilePlace { _permit: self.0.files.clone().acquire_owned().await.ok() }
    }

    /// The number of open client connections.
    pub fn clients_open(&self) -> usize {
        self.0.share.clients.saturating_sub(self.0.clients.available_permits())
    }

    /// The number of files that are open for clients.
    pub fn files_open(&self) -> usize {
        self.0.share.files.saturating_sub(self.0.files.available_permits())
    }

    /// Reports that the kernel has refused a descriptor: closes one resting connection if possible,
    /// and remembers the refusal.
    pub fn refused(&self) {
        self.0.calls.spare_one();
        let now = Instant::now();
        let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.count += 1;
        refusals.latest = Some(now);
        if refusals.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_EVERY) {
            refusals.logged = Some(now);
            tracing::warn!(limit = self.0.limit, open = ?open(), "out of file descriptors; connections wait until there are some again");
        }
    }

    /// How often the kernel has refused a descriptor since the start.
    pub fn refusals(&self) -> u64 {
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Whether the kernel has recently refused a descriptor.
    pub fn shortage(&self) -> bool {
        let latest = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).latest;
        latest.is_some_and(|latest| latest.elapsed() < SHORT_FOR)
    }
}
