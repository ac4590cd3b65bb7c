//! Places for outgoing connections. A resting connection keeps its place until another caller needs
//! it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The use of one place. Dropping it frees the place, so drop it after the connection that it
/// stands for.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

/// An owner of resting connections.
pub trait Spare: Send + Sync {
    /// Closes one unused connection; returns whether its place is free now.
    fn spare(&self) -> bool;
}

/// A fixed number of places.
pub struct Places {
    most: usize,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// The owners that may have a connection to spare.
    spares: Mutex<Vec<Weak<dyn Spare>>>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").field("most", &self.most).field("open", &self.open()).finish_non_exhaustive()
    }
}

/// Counts as one waiter until it is dropped.
pub struct Waits<'a>(&'a Places);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// Creates `most` places, all free.
    pub fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { most, free: Arc::new(Semaphore::new(most)), waiting: AtomicUsize::new(0), spares: Mutex::default() })
    }

    /// Adds an owner that is asked, too, when places run short.
    pub fn ask(&self, spare: Weak<dyn Spare>) {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.retain(|each| each.strong_count() > 0);
        spares.push(spare);
    }

    /// A place, if one is free or an owner can spare one.
    pub fn try_take(&self) -> Option<Place> {
        loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                return Some(Place { _permit: Some(permit) });
            }
            // Each call closes one connection, so the loop ends.
            if !self.spare_one() {
                return None;
            }
        }
    }

    /// A place, in the order of the requests; waits for one.
    pub async fn claim(&self) -> Place {
        match self.try_take() {
            Some(place) => place,
            None => {
                let _waits = self.wait();
                self.take().await
            }
        }
    }

    /// Like `claim`, for a caller that counts as a waiter already.
    pub async fn take(&self) -> Place {
        match self.try_take() {
            Some(place) => place,
            // The semaphore is never closed.
            None => Place { _permit: self.free.clone().acquire_owned().await.ok() },
        }
    }

    /// Counts the caller as a waiter until the guard is dropped: an owner that has finished with a
    /// connection then gives its place away instead of keeping it.
    pub fn wait(&self) -> Waits<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waits(self)
    }

    /// How many callers wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Places that are taken.
    pub fn open(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    /// The number of places.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Closes one resting connection; returns whether there was one.
    pub(super) fn spare_one(&self) -> bool {
        // The lock is not held while the owners are asked: they hold locks of their own.
        let spares: Vec<_> = self.spares.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        spares.iter().any(|each| each.spare())
    }
}
