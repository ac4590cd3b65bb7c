//! What simulated servers remember between calls, for rows that ask for a server that loads or is
//! full. No other row touches it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The most models and times that are remembered; beyond, a model counts as loaded.
const MOST_LOADING: usize = 1_024;

/// What the servers remember.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    /// When rows first asked for a model that takes that long to load.
    loading: HashMap<(String, Duration), Instant>,
    /// Calls in the slots of a model; a model without any is absent.
    busy: HashMap<String, u32>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // The numbers are whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a model is loaded that takes `takes` from the first row that asks.
    pub fn has_loaded(&self, model: &str, takes: Duration) -> bool {
        let (now, mut remembered) = (Instant::now(), self.lock());
        if remembered.loading.len() >= MOST_LOADING {
            return true;
        }
        let since = *remembered.loading.entry((model.to_owned(), takes)).or_insert(now);
        now.saturating_duration_since(since) >= takes
    }

    /// A place in one of the model's slots; `None` if all are taken.
    pub fn enter(&self, model: &str, slots: u32) -> Option<Slot<'_>> {
        let mut remembered = self.lock();
        let busy = remembered.busy.entry(model.to_owned()).or_default();
        if *busy >= slots {
            return None;
        }
        *busy += 1;
        Some(Slot { memory: self, model: model.to_owned() })
    }
}

/// A slot that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    memory: &'a Memory,
    model: String,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut remembered = self.memory.lock();
        match remembered.busy.get_mut(&self.model) {
            Some(busy) if *busy > 1 => *busy -= 1,
            Some(_) | None => _ = remembered.busy.remove(&self.model),
        }
    }
}
