//! The clients that are connected: how many may be, and who makes room when more want to.
//!
//! Where all places are taken and somebody waits, answers say that their connection closes, and the
//! connection that has rested longest is closed. One that has rested for a moment only is left alone:
//! its client may be sending at this moment, and would lose its request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::connection::Course;
use crate::descriptors::Descriptors;

/// How long a connection rests before it makes room for another.
const RESTED: Duration = Duration::from_secs(1);
/// How often those who are connected are looked at while somebody waits.
const SCAN_INTERVAL: Duration = Duration::from_millis(100);

/// The clients that are connected.
pub struct Crowd {
    places: Arc<Semaphore>,
    /// Somebody waits for a place: connections are to be closed with their next answer.
    waits: Arc<AtomicBool>,
    connected: Mutex<BTreeMap<u64, Arc<Course>>>,
    next: AtomicU64,
}

/// One of them, until it is dropped.
pub struct Member {
    crowd: Arc<Crowd>,
    number: u64,
    course: Arc<Course>,
}

impl Crowd {
    /// Nobody yet, and so many places.
    pub fn new(descriptors: &Descriptors) -> Arc<Self> {
        let (places, waits) = (descriptors.clients().clone(), descriptors.client_waits().clone());
        Arc::new(Self { places, waits, connected: Mutex::default(), next: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Course>>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more. Only one may wait at a time.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        struct Waits<'a>(&'a AtomicBool);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.waits.store(true, Ordering::Relaxed);
        let _waits = Waits(&self.waits);
        let mut place = std::pin::pin!(self.places.clone().acquire_owned());
        loop {
            let again = self.make_room();
            tokio::select! {
                place = place.as_mut() => return place.ok(),
                () = sleep_until(again) => {}
            }
        }
    }

    /// Asks the one that has rested longest to go; when to ask again.
    pub fn make_room(&self) -> Instant {
        let now = Instant::now();
        let idlest =
            self.lock().values().filter_map(|course| Some((course.resting_since()?, course.clone()))).min_by_key(|(since, _)| *since);
        match idlest {
            Some((since, course)) if since + RESTED <= now => course.leave(),
            // Too early: it is looked at again.
            Some(_) | None => {}
        }
        now + SCAN_INTERVAL
    }

    /// A new one.
    pub fn join(self: &Arc<Self>) -> Member {
        let course = Arc::new(Course::new(self.waits.clone()));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, course.clone());
        Member { crowd: self.clone(), number, course }
    }
}

impl Member {
    /// How its exchanges go.
    pub fn course(&self) -> &Arc<Course> {
        &self.course
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd.lock().remove(&self.number);
    }
}
