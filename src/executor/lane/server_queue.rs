//! The bound on the calls that wait in a server, of all its clients: people who use it beside the
//! batches wait behind no more of them.
//!
//! The server says from time to time how many calls wait. By that, so many calls may be in flight that
//! no more than the bound would wait, if the others did nothing; and by so many calls as may wait
//! their number grows from one word to the next.
//!
//! Pure. A server that has never said anything is not bound; one that is silent for a while, or has not
//! been asked yet, gets no more calls at a time than may wait.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::provider::server_hints::ServerHints;

/// How long a word of the server holds.
const HOLDS: Duration = Duration::from_secs(10);

/// What the server has said.
#[derive(Debug, Clone, Copy, Default)]
enum Word {
    /// It has not been asked.
    #[default]
    Unasked,
    /// So many calls may be in flight, as of then.
    Said(Instant, u32),
    /// It does not say how many calls wait.
    Silent,
}

/// The queue of a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerQueue {
    word: Word,
    /// The most calls in flight since the last word.
    peak: u32,
    /// Since when the server has had no room for any call.
    full_since: Option<Instant>,
}

impl ServerQueue {
    /// The most calls that may be in flight if `most` may wait; `None` without a bound.
    pub fn allowed(&self, most: Option<u32>, now: Instant) -> Option<u32> {
        let most = most?;
        match self.word {
            Word::Said(at, allowed) if now.saturating_duration_since(at) < HOLDS => Some(allowed),
            Word::Said(..) | Word::Unasked => Some(most),
            Word::Silent => None,
        }
    }

    /// Notes that a call went out, as one of so many in flight.
    pub fn start(&mut self, in_flight: u32) {
        self.peak = self.peak.max(in_flight);
    }

    /// Takes what the server says while so many calls are in flight. Returns whether it is news that it
    /// does not say how many wait.
    pub fn on_hints(&mut self, most: u32, now: Instant, in_flight: u32, hints: ServerHints) -> bool {
        let allowed = match hints {
            ServerHints { waiting: Some(waiting), .. } if waiting <= most => {
                // Calls that end together are in flight together, however they are counted down.
                let there = self.peak.max(in_flight).min(self.allowed(Some(most), now).unwrap_or(u32::MAX));
                Some(there.saturating_add(most).saturating_sub(waiting))
            }
            ServerHints { waiting: Some(waiting), .. } => Some(in_flight.saturating_add(most).saturating_sub(waiting)),
            ServerHints { waiting: None, slots } => slots.map(|slots| slots.saturating_add(most)),
        };
        self.peak = in_flight;
        let Some(allowed) = allowed else {
            self.full_since = None;
            let is_news = matches!(self.word, Word::Unasked);
            if is_news {
                self.word = Word::Silent;
            }
            return is_news;
        };
        self.word = Word::Said(now, allowed);
        self.full_since = (allowed == 0).then(|| self.full_since.unwrap_or(now));
        false
    }

    /// Since when the server has had no room for any call.
    pub fn full_since(&self) -> Option<Instant> {
        self.full_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = 4;

    fn waiting(waiting: u32) -> ServerHints {
        ServerHints { waiting: Some(waiting), slots: None }
    }

    /// What is allowed after a word.
    fn after(queue: &mut ServerQueue, in_flight: u32, hints: ServerHints) -> Option<u32> {
        let now = Instant::now();
        queue.on_hints(MOST, now, in_flight, hints);
        queue.allowed(Some(MOST), now)
    }

    #[test]
    fn so_many_calls_are_allowed_that_no_more_than_the_bound_would_wait() {
        let mut queue = ServerQueue::default();
        assert_eq!((queue.allowed(Some(MOST), Instant::now()), queue.allowed(None, Instant::now())), (Some(MOST), None));
        for (in_flight, said, allowed) in [(4, 0, 8), (8, 0, 12), (12, 3, 13), (13, 4, 13), (13, 6, 11), (11, 40, 0), (0, 4, 0), (0, 1, 3)]
        {
            queue.start(in_flight);
            assert_eq!(after(&mut queue, in_flight, waiting(said)), Some(allowed), "{said} wait, {in_flight} in flight");
            assert_eq!(queue.full_since().is_some(), allowed == 0);
        }
        for in_flight in [3, 7, 11, 15] {
            queue.start(in_flight);
            assert_eq!(after(&mut queue, in_flight, waiting(0)), Some(in_flight + MOST));
        }
        queue.start(19);
        assert_eq!(after(&mut queue, 2, waiting(0)), Some(23), "17 of 19 have just ended");
        assert_eq!(after(&mut queue, 2, waiting(0)), Some(6), "and none has begun since");
        assert_eq!(after(&mut queue, 2, ServerHints { waiting: None, slots: Some(8) }), Some(12));
    }

    #[test]
    fn a_server_that_says_nothing_is_not_bound_and_one_that_falls_silent_gets_few() {
        let (mut queue, now) = (ServerQueue::default(), Instant::now());
        assert!(queue.on_hints(MOST, now, 4, ServerHints::default()) && !queue.on_hints(MOST, now, 4, ServerHints::default()));
        assert_eq!(queue.allowed(Some(MOST), now), None);
        assert!(!queue.on_hints(MOST, now, 90, waiting(0)));
        assert!(!queue.on_hints(MOST, now + HOLDS / 2, 90, ServerHints::default()));
        assert_eq!(queue.allowed(Some(MOST), now + HOLDS / 2), Some(94));
        assert_eq!(queue.allowed(Some(MOST), now + HOLDS), Some(MOST));
    }
}
