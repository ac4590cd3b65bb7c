//! When each of very many followers is told something: one after the other, so that they do not take the
//! processor from the rows. A follower that waits for its turn is told the state that holds by then.
//!
//! Invariant: a follower has at most one turn ahead of it, so nobody waits longer than all others take.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two who are told of progress: a thousand a second are a few percent of one processor.
const PROGRESS: Duration = Duration::from_millis(1);
/// Between two who are told an end, which is worth more, and comes once: ten thousand in the time between two
/// updates that a client gets by default.
const END: Duration = Duration::from_micros(250);

/// What somebody waits to be told, and when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Progress(Instant),
    End(Instant),
}

/// The turns of all followers.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<Free>>);

/// From when on nobody has a turn.
#[derive(Debug, Default)]
struct Free {
    progress: Option<Instant>,
    end: Option<Instant>,
}

fn take(free: &mut Option<Instant>, now: Instant, gap: Duration) -> Instant {
    let turn = free.map_or(now, |free| free.max(now));
    *free = Some(turn + gap);
    turn
}

impl Turns {
    /// The next turn to be told of progress.
    pub fn progress(&self, now: Instant) -> Turn {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Turn::Progress(take(&mut free.progress, now, PROGRESS))
    }

    /// The next turn to be told an end.
    pub fn end(&self, now: Instant) -> Turn {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Turn::End(take(&mut free.end, now, END))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_wait_for_nothing_and_many_for_each_other() {
        let (turns, now) = (Turns::default(), Instant::now());
        let later = |millis| now + Duration::from_millis(millis);
        assert_eq!(turns.progress(now), Turn::Progress(now));
        assert_eq!(turns.progress(later(5)), Turn::Progress(later(5)));
        let all: Vec<_> = (0..10_000).map(|_| turns.progress(later(10))).collect();
        assert_eq!(all.last(), Some(&Turn::Progress(later(10) + PROGRESS * 9_999)));
        // An end does not wait behind progress.
        assert_eq!([turns.end(later(10)), turns.end(later(10))], [Turn::End(later(10)), Turn::End(later(10) + END)]);
    }
}
