//! What a lane makes of the wait that a refusal asks for (`Retry-After`).
//!
//! The refused row waits as long as it was told; that is decided elsewhere. Whether the provider
//! means all other calls, too, differs: one that blocks a key until then means them; one that counts
//! calls takes the next call as soon as there is room, and a lane that stands still for each refusal
//! wastes what it could have. So the lane stops, as it was asked, and finds out what was meant: from
//! calls that were out already, and from one call that goes out early. While a provider takes calls
//! regardless, its wish holds for the refused row alone; after three refusals in a row the lane stops
//! again and finds out anew.
//!
//! Pure: the caller reports what happened and when. Invariant: in a pause that is meant for the
//! lane, at most one call goes out early, and none for fifty times as long as the pause after that.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest requested wait that says anything; shorter ones are obeyed by the lane.
const SHORT: Duration = Duration::from_millis(250);
/// When the early call goes out: after this part of the wait, within bounds.
const EARLY: u32 = 10;
const EARLIEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(2);
/// A call that went out so much later than a refused one was judged after it.
const LATER: Duration = Duration::from_millis(10);
/// Calls that went out later than a refused one and were taken, which show that only that one was
/// meant; and refusals in a row, so far apart, that show the contrary.
const SHOWN: u32 = 3;
const APART: Duration = Duration::from_millis(50);
/// The part of the time that pauses may cost where each stops the lane: one in fifty.
pub const PRICE: u32 = 50;
/// What was learnt is not doubted for so long at least.
const SETTLED: Duration = Duration::from_secs(300);

/// Whom the provider means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meant {
    Unknown,
    Row,
    Lane,
}

/// The early call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EarlyCall {
    None,
    Due(Instant),
    Out(Instant),
}

/// The pauses of one lane.
#[derive(Debug, Clone)]
pub struct RequestedPause {
    until: Option<Instant>,
    meant: Meant,
    early: EarlyCall,
    /// No other early call before that.
    settled_until: Option<Instant>,
    /// When the refused call went out, and when its refusal came back.
    refused: Option<(Instant, Instant)>,
    /// Calls in a row that were taken, or refused, after that.
    taken: u32,
    vain: u32,
}

impl Default for RequestedPause {
    fn default() -> Self {
        Self { until: None, meant: Meant::Unknown, early: EarlyCall::None, settled_until: None, refused: None, taken: 0, vain: 0 }
    }
}

impl RequestedPause {
    /// The earliest moment at which a call may go out; `None` for now.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let until = self.until.filter(|until| *until > now)?;
        match self.early {
            EarlyCall::Due(at) => Some(at.min(until)).filter(|at| *at > now),
            EarlyCall::None | EarlyCall::Out(_) => Some(until),
        }
    }

    /// Until when the lane stands still.
    pub const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Notes that a call goes out.
    pub fn start(&mut self, now: Instant) {
        match self.early {
            EarlyCall::Due(_) if self.until.is_some_and(|until| now < until) => self.early = EarlyCall::Out(now),
            EarlyCall::Due(_) => self.early = EarlyCall::None,
            EarlyCall::None | EarlyCall::Out(_) => {}
        }
    }

    /// Stops the lane for so long, for a reason that concerns all its calls.
    pub fn stop(&mut self, now: Instant, wait: Duration) {
        let until = now + wait;
        self.until = Some(self.until.map_or(until, |earlier| earlier.max(until)));
    }

    /// Notes that a call which went out at `sent` was refused and asked for a wait. Returns the
    /// pause, if the lane stops; a refusal then costs all calls of that time.
    pub fn on_refused(&mut self, now: Instant, sent: Instant, wait: Duration) -> Option<Duration> {
        if wait < SHORT {
            self.stop(now, wait);
            return None;
        }
        if self.early == EarlyCall::Out(sent) {
            self.settle_for_lane(now, wait);
        }
        if self.meant == Meant::Row {
            if self.refused.is_none_or(|(_, came)| self.vain == 0 || sent >= came + APART) {
                self.vain += 1;
                self.refused = Some((sent, now));
            }
            if self.vain < SHOWN {
                return None;
            }
            // Another early call decides.
            (self.meant, self.vain) = (Meant::Unknown, 0);
        }
        let is_doubted = self.settled_until.is_none_or(|until| now >= until);
        if self.early == EarlyCall::None && is_doubted && self.until.is_none_or(|until| now >= until) {
            self.early = EarlyCall::Due(now + (wait / EARLY).clamp(EARLIEST, LATEST));
        }
        if self.refused.is_none_or(|(before, _)| sent > before) {
            (self.refused, self.taken) = (Some((sent, now)), 0);
        }
        self.stop(now, wait);
        Some(wait)
    }

    fn settle_for_lane(&mut self, now: Instant, wait: Duration) {
        (self.meant, self.early, self.vain) = (Meant::Lane, EarlyCall::None, 0);
        self.settled_until = Some(now + wait.saturating_mul(PRICE).max(SETTLED));
    }

    /// Notes that a call which went out at `sent` was taken. Returns whether a pause ends with that.
    pub fn on_accepted(&mut self, now: Instant, sent: Instant) -> bool {
        let Some((before, came)) = self.refused else { return false };
        if self.meant == Meant::Row {
            self.vain = if sent > came { 0 } else { self.vain };
            return false;
        }
        let was_early = matches!(self.early, EarlyCall::Out(at) if sent >= at);
        self.taken += u32::from(sent >= before + LATER);
        let is_paused = self.until.is_some_and(|until| now < until);
        if was_early || (is_paused && self.meant == Meant::Unknown && self.taken >= SHOWN) {
            (self.meant, self.early, self.until, self.vain) = (Meant::Row, EarlyCall::None, None, 0);
            return is_paused;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_provider_that_takes_calls_meanwhile_means_the_row() {
        let now = Instant::now();
        let mut pause = RequestedPause::default();
        assert_eq!(pause.on_refused(now, now, 10 * SECOND), Some(10 * SECOND));
        let early = pause.ready_at(now).unwrap();
        assert_eq!(early, now + SECOND, "the lane stops, and one call goes out early");
        assert_eq!(pause.ready_at(early), None);
        pause.start(early);
        assert_eq!(pause.ready_at(early), Some(now + 10 * SECOND), "only one");
        assert!(pause.on_accepted(early + SECOND / 10, early));
        assert_eq!(pause.ready_at(early + SECOND / 10), None);
        // From now on a refusal stops only its row.
        let later = now + 5 * SECOND;
        assert_eq!(pause.on_refused(later, later, 10 * SECOND), None);
        assert_eq!(pause.ready_at(later), None);
    }

    #[test]
    fn a_provider_that_refuses_everything_meanwhile_means_the_lane() {
        let now = Instant::now();
        let mut pause = RequestedPause::default();
        pause.on_refused(now, now, 10 * SECOND);
        let early = now + SECOND;
        pause.start(early);
        assert_eq!(pause.on_refused(early, early, 9 * SECOND), Some(9 * SECOND));
        // No early call for a while.
        for turn in 1..20 {
            let later = now + 10 * SECOND * turn;
            assert_eq!(pause.ready_at(later), None);
            pause.start(later);
            pause.on_refused(later, later, 10 * SECOND);
            assert_eq!(pause.ready_at(later), Some(later + 10 * SECOND), "{turn}");
        }
    }

    #[test]
    fn calls_that_were_out_already_show_what_is_meant() {
        let now = Instant::now();
        let mut pause = RequestedPause::default();
        pause.on_refused(now + SECOND, now, 10 * SECOND);
        assert!(!pause.on_accepted(now + SECOND, now + Duration::from_millis(5)), "it may have come first");
        for _ in 0..2 {
            assert!(!pause.on_accepted(now + SECOND, now + Duration::from_millis(50)));
        }
        assert!(pause.on_accepted(now + SECOND, now + Duration::from_millis(60)));
        // Three refusals in a row of calls that went out later show the contrary.
        for turn in 2..4 {
            assert_eq!(pause.on_refused(now + SECOND * turn, now + SECOND * turn, SECOND), None);
        }
        assert_eq!(pause.on_refused(now + SECOND * 5, now + SECOND * 5, SECOND), Some(SECOND));
    }

    proptest! {
        #[test]
        fn where_the_lane_is_meant_hardly_any_call_goes_out_early(waits in proptest::collection::vec(250u64..20_000, 1..60)) {
            let (mut now, mut pause, mut early, mut total) = (Instant::now(), RequestedPause::default(), 0u32, Duration::ZERO);
            for wait in waits {
                let wait = Duration::from_millis(wait);
                pause.start(now);
                pause.on_refused(now, now, wait);
                total += wait;
                let mut until = pause.until().unwrap();
                while let Some(at) = pause.ready_at(now) {
                    now = at;
                    if now < until {
                        early += 1;
                        pause.start(now);
                        pause.on_refused(now, now, until - now);
                        until = pause.until().unwrap().max(until);
                    }
                }
            }
            prop_assert!(u64::from(early) <= 1 + total.as_secs() / 300, "{early} in {total:?}");
        }
    }
}
