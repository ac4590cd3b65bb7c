//! When each of very many followers is notified: one after the other, so that notifications do not
//! take the processor from the rows. A follower that waits for its turn receives the state that
//! holds by then.
//!
//! Invariant: no follower waits longer than it takes to notify all others once, whatever became of
//! the turns that were taken before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two notifications of progress: a thousand a second are a few percent of one
/// processor.
const PROGRESS: Duration = Duration::from_millis(1);
/// Time between two notifications of an end, which is worth more and comes once: ten thousand in
/// the time between two updates that a client gets by default.
const END: Duration = Duration::from_micros(250);
/// Moments in a second at which waiting followers are woken together: waking costs as much as
/// notifying.
const TICKS: u32 = 40;
const TICK: Duration = Duration::from_millis(1_000 / TICKS as u64);

/// What a follower waits for, and when its turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Progress(Instant),
    End(Instant),
}

/// The turns of all followers: each follower holds a clone.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The moment that ticks are counted from.
    start: Instant,
    /// The moments from which on the turns are free: for progress, and for an end.
    free: Mutex<[Instant; 2]>,
}

impl Default for Turns {
    fn default() -> Self {
        let start = Instant::now();
        Self(Arc::new(Shared { start, free: Mutex::new([start; 2]) }))
    }
}

impl Turns {
    /// The next turn for a notification of progress.
    pub fn progress(&self, now: Instant) -> Turn {
        Turn::Progress(self.take(0, now, PROGRESS))
    }

    /// The next turn for the notification of an end.
    pub fn end(&self, now: Instant) -> Turn {
        Turn::End(self.take(1, now, END))
    }

    fn take(&self, kind: usize, now: Instant, gap: Duration) -> Instant {
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Unused turns are no reason to wait longer than it takes to notify all current followers.
        let holders = u32::try_from(Arc::strong_count(&self.0)).unwrap_or(u32::MAX);
        let turn = free[kind].clamp(now, now + gap.saturating_mul(holders));
        free[kind] = turn + gap;
        if turn == now { now } else { self.tick_after(turn) }
    }

    fn tick_after(&self, turn: Instant) -> Instant {
        let ticks = turn.saturating_duration_since(self.0.start).as_nanos().div_ceil(TICK.as_nanos());
        u32::try_from(ticks).ok().and_then(|ticks| self.0.start.checked_add(TICK.checked_mul(ticks)?)).unwrap_or(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(turn: Turn) -> Instant {
        let (Turn::Progress(at) | Turn::End(at)) = turn;
        at
    }

    #[test]
    fn few_wait_for_nothing_and_many_for_each_other() {
        let turns = Turns::default();
        let all: Vec<_> = (0..10_000).map(|_| turns.clone()).collect();
        let now = turns.0.start + Duration::from_millis(10);
        assert_eq!([turns.progress(now), turns.progress(now + PROGRESS)].map(at), [now, now + PROGRESS]);
        let now = now + Duration::from_secs(1);
        let told: Vec<_> = all.iter().map(|one| at(one.progress(now))).collect();
        assert_eq!(told[0], now);
        assert!(told.is_sorted() && told[9_999] >= now + PROGRESS * 9_999 && told[9_999] < now + PROGRESS * 9_999 + TICK);
        let mut ticks = told[1..].to_vec();
        ticks.dedup();
        assert!(ticks.len() <= 402, "they are woken together: {}", ticks.len());
        // An end does not wait behind progress.
        assert_eq!(at(turns.end(now)), now);
    }

    #[test]
    fn turns_that_are_not_used_delay_nobody_for_long() {
        let turns = Turns::default();
        let others: Vec<_> = (0..9).map(|_| turns.clone()).collect();
        let now = turns.0.start;
        for _ in 0..100_000 {
            turns.progress(now);
        }
        assert!(at(turns.progress(now)) <= now + PROGRESS * 10 + TICK);
        drop(others);
        assert!(at(turns.progress(now)) <= now + PROGRESS + TICK);
    }
}
