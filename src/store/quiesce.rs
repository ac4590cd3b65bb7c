//! For tests under tokio's paused clock: the clock stands still while the writer's thread works, as
//! if writing took no time. Otherwise the clock would run ahead, by minutes, during each flush.
//!
//! tokio does not advance a paused clock while blocking work is under way, so this module keeps
//! some under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

/// Holds the clock still for as long as this value lives.
#[derive(Debug)]
pub struct Quiesce {
    _end: mpsc::Sender<()>,
}

impl Quiesce {
    pub fn begin() -> Self {
        let (end, ended) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv());
        Self { _end: end }
    }
}

/// Holds the clock still while results that were handed to the writer are not durable.
#[derive(Debug, Clone, Default)]
pub struct WhileWriting(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    handed: AtomicU64,
    durable: AtomicU64,
    /// Whether a thread waits for the difference.
    held: AtomicBool,
}

impl WhileWriting {
    /// Notes that a result was handed over; `is_over` says that none is written any more.
    pub fn handed(&self, is_over: impl Fn() -> bool + Send + 'static) {
        self.0.handed.fetch_add(1, SeqCst);
        if self.0.held.swap(true, SeqCst) {
            return;
        }
        let counts = self.0.clone();
        tokio::task::spawn_blocking(move || {
            let is_done = || is_over() || counts.durable.load(SeqCst) >= counts.handed.load(SeqCst);
            loop {
                while !is_done() {
                    std::thread::sleep(Duration::from_micros(50));
                }
                counts.held.store(false, SeqCst);
                // A result may have come after the last look, and found the clock held.
                if is_done() || counts.held.swap(true, SeqCst) {
                    return;
                }
            }
        });
    }

    /// Notes that so many results are durable and have been announced.
    pub fn durable(&self, results: u64) {
        self.0.durable.fetch_add(results, SeqCst);
    }
}
