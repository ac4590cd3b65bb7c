//! How many connections to one server are opened at the same time.
//!
//! Small servers keep few connections that they have not yet accepted; the kernel drops the rest and
//! tries again after 1, 3, 7 and more seconds. So a crowd of calls opens a few connections at first,
//! one more with each that was quick, and half as many after one that was dropped.
//!
//! This paces and never stops anyone: a call that has waited for [`TURN`] opens its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Connections opened at the same time, at first and at most. A listen backlog of 5, usual in small
/// servers, holds 6.
const LEAST: usize = 6;
const MOST: usize = 64;
/// The longest wait for a turn.
const TURN: Duration = Duration::from_secs(1);
/// An opening that takes longer has been dropped once: the kernel repeats it after a second.
const DROPPED: Duration = Duration::from_millis(900);

/// The pace of opening connections to one server.
#[derive(Debug)]
pub(super) struct Ramp {
    turns: Arc<Semaphore>,
    width: AtomicUsize,
}

/// The turn of one opening; none if it goes on without.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Ramp {
    pub fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(LEAST)), width: AtomicUsize::new(LEAST) }
    }

    /// The turn to open a connection, if there is one now.
    pub fn try_turn(&self) -> Option<Turn> {
        self.turns.clone().try_acquire_owned().ok().map(|permit| Turn { _permit: Some(permit) })
    }

    /// Waits for the turn to open a connection.
    pub async fn turn(&self) -> Turn {
        Turn { _permit: timeout(TURN, self.turns.clone().acquire_owned()).await.ok().and_then(Result::ok) }
    }

    /// Notes that a connection was opened in this time.
    pub fn on_open(&self, took: Duration) {
        let wider =
            |width: usize| if took < DROPPED { Some(width + 1).filter(|wider| *wider <= MOST) } else { Some((width / 2).max(LEAST)) };
        let Ok(before) = self.width.fetch_update(Ordering::Relaxed, Ordering::Relaxed, wider) else { return };
        match wider(before) {
            Some(now) if now > before => self.turns.add_permits(now - before),
            Some(now) => {
                // Turns that are taken now stay; there are more of them for a while.
                let kept = (before - now) - self.turns.forget_permits(before - now);
                self.width.fetch_add(kept, Ordering::Relaxed);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn more_connections_are_opened_at_a_time_as_long_as_none_is_dropped() {
        let ramp = Ramp::new();
        let now = |ramp: &Ramp| std::iter::from_fn(|| ramp.try_turn()).collect::<Vec<_>>().len();
        assert_eq!(now(&ramp), LEAST);
        (0..10).for_each(|_| ramp.on_open(Duration::from_millis(20)));
        assert_eq!(now(&ramp), LEAST + 10);
        ramp.on_open(Duration::from_secs(1));
        assert_eq!(now(&ramp), (LEAST + 10) / 2);
        (0..100).for_each(|_| ramp.on_open(Duration::from_millis(20)));
        assert_eq!(now(&ramp), MOST);
        (0..100).for_each(|_| ramp.on_open(Duration::from_secs(3)));
        let all: Vec<_> = std::iter::from_fn(|| ramp.try_turn()).collect();
        assert_eq!(all.len(), LEAST);
        // Turns that are in use are not forgotten.
        (0..100).for_each(|_| ramp.on_open(Duration::from_secs(3)));
        let start = tokio::time::Instant::now();
        assert!(ramp.turn().await._permit.is_none() && start.elapsed() == TURN, "nobody waits for longer");
        drop(all);
        assert!(ramp.turn().await._permit.is_some());
        assert_eq!(now(&ramp), LEAST);
    }
}
