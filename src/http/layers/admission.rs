//! Whether any request of a connection came from a caller who may call: the server keeps such
//! connections when it needs room for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a connection was admitted; among the extensions of each of its requests.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<AtomicBool>);

impl Admission {
    /// Records that a caller may call, by a valid key, by a valid link, or because none is needed.
    pub fn grant(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a caller on this connection may call.
    pub fn is_granted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
