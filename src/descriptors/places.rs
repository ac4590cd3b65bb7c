//! Places for connections that are opened from here. One that rests keeps its place until somebody
//! else needs it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The use of one place; free again when it is dropped, so it is dropped after what stands on it.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Has connections that rest.
pub trait Spare: Send + Sync {
    /// Closes one that nobody uses; whether its place is free now.
    fn spare(&self) -> bool;
}

/// A number of places.
pub struct Places {
    most: usize,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Who may have one to spare.
    spares: Mutex<Vec<Weak<dyn Spare>>>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").field("most", &self.most).field("open", &self.open()).finish_non_exhaustive()
    }
}

/// Somebody waits.
pub struct Waits<'a>(&'a Places);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    /// So many places, all free.
    pub fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { most, free: Arc::new(Semaphore::new(most)), waiting: AtomicUsize::new(0), spares: Mutex::default() })
    }

    /// Asks this one, too, when places run short.
    pub fn ask(&self, spare: Weak<dyn Spare>) {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.retain(|each| each.strong_count() > 0);
        spares.push(spare);
    }

    /// A place, if there is one or somebody can spare one.
    pub fn try_take(&self) -> Option<Place> {
        loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                return Some(Place { _permit: Some(permit) });
            }
            // Each closes one, so this ends.
            if !self.spare_one() {
                return None;
            }
        }
    }

    /// A place, in the order of asking; waits for one.
    pub async fn claim(&self) -> Place {
        match self.try_take() {
            Some(place) => place,
            None => {
                let _waits = self.wait();
                self.take().await
            }
        }
    }

    /// The same for one who counts among those who wait already.
    pub async fn take(&self) -> Place {
        match self.try_take() {
            Some(place) => place,
            // Nobody closes the semaphore.
            None => Place { _permit: self.free.clone().acquire_owned().await.ok() },
        }
    }

    /// Counts among those who wait until it is dropped: who has done with a connection then gives
    /// its place away instead of keeping it.
    pub fn wait(&self) -> Waits<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waits(self)
    }

    /// How many wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Places that are taken.
    pub fn open(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    /// How many there are.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Closes one connection that rests; whether there was one.
    pub(super) fn spare_one(&self) -> bool {
        // Not held while they are asked: they hold locks of their own.
        let spares: Vec<_> = self.spares.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        spares.iter().any(|each| each.spare())
    }
}
