//! How many calls a lane bears at the same time, found out by trying.
//!
//! Additive increase, multiplicative decrease. The limit starts at the most that is allowed and is
//! halved when the provider says that it is too much. It then doubles back towards the ceiling, the
//! place just below where the trouble was, and from there grows by one per round of successes. A
//! `Retry-After` puts the whole lane on hold.
//!
//! Pure: it is told what happened and when, and answers how many. It counts no calls and knows
//! nothing of HTTP. Invariants: `1 <= limit <= max`; a hold that is active never ends earlier.

use std::time::Duration;

use tokio::time::Instant;

/// Cuts and doublings are at least this far apart. A burst of refusals is one event, not many.
const STEP: Duration = Duration::from_secs(1);
/// The longest hold. A provider that asks for more is tried again all the same.
const MAX_HOLD: Duration = Duration::from_secs(300);

/// The allowance of one lane.
#[derive(Debug, Clone)]
pub struct Limiter {
    max: u32,
    limit: u32,
    /// The limit before the last cut less 10%; below it the way up is fast.
    ceiling: u32,
    /// Successes since the limit last changed.
    successes: u32,
    last_cut: Option<Instant>,
    /// The last cut or doubling.
    last_step: Option<Instant>,
    hold: Option<Instant>,
}

impl Limiter {
    /// An allowance of `max` calls at the same time; at least 1.
    pub fn new(max: u32) -> Self {
        let max = max.max(1);
        Self { max, limit: max, ceiling: max, successes: 0, last_cut: None, last_step: None, hold: None }
    }

    /// Changes the most that is allowed; what was learnt about less than that stays.
    pub fn set_max(&mut self, max: u32) {
        let max = max.max(1);
        // A lane that had no trouble goes on without any.
        if self.limit == self.max {
            (self.limit, self.ceiling) = (max, max);
        }
        (self.limit, self.ceiling, self.max) = (self.limit.min(max), self.ceiling.min(max), max);
    }

    /// Calls that may be in flight now.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// No call may start before this. It may lie in the past.
    pub fn hold_until(&self) -> Option<Instant> {
        self.hold
    }

    /// A call came back well.
    pub fn on_success(&mut self, now: Instant) {
        // Calls that were in flight when the hold began say nothing about what comes after it.
        if self.limit == self.max || self.hold.is_some_and(|until| now < until) {
            return;
        }
        if self.limit < self.ceiling && self.step_is_due(now) {
            self.last_step = Some(now);
            self.grow_to(self.limit.saturating_mul(2).min(self.ceiling));
            return;
        }
        self.successes += 1;
        if self.successes >= self.limit {
            self.grow_to(self.limit.saturating_add(1));
        }
    }

    /// The provider said 429. `retry_after` is what it asked for, if it did.
    pub fn on_rate_limited(&mut self, now: Instant, retry_after: Option<Duration>) {
        self.cut(now);
        if let Some(wait) = retry_after.filter(|wait| !wait.is_zero()) {
            let until = now + wait.min(MAX_HOLD);
            self.hold = Some(self.hold.map_or(until, |earlier| earlier.max(until)));
        }
    }

    /// The provider is overloaded: 503, 529, a refused connection, a timeout.
    pub fn on_overload(&mut self, now: Instant) {
        self.cut(now);
    }

    fn cut(&mut self, now: Instant) {
        let due = self.last_cut.is_none_or(|last| now.saturating_duration_since(last) >= STEP);
        if !due {
            return;
        }
        self.ceiling = (self.limit - self.limit.div_ceil(10)).max(1);
        self.limit = (self.limit / 2).max(1);
        self.successes = 0;
        self.last_cut = Some(now);
        self.last_step = Some(now);
    }

    fn step_is_due(&self, now: Instant) -> bool {
        self.last_step.is_none_or(|last| now.saturating_duration_since(last) >= STEP)
    }

    fn grow_to(&mut self, limit: u32) {
        self.limit = limit.min(self.max);
        self.successes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Event {
        Success,
        RateLimited(Option<u64>),
        Overload,
    }

    fn event() -> impl Strategy<Value = (u64, Event)> {
        let what = prop_oneof![
            4 => Just(Event::Success),
            1 => proptest::option::of(0u64..2_000_000).prop_map(Event::RateLimited),
            1 => Just(Event::Overload),
        ];
        (0u64..3_000, what)
    }

    fn tell(limiter: &mut Limiter, now: Instant, event: &Event) {
        match event {
            Event::Success => limiter.on_success(now),
            Event::RateLimited(millis) => limiter.on_rate_limited(now, millis.map(Duration::from_millis)),
            Event::Overload => limiter.on_overload(now),
        }
    }

    #[test]
    fn a_burst_of_refusals_is_one_cut() {
        let now = Instant::now();
        let mut limiter = Limiter::new(64);
        for millis in 0..50 {
            limiter.on_rate_limited(now + Duration::from_millis(millis * 19), None);
        }
        assert_eq!(limiter.limit(), 32);
        limiter.on_overload(now + STEP);
        assert_eq!((limiter.limit(), limiter.hold_until()), (16, None));
    }

    #[test]
    fn the_way_back_is_fast_to_the_ceiling_and_slow_above_it() {
        let start = Instant::now();
        let mut limiter = Limiter::new(100);
        limiter.on_overload(start);
        limiter.on_overload(start + STEP);
        assert_eq!((limiter.limit(), limiter.ceiling), (25, 45));
        limiter.on_success(start + STEP * 2);
        assert_eq!(limiter.limit(), 45, "twice 25 is beyond the ceiling");
        for _ in 0..44 {
            limiter.on_success(start + STEP * 9);
        }
        assert_eq!(limiter.limit(), 45);
        limiter.on_success(start + STEP * 9);
        assert_eq!(limiter.limit(), 46, "one more for a whole round");
    }

    #[test]
    fn retry_after_holds_the_lane_and_is_capped() {
        let now = Instant::now();
        let mut limiter = Limiter::new(8);
        limiter.on_rate_limited(now, Some(Duration::from_secs(20)));
        limiter.on_rate_limited(now, Some(Duration::from_secs(5)));
        assert_eq!(limiter.hold_until(), Some(now + Duration::from_secs(20)));
        limiter.on_success(now + Duration::from_secs(19));
        assert_eq!(limiter.limit(), 4, "an answer to an earlier call");
        limiter.on_success(now + Duration::from_secs(20));
        assert_eq!(limiter.limit(), 7);
        limiter.on_rate_limited(now, Some(Duration::from_secs(86_400)));
        assert_eq!(limiter.hold_until(), Some(now + MAX_HOLD));
    }

    #[test]
    fn a_lane_of_one_stays_a_lane_of_one() {
        let mut limiter = Limiter::new(0);
        limiter.on_overload(Instant::now());
        limiter.on_success(Instant::now());
        assert_eq!(limiter.limit(), 1);
    }

    #[test]
    fn a_new_maximum_counts_at_once_and_keeps_what_was_learnt() {
        let now = Instant::now();
        let mut limiter = Limiter::new(64);
        limiter.set_max(128);
        assert_eq!(limiter.limit(), 128);
        limiter.on_overload(now);
        limiter.set_max(256);
        assert_eq!((limiter.limit(), limiter.ceiling), (64, 115));
        limiter.set_max(16);
        assert_eq!((limiter.limit(), limiter.ceiling), (16, 16));
    }

    proptest! {
        #[test]
        fn the_limit_stays_within_bounds_and_holds_never_end_earlier(max in 0u32..500, events in proptest::collection::vec(event(), 0..200)) {
            let mut now = Instant::now();
            let mut limiter = Limiter::new(max);
            for (millis, event) in events {
                now += Duration::from_millis(millis);
                let before = (limiter.limit(), limiter.hold_until());
                tell(&mut limiter, now, &event);
                prop_assert!((1..=max.max(1)).contains(&limiter.limit()));
                prop_assert!(limiter.hold_until() >= before.1);
                prop_assert!(limiter.hold_until().is_none_or(|until| until <= now.max(before.1.unwrap_or(now)) + MAX_HOLD));
                match event {
                    Event::Success => prop_assert!(limiter.limit() >= before.0),
                    Event::RateLimited(_) | Event::Overload => prop_assert!(limiter.limit() <= before.0),
                }
            }
        }

        #[test]
        fn after_the_last_cut_the_ceiling_is_reached_in_a_bounded_time(max in 1u32..2_000, events in proptest::collection::vec(event(), 0..100)) {
            let mut now = Instant::now();
            let mut limiter = Limiter::new(max);
            for (millis, event) in events {
                now += Duration::from_millis(millis);
                tell(&mut limiter, now, &event);
            }
            now = now.max(limiter.hold_until().unwrap_or(now));
            // Each second doubles, and one success in it is enough.
            for _ in 0..=max.ilog2() + 1 {
                now += STEP;
                limiter.on_success(now);
            }
            prop_assert!(limiter.limit() >= limiter.ceiling, "{limiter:?}");
        }
    }
}
