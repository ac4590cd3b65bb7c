//! Stops calling a provider whose calls all fail, and tries it again with one call.
//!
//! Pure: the caller reports what happened and when. Invariant: on probation at most one call is
//! out.

use std::time::Duration;

use tokio::time::Instant;

/// When to stop calling a provider, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BreakerConfig {
    /// Failures in a row after which the provider rests; at least one.
    pub failures: u32,
    /// The same if the first of them was as long ago as `slowly`.
    pub few: u32,
    pub slowly: Duration,
    /// The first rest; each further one in a row is twice as long.
    pub first: Duration,
    /// The longest rest.
    pub longest: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Calls go through; this many have failed in a row, since then.
    Closed { failures: u32, since: Option<Instant> },
    /// No call goes through until then.
    Resting { until: Instant },
    /// One call may be out to find out whether the provider has recovered.
    Probation { out: bool },
}

/// A breaker.
#[derive(Debug, Clone)]
pub struct CircuitBreaker {
    patience: BreakerConfig,
    state: State,
    /// Rests in a row so far.
    rests: u32,
    /// Failures of calls that began before this bring no news.
    since: Option<Instant>,
    first_rest: Option<Instant>,
}

/// How the end of a call changed a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitChange {
    None,
    /// The breaker rests from now on, for this long.
    Tripped(Duration),
    /// The provider has recovered.
    Recovered,
}

impl CircuitBreaker {
    /// A closed breaker with this patience.
    pub fn new(patience: BreakerConfig) -> Self {
        Self { patience, state: State::Closed { failures: 0, since: None }, rests: 0, since: None, first_rest: None }
    }

    /// When a call may start; `None` while a call is out on probation.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Closed { .. } | State::Probation { out: false } => Some(now),
            State::Resting { until } => Some(until.max(now)),
            State::Probation { out: true } => None,
        }
    }

    /// Until when the breaker rests, if it does.
    pub fn resting_until(&self) -> Option<Instant> {
        match self.state {
            State::Resting { until } => Some(until),
            State::Closed { .. } | State::Probation { .. } => None,
        }
    }

    /// Whether a call now could find out if the provider has recovered.
    pub fn needs_probe(&self, now: Instant) -> bool {
        match self.state {
            State::Resting { until } => until <= now,
            State::Probation { out } => !out,
            State::Closed { .. } => false,
        }
    }

    /// Whether calls go through freely.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Whether a call is out that finds out if the provider has recovered.
    pub const fn is_probing(&self) -> bool {
        matches!(self.state, State::Probation { out: true })
    }

    /// Since when no call has succeeded; `None` while the provider is healthy.
    pub fn failing_since(&self) -> Option<Instant> {
        self.first_rest
    }

    /// Notes that a call goes out.
    pub fn start(&mut self, now: Instant) {
        match self.state {
            State::Resting { until } if until <= now => {
                self.state = State::Probation { out: true };
                self.since = Some(now);
            }
            State::Probation { .. } => self.state = State::Probation { out: true },
            State::Resting { .. } | State::Closed { .. } => {}
        }
    }

    fn is_old(&self, started: Instant) -> bool {
        self.since.is_some_and(|since| started < since)
    }

    /// Notes that a call succeeded, whenever it went out: a provider that answers is there.
    pub fn on_success(&mut self) -> CircuitChange {
        let was_closed = self.is_closed();
        self.state = State::Closed { failures: 0, since: None };
        (self.rests, self.first_rest) = (0, None);
        if was_closed { CircuitChange::None } else { CircuitChange::Recovered }
    }

    /// Notes that the provider has answered something else than a call. Calls go through; if they still
    /// fail, the next rest is longer than the last.
    pub fn on_sign_of_life(&mut self) -> CircuitChange {
        let rests = self.rests;
        let change = self.on_success();
        self.rests = rests;
        change
    }

    /// Notes that a call failed in a way that says something about the provider.
    pub fn on_failure(&mut self, now: Instant, started: Instant) -> CircuitChange {
        self.fail(now, started, None)
    }

    /// [`Self::on_failure`], where a success could not have come yet: it takes at least this many
    /// failures, however slowly they come.
    pub fn on_early_failure(&mut self, now: Instant, started: Instant, at_least: u32) -> CircuitChange {
        self.fail(now, started, Some(at_least))
    }

    fn fail(&mut self, now: Instant, started: Instant, at_least: Option<u32>) -> CircuitChange {
        if self.is_old(started) {
            return CircuitChange::None;
        }
        match &mut self.state {
            State::Closed { failures, since } => {
                *failures += 1;
                let first = *since.get_or_insert(started);
                let is_slow = *failures >= self.patience.few && now.saturating_duration_since(first) >= self.patience.slowly;
                let needed = self.patience.failures.max(at_least.unwrap_or(1));
                if *failures < needed && (at_least.is_some() || !is_slow) {
                    return CircuitChange::None;
                }
            }
            State::Resting { .. } => return CircuitChange::None,
            State::Probation { .. } => {}
        }
        let rest = self.patience.first.saturating_mul(1 << self.rests.min(20)).min(self.patience.longest);
        self.rests += 1;
        self.first_rest.get_or_insert(now);
        self.state = State::Resting { until: now + rest };
        // Calls that went out earlier have met the same trouble.
        self.since = Some(now);
        CircuitChange::Tripped(rest)
    }

    /// Shortens a rest to the shortest one.
    pub fn shorten_rest(&mut self, now: Instant) {
        if let State::Resting { until } = &mut self.state {
            *until = (*until).min(now + self.patience.first);
        }
    }

    /// Notes that a call ended in a way that says nothing about the provider.
    pub fn on_abandoned(&mut self, started: Instant) {
        if let State::Probation { out } = &mut self.state
            && self.since.is_none_or(|since| started >= since)
        {
            *out = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: BreakerConfig = BreakerConfig { failures: 3, few: 2, slowly: SECOND, first: SECOND, longest: Duration::from_secs(5) };

    #[test]
    fn it_rests_longer_each_time_and_one_call_tries_it_again() {
        let start = Instant::now();
        let mut breaker = CircuitBreaker::new(PATIENCE);
        assert_eq!([0; 2].map(|_| breaker.on_failure(start, start)), [CircuitChange::None; 2]);
        breaker.on_success();
        let trips = [0; 4].map(|_| breaker.on_failure(start, start));
        assert_eq!(trips, [CircuitChange::None, CircuitChange::None, CircuitChange::Tripped(SECOND), CircuitChange::None]);
        let mut now = start;
        for rest in [1, 2, 4, 5, 5] {
            assert_eq!(breaker.ready_at(now), Some(now + SECOND * rest));
            now += SECOND * rest;
            breaker.start(now);
            assert_eq!(breaker.ready_at(now), None, "one call is out");
            breaker.on_abandoned(now);
            assert_eq!(breaker.ready_at(now), Some(now), "it said nothing, another may try");
            breaker.start(now);
            assert_eq!(breaker.on_failure(now, start), CircuitChange::None, "the failure of an old call brings no news");
            assert!(matches!(breaker.on_failure(now, now), CircuitChange::Tripped(_)));
            assert_eq!(breaker.failing_since(), Some(start));
        }
        now += SECOND * 5;
        breaker.start(now);
        assert_eq!((breaker.on_success(), breaker.failing_since()), (CircuitChange::Recovered, None));
        assert_eq!(breaker.ready_at(now), Some(now));
    }

    #[test]
    fn a_sign_of_life_lets_calls_through_and_does_not_end_the_growth_of_rests() {
        let (mut breaker, mut now) = (CircuitBreaker::new(PATIENCE), Instant::now());
        for rest in [1, 2, 4, 5] {
            let trips = [0; 3].map(|_| breaker.on_failure(now, now));
            assert_eq!(trips[2], CircuitChange::Tripped(SECOND * rest));
            now += SECOND;
            assert_eq!(breaker.on_sign_of_life(), CircuitChange::Recovered);
            assert_eq!(breaker.ready_at(now), Some(now));
        }
        breaker.on_success();
        assert_eq!([0; 3].map(|_| breaker.on_failure(now, now))[2], CircuitChange::Tripped(SECOND));
    }

    #[test]
    fn a_few_failures_suffice_if_they_come_slowly() {
        let start = Instant::now();
        let mut breaker = CircuitBreaker::new(PATIENCE);
        assert_eq!(breaker.on_failure(start, start), CircuitChange::None);
        assert_eq!(breaker.on_failure(start + SECOND, start + SECOND), CircuitChange::Tripped(SECOND));
    }

    proptest! {
        #[test]
        fn probation_lets_one_call_out_and_never_blocks_for_good(events in proptest::collection::vec((0u64..3_000, 0u8..4), 1..300)) {
            let mut now = Instant::now();
            let mut breaker = CircuitBreaker::new(PATIENCE);
            let mut out = Vec::new();
            for (millis, event) in events {
                now += Duration::from_millis(millis);
                if breaker.ready_at(now) == Some(now) {
                    breaker.start(now);
                    out.push(now);
                }
                if out.is_empty() { continue; }
                let started = out.remove(0);
                match event {
                    0 => _ = breaker.on_success(),
                    1 | 2 => _ = breaker.on_failure(now, started),
                    _ => breaker.on_abandoned(started),
                }
                let probation = matches!(breaker.state, State::Probation { out: true });
                prop_assert!(!probation || !out.is_empty(), "{breaker:?}");
            }
        }
    }
}
