//! The connected clients: how many may connect, and which connection makes room when more want to.
//!
//! While all places are taken and a client waits, answers announce that their connection closes,
//! and the connection that has rested longest is closed. A connection that has rested only for a
//! moment stays open: its client may be sending at this moment, and would lose its request.

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
/// How often the connections are scanned while a client waits.
const SCAN_INTERVAL: Duration = Duration::from_millis(100);

/// The connected clients, and the places for them.
pub struct Crowd {
    places: Arc<Semaphore>,
    /// Whether a client waits for a place: if so, connections close with their next answer.
    waits: Arc<AtomicBool>,
    connected: Mutex<BTreeMap<u64, Arc<Course>>>,
    next: AtomicU64,
}

/// One connected client, until it is dropped.
pub struct Member {
    crowd: Arc<Crowd>,
    number: u64,
    course: Arc<Course>,
}

impl Crowd {
    /// A crowd without clients, with as many places as `descriptors` grants to clients.
    pub fn new(descriptors: &Descriptors) -> Arc<Self> {
        let (places, waits) = (descriptors.clients().clone(), descriptors.client_waits().clone());
        Arc::new(Self { places, waits, connected: Mutex::default(), next: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Course>>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for one more client; only one caller may wait at a time.
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

    /// Asks the connection that has rested longest to close, and returns when to ask again.
    pub fn make_room(&self) -> Instant {
        let now = Instant::now();
        let idlest =
            self.lock().values().filter_map(|course| Some((course.resting_since()?, course.clone()))).min_by_key(|(since, _)| *since);
        match idlest {
            Some((since, course)) if since + RESTED <= now => course.leave(),
            // It has not rested long enough, or none rests: the next scan looks again.
            Some(_) | None => {}
        }
        now + SCAN_INTERVAL
    }

    /// Adds a new connection.
    pub fn join(self: &Arc<Self>) -> Member {
        let course = Arc::new(Course::new(self.waits.clone()));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, course.clone());
        Member { crowd: self.clone(), number, course }
    }
}

impl Member {
    /// The course of the connection's exchanges.
    pub fn course(&self) -> &Arc<Course> {
        &self.course
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd.lock().remove(&self.number);
    }
}
