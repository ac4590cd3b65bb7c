//! How many descriptors each use gets.

/// Kept back for descriptors that are always open: standard streams, the runtime, the listener, the
/// lock, the store (twice as many while it is copied), the log, the watch over the catalog.
const RESERVE: u64 = 64;
/// The most that are kept for files: one for each of the threads that open files, and as many for
/// files that stay open while a client sends or reads them.
const MOST_FILES: u64 = 1_024;
/// Threads that open files, if there are enough descriptors for them.
const MOST_THREADS: usize = 512;
/// A floor for each use, so that something works even with a limit that is far too low.
const LEAST: u64 = 8;

/// How the descriptors are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Connections of clients.
    pub clients: usize,
    /// Connections to providers and to receivers of messages.
    pub calls: usize,
    /// Files that stay open while a client sends or reads them.
    pub files: usize,
}

impl Share {
    /// Shares out `limit` descriptors, of which at most `max_clients` are for connections of
    /// clients.
    ///
    /// Clients and calls each have a part of their own: neither thousands of idle clients nor
    /// thousands of long calls must shut out the other.
    pub fn of(limit: u64, max_clients: u32) -> Self {
        let rest = limit - RESERVE.min(limit / 4);
        let files = for_files(rest);
        let connections = rest.saturating_sub(files).max(2 * LEAST);
        let clients = u64::from(max_clients).min(connections / 2);
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self { clients: size(clients), calls: size(connections - clients), files: size(files / 2) }
    }

    /// How many threads may open files at the same time.
    pub fn threads(limit: u64) -> usize {
        let rest = limit - RESERVE.min(limit / 4);
        usize::try_from(for_files(rest) / 2).unwrap_or(MOST_THREADS).min(MOST_THREADS)
    }
}

fn for_files(rest: u64) -> u64 {
    (rest / 4).clamp(2 * LEAST, MOST_FILES)
}
