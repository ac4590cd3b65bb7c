//! How many calls a lane takes at the same time, found out from how they end.
//!
//! A stated limit is used at once; an unknown limit is searched for from a few calls upwards. In
//! either case the limit settles where the server does the most work ([`KneeSearch`]): more calls in
//! flight only while they bring more work done. A refusal or an overload cuts the limit. The
//! recovery doubles the limit each second up to a remembered ceiling, so that one bad moment does
//! not cost minutes. From there the limit grows by one, then by more.
//!
//! Pure: the caller reports what happened and when, and the limiter answers how many calls may be
//! in flight. It counts no calls and knows nothing of HTTP. Invariant: `1 <= limit <= max`.

use std::time::Duration;

use tokio::time::Instant;

use super::knee_search::KneeSearch;

/// Cuts and doublings are at least this far apart. A burst of refusals is one event, not many.
const STEP: Duration = Duration::from_secs(1);
/// For so long after a cut the limit grows beyond the ceiling in small steps only.
const WARY: Duration = Duration::from_secs(30);
/// Where the search for an unknown limit begins.
const START: u32 = 8;
/// The allowance of one lane.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimiter {
    max: u32,
    /// No maximum is stated: growth beyond what is known is an experiment.
    unknown: bool,
    limit: u32,
    /// Remembered from before the last trouble; below the ceiling the limit grows fast.
    ceiling: u32,
    /// The limit before the last trouble; up to there it grows without an experiment.
    known: u32,
    /// By how much the next round above the ceiling grows.
    stride: u32,
    last_cut: Option<Instant>,
    /// The last cut or doubling.
    last_step: Option<Instant>,
    search: KneeSearch,
    /// Calls that the server says it works on at a time.
    slots: Option<u32>,
}

impl ConcurrencyLimiter {
    /// A limiter with a stated maximum, or with the highest number that works well, up to `most`.
    pub fn new(stated: Option<u32>, most: u32) -> Self {
        let max = stated.unwrap_or(most).max(1);
        let limit = if stated.is_some() { max } else { START.min(max) };
        Self {
            max,
            unknown: stated.is_none(),
            limit,
            // No number of calls is known to be too high yet.
            ceiling: max,
            known: limit,
            stride: 1,
            last_cut: None,
            last_step: None,
            search: KneeSearch::new(limit, stated.is_some()),
            slots: None,
        }
    }

    /// Changes the stated maximum; what was learnt about lower numbers stays.
    pub fn set(&mut self, stated: Option<u32>, most: u32) {
        let max = stated.unwrap_or(most).max(1);
        let at_its_best = self.limit == self.max && !self.unknown;
        let untroubled = at_its_best || (max != self.max && self.last_cut.is_none());
        let (before, was_unknown) = (self.limit, self.unknown);
        if untroubled && stated.is_some() {
            (self.limit, self.ceiling) = (max, max);
        }
        if self.ceiling == self.max {
            self.ceiling = max;
        }
        (self.limit, self.ceiling, self.max, self.unknown) = (self.limit.min(max), self.ceiling.min(max), max, stated.is_none());
        if self.unknown != was_unknown {
            self.search = KneeSearch::new(self.limit, stated.is_some());
        } else if self.limit != before {
            self.search.interrupt(self.limit);
        }
    }

    /// Calls that may be in flight now.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Notes that a call succeeded after `took`, when `in_flight` calls were out, itself included.
    /// `work` is what the call did, in tokens or in calls, the same unit each time.
    pub fn on_success(&mut self, now: Instant, in_flight: u32, took: Duration, work: u64) {
        // A limit that is not used up has not been tested.
        if in_flight < self.limit - self.limit / 4 {
            if let Some(limit) = self.search.on_unused() {
                (self.limit, self.ceiling) = (limit.clamp(1, self.max), limit.clamp(1, self.max));
            }
            return;
        }
        if self.limit < self.ceiling && self.last_cut.is_some() {
            if self.step_is_due(now) {
                self.last_step = Some(now);
                self.limit = self.limit.saturating_mul(2).min(self.ceiling).clamp(1, self.max);
                self.search.interrupt(self.limit);
            }
            return;
        }
        // Beyond what was too much a moment ago, in small steps.
        let is_wary = self.last_cut.is_some_and(|last| now.saturating_duration_since(last) < WARY);
        if is_wary && self.limit < self.known.min(self.max) {
            if self.step_is_due(now) {
                self.last_step = Some(now);
                self.limit = self.limit.saturating_add(self.stride).min(self.known).min(self.max);
                self.stride = if self.limit == self.known { 1 } else { self.stride.saturating_mul(2) };
                self.ceiling = self.limit;
                self.search.interrupt(self.limit);
            }
            return;
        }
        let most = if is_wary { self.limit.saturating_add(self.stride).min(self.max) } else { self.max };
        if let Some(limit) = self.search.on_success(now, in_flight, took, work, most) {
            let limit = limit.clamp(1, self.max);
            if is_wary && limit == most {
                self.stride = self.stride.saturating_mul(2).min((self.limit / 8).max(1));
            }
            self.limit = limit;
            self.ceiling = limit;
            // A step down of the search is no trouble to come back from.
            self.known = self.known.min(limit);
        }
    }

    /// Notes that a call succeeded on a lane whose rate is what holds calls back: the work done says
    /// nothing about their number, which need only be no hindrance.
    pub fn on_paced(&mut self, now: Instant, in_flight: u32) {
        if let Some(limit) = self.search.on_unused() {
            self.limit = limit.clamp(1, self.max);
        }
        if in_flight >= self.limit && self.step_is_due(now) {
            self.last_step = Some(now);
            self.limit = self.limit.saturating_add((self.limit / 4).max(1)).min(self.max);
            self.ceiling = self.ceiling.max(self.limit);
            self.search.interrupt(self.limit);
        }
    }

    /// Notes what the server says: how many calls it works on at a time, and how many wait in it, of
    /// all its clients.
    pub fn on_hints(&mut self, now: Instant, slots: Option<u32>, waiting: Option<u32>) {
        self.search.on_waiting(now, waiting);
        if slots == self.slots {
            return;
        }
        self.slots = slots;
        let Some(slots) = slots else { return };
        let limit = slots.clamp(1, self.max);
        if self.unknown || limit < self.limit {
            (self.limit, self.ceiling, self.last_cut) = (limit, limit, None);
            self.search = KneeSearch::near(limit);
        }
    }

    /// Notes that the provider refused a call that it would have taken with fewer other calls:
    /// `in_flight` were out when the call was sent, itself included.
    pub fn on_refused(&mut self, now: Instant, in_flight: u32) {
        let less = in_flight.saturating_sub(in_flight.div_ceil(20)).max(1);
        self.cut(now, less);
    }

    /// Notes that the provider is overloaded: 503, 529, a timeout.
    pub fn on_overload(&mut self, now: Instant) {
        self.cut(now, self.limit / 2);
    }

    /// Starts carefully again after a rest of the provider.
    pub fn begin_again(&mut self, now: Instant) {
        self.last_cut = None;
        self.cut(now, START.min(self.limit / 2));
    }

    fn cut(&mut self, now: Instant, to: u32) {
        let due = self.last_cut.is_none_or(|last| now.saturating_duration_since(last) >= STEP);
        if !due || (to >= self.limit && self.limit > 1) {
            return;
        }
        // The first trouble shows where the ceiling is; further trouble during the recovery shows
        // only that the ceiling is a little lower.
        let recovering = self.limit < self.ceiling && self.last_cut.is_some();
        let troubled = if recovering { self.ceiling } else { self.limit };
        self.known = if recovering { self.known } else { self.limit };
        self.ceiling = (troubled - troubled.div_ceil(10)).max(1);
        self.limit = to.clamp(1, self.max);
        self.ceiling = self.ceiling.max(self.limit);
        self.stride = 1;
        self.search.interrupt(self.limit);
        self.last_cut = Some(now);
        self.last_step = Some(now);
    }

    fn step_is_due(&self, now: Instant) -> bool {
        self.last_step.is_none_or(|last| now.saturating_duration_since(last) >= STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Simulates for `seconds` a server that does `servers` calls at a time, each in 100 ms, and
    /// queues the rest.
    fn serve(limiter: &mut ConcurrencyLimiter, servers: u32, from: Instant, seconds: u64) -> Instant {
        let (mut now, end) = (from, from + Duration::from_secs(seconds));
        while now < end {
            let limit = limiter.limit();
            let busy = limit.min(servers);
            let took = Duration::from_millis(100) * limit.div_ceil(servers).max(1);
            for _ in 0..busy {
                limiter.on_success(now, limit, took, 1);
            }
            now += Duration::from_millis(100);
        }
        now
    }

    #[test]
    fn a_burst_of_trouble_is_one_cut() {
        let now = Instant::now();
        let mut limiter = ConcurrencyLimiter::new(Some(64), 1_000);
        for millis in 0..50 {
            limiter.on_overload(now + MILLI * (millis * 19));
        }
        assert_eq!(limiter.limit(), 32);
        limiter.on_overload(now + STEP);
        assert_eq!(limiter.limit(), 16);
        limiter.on_refused(now + STEP * 2, 10);
        assert_eq!(limiter.limit(), 9, "a refusal tells how many were too many");
    }

    #[test]
    fn the_way_back_is_as_fast_as_the_way_down() {
        let start = Instant::now();
        let mut limiter = ConcurrencyLimiter::new(Some(128), 1_000);
        for second in 0..4 {
            limiter.on_overload(start + STEP * second);
        }
        assert_eq!(limiter.limit(), 8);
        let back = serve(&mut limiter, 1_000, start + STEP * 4, 5);
        assert!(limiter.limit() >= 83, "{limiter:?}");
        serve(&mut limiter, 1_000, back, 9);
        // An experiment may be under way.
        assert!(limiter.limit() >= 110, "{limiter:?}");
    }

    #[test]
    fn an_unknown_limit_is_found_and_not_passed_by_much() {
        for servers in [4, 50, 300] {
            let mut limiter = ConcurrencyLimiter::new(None, 4_096);
            serve(&mut limiter, servers, Instant::now(), 60);
            assert!((servers * 2 / 3..=servers * 3).contains(&limiter.limit()), "{servers}: {limiter:?}");
        }
    }

    #[test]
    fn a_limit_that_rose_is_found_again() {
        let mut limiter = ConcurrencyLimiter::new(None, 4_096);
        let now = serve(&mut limiter, 20, Instant::now(), 30);
        let now = serve(&mut limiter, 200, now, 120);
        assert!(limiter.limit() >= 150, "{limiter:?}");
        limiter.on_overload(now);
        serve(&mut limiter, 200, now, 4);
        assert!(limiter.limit() >= 130, "{limiter:?}");
    }

    #[test]
    fn what_is_not_used_up_does_not_grow() {
        let (now, mut limiter) = (Instant::now(), ConcurrencyLimiter::new(None, 4_096));
        for turn in 0..10_000 {
            limiter.on_success(now + MILLI * turn, 3, MILLI, 1);
        }
        assert_eq!(limiter.limit(), START);
    }

    #[test]
    fn a_lane_of_one_stays_a_lane_of_one() {
        let mut limiter = ConcurrencyLimiter::new(Some(0), 1);
        limiter.on_overload(Instant::now());
        limiter.on_refused(Instant::now(), 1);
        limiter.on_success(Instant::now(), 1, MILLI, 1);
        assert_eq!(limiter.limit(), 1);
    }

    #[test]
    fn a_new_maximum_counts_at_once_and_keeps_what_was_learnt() {
        let now = Instant::now();
        let mut limiter = ConcurrencyLimiter::new(Some(64), 1_000);
        limiter.set(Some(128), 1_000);
        assert_eq!(limiter.limit(), 128);
        limiter.on_overload(now);
        limiter.set(Some(256), 1_000);
        assert_eq!((limiter.limit(), limiter.ceiling), (64, 115));
        limiter.set(Some(16), 1_000);
        assert_eq!((limiter.limit(), limiter.ceiling), (16, 16));
    }

    #[test]
    fn a_lane_that_is_paced_is_not_held_back_by_its_calls_at_a_time() {
        let (start, mut limiter) = (Instant::now(), ConcurrencyLimiter::new(None, 4_096));
        limiter.on_refused(start, 8);
        for milli in (0..20_000).step_by(5) {
            limiter.on_paced(start + MILLI * milli, limiter.limit().min(30));
        }
        assert!((31..=45).contains(&limiter.limit()), "more than are ever out, and not by much: {limiter:?}");
    }

    #[test]
    fn a_server_that_names_its_slots_begins_with_them() {
        let now = Instant::now();
        let mut limiter = ConcurrencyLimiter::new(None, 4_096);
        limiter.on_hints(now, Some(24), None);
        assert_eq!(limiter.limit(), 24);
        let mut limiter = ConcurrencyLimiter::new(Some(16), 4_096);
        limiter.on_hints(now, Some(24), None);
        assert_eq!(limiter.limit(), 16, "a stated limit is never passed");
        limiter.on_hints(now, Some(4), None);
        assert_eq!(limiter.limit(), 4);
    }

    #[test]
    fn a_server_in_which_calls_wait_gets_no_more() {
        let (start, mut limiter) = (Instant::now(), ConcurrencyLimiter::new(None, 4_096));
        let now = serve(&mut limiter, 1_000, start, 2);
        let limit = limiter.limit();
        assert!(limit >= 64, "{limiter:?}");
        for second in 0..20 {
            limiter.on_hints(now + STEP * second, None, Some(limit / 2));
            serve(&mut limiter, 1_000, now + STEP * second, 1);
            assert!(limiter.limit() <= limit, "{limiter:?}");
        }
    }

    #[derive(Debug, Clone)]
    enum LimiterEvent {
        Success(u64),
        Refused,
        Overload,
        Again,
    }

    fn event() -> impl Strategy<Value = (u64, LimiterEvent)> {
        let what = prop_oneof![8 => (1u64..5_000).prop_map(LimiterEvent::Success), 1 => Just(LimiterEvent::Refused), 1 => Just(LimiterEvent::Overload), 1 => Just(LimiterEvent::Again)];
        (0u64..3_000, what)
    }

    fn apply(limiter: &mut ConcurrencyLimiter, now: Instant, event: &LimiterEvent) {
        match event {
            LimiterEvent::Success(millis) => limiter.on_success(now, limiter.limit(), MILLI * u32::try_from(*millis).unwrap(), 1),
            LimiterEvent::Refused => limiter.on_refused(now, limiter.limit()),
            LimiterEvent::Overload => limiter.on_overload(now),
            LimiterEvent::Again => limiter.begin_again(now),
        }
    }

    proptest! {
        #[test]
        fn the_limit_stays_within_bounds(stated in proptest::option::of(0u32..500), most in 1u32..500, events in proptest::collection::vec(event(), 0..300)) {
            let mut now = Instant::now();
            let mut limiter = ConcurrencyLimiter::new(stated, most);
            for (millis, event) in events {
                now += MILLI * u32::try_from(millis).unwrap();
                let before = limiter.limit();
                apply(&mut limiter, now, &event);
                prop_assert!((1..=stated.unwrap_or(most).max(1)).contains(&limiter.limit()), "{limiter:?}");
                if !matches!(event, LimiterEvent::Success(_)) {
                    prop_assert!(limiter.limit() <= before);
                }
            }
        }

        #[test]
        fn after_the_last_trouble_the_ceiling_is_reached_in_a_bounded_time(max in 1u32..2_000, events in proptest::collection::vec(event(), 0..100)) {
            let mut now = Instant::now();
            let mut limiter = ConcurrencyLimiter::new(Some(max), max);
            for (millis, event) in events {
                now += MILLI * u32::try_from(millis).unwrap();
                apply(&mut limiter, now, &event);
            }
            limiter.on_overload(now + STEP);
            now += STEP;
            let (ceiling, mut reached) = (limiter.ceiling, 0);
            // The limit doubles each second, and one success per second is enough for that.
            for _ in 0..=max.ilog2() + 1 {
                now += STEP;
                limiter.on_success(now, limiter.limit(), MILLI, 1);
                reached = reached.max(limiter.limit());
            }
            prop_assert!(reached >= ceiling, "{limiter:?}");
        }
    }
}
