//! For tests under tokio's paused clock: the clock stands still while the writer's thread works, as
//! if writing took no time. Otherwise the clock would run ahead, by minutes, during each flush.
//!
//! tokio does not advance a paused clock while blocking work is under way, so this module keeps
//! some under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
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

/// Holds the clock still while results are not durable.
#[derive(Debug, Clone, Default)]
pub struct WhileWriting(Arc<AtomicBool>);

impl WhileWriting {
    /// Notes that a result was handed over; `is_durable` says whether all results are durable.
    pub fn note(&self, is_durable: impl Fn() -> bool + Send + 'static) {
        if self.0.swap(true, SeqCst) {
            return;
        }
        let running = self.0.clone();
        tokio::task::spawn_blocking(move || {
            while !is_durable() {
                std::thread::sleep(Duration::from_micros(50));
            }
            running.store(false, SeqCst);
        });
    }
}
