//! How many units may go out in a minute, requests or tokens: a known rate, unlike the limit that
//! [`super::ConcurrencyLimiter`] finds out.
//!
//! The generic cell rate algorithm: units are spread evenly over the minute, with a second's worth
//! as a burst. A call may take more units than are left; the debt then delays the calls after it.
//! Pure: the caller passes the time.

use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// The burst that may go out after a pause, as time.
const BURST: Duration = Duration::from_secs(1);
/// The longest debt. A single call beyond a whole allowance must not block the lane for long.
const MAX_DEBT: Duration = Duration::from_secs(120);

/// A rate, at least one unit a minute.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    per_minute: u64,
    /// When everything that went out would have gone out at an even pace.
    even: Option<Instant>,
}

impl RateLimiter {
    /// A rate of `per_minute` units.
    pub fn new(per_minute: u64) -> Self {
        Self { per_minute: per_minute.max(1), even: None }
    }

    /// Changes the rate. Earlier units still count, at the new rate: a debt made under a limit that
    /// was too low does not outlive that limit.
    pub fn set(&mut self, now: Instant, per_minute: u64) {
        let owed = self.even.map_or(Duration::ZERO, |even| even.saturating_duration_since(now));
        let units = owed.as_nanos().saturating_mul(u128::from(self.per_minute)) / MINUTE.as_nanos();
        self.per_minute = per_minute.max(1);
        self.even = Some(now + self.share(u64::try_from(units).unwrap_or(u64::MAX)));
    }

    /// The earliest moment at which the next units may go out; `None` for now.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        // Less than one unit's share is no debt: a slow rate still lets one unit out.
        let ready = self.even?.checked_sub(BURST.max(self.share(1)).saturating_sub(self.share(1)))?;
        (ready > now).then_some(ready)
    }

    /// Charges units that go out.
    pub fn take(&mut self, now: Instant, units: u64) {
        let from = self.even.map_or(now, |even| even.max(now));
        self.even = Some((from + self.share(units)).min(now + MAX_DEBT));
    }

    /// Corrects an earlier charge of `said` units to the actual number, `truly`.
    pub fn correct(&mut self, now: Instant, said: u64, truly: u64) {
        if truly > said {
            self.take(now, truly - said);
        } else if let Some(even) = self.even {
            // Returns no more than was charged, because a share is capped.
            self.even = even.checked_sub(self.share(said) - self.share(truly));
        }
    }

    fn share(&self, units: u64) -> Duration {
        let nanos = u128::from(units).saturating_mul(MINUTE.as_nanos()) / u128::from(self.per_minute);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(MAX_DEBT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many units go out one by one within `length`, each as soon as allowed.
    fn run(pace: &mut RateLimiter, start: Instant, length: Duration) -> u64 {
        let (mut now, mut out) = (start, 0);
        while now < start + length {
            match pace.ready_at(now) {
                Some(at) => now = at,
                None => {
                    pace.take(now, 1);
                    out += 1;
                }
            }
        }
        out
    }

    #[test]
    fn a_rate_is_kept_after_a_burst_of_a_second() {
        let start = Instant::now();
        let mut pace = RateLimiter::new(600);
        assert_eq!(run(&mut pace, start, Duration::from_millis(1)), 10);
        assert_eq!(run(&mut RateLimiter::new(600), start, MINUTE), 600 + 9);
        assert_eq!(run(&mut RateLimiter::new(2), start, MINUTE), 2, "a slow rate lets one out at a time");
    }

    #[test]
    fn a_debt_delays_what_comes_after_and_a_correction_pays_it_back() {
        let start = Instant::now();
        let mut pace = RateLimiter::new(60);
        pace.take(start, 31);
        assert_eq!(pace.ready_at(start), Some(start + Duration::from_secs(31)));
        pace.correct(start, 31, 1);
        assert_eq!(pace.ready_at(start), Some(start + Duration::from_secs(1)));
        pace.correct(start, 1, 11);
        assert_eq!(pace.ready_at(start), Some(start + Duration::from_secs(11)));
        pace.take(start, u64::MAX);
        assert!(pace.ready_at(start).unwrap() <= start + MAX_DEBT);
        // A guess beyond the cap is charged up to the cap, and paid back from there.
        let mut pace = RateLimiter::new(60);
        pace.take(start, 1_000);
        pace.correct(start, 1_000, 80);
        assert_eq!(pace.ready_at(start), Some(start + Duration::from_secs(80)));
    }

    #[test]
    fn a_debt_is_worth_less_at_a_higher_rate() {
        let start = Instant::now();
        let mut pace = RateLimiter::new(60);
        pace.take(start, 61);
        pace.set(start, 600);
        assert_eq!(pace.ready_at(start), Some(start + Duration::from_millis(6_100 - 900)));
        pace.set(start, 60);
        assert_eq!(pace.ready_at(start), Some(start + Duration::from_secs(61)));
    }

    proptest! {
        #[test]
        fn no_minute_sees_more_than_the_rate_and_its_burst(per_minute in 1u64..5_000, pauses in proptest::collection::vec(0u64..3_000, 1..200)) {
            let start = Instant::now();
            let (mut pace, mut now, mut out) = (RateLimiter::new(per_minute), start, 0u64);
            for pause in pauses {
                now += Duration::from_millis(pause);
                while pace.ready_at(now).is_none() {
                    pace.take(now, 1);
                    out += 1;
                }
                let even = (now - start).as_nanos() * u128::from(per_minute) / MINUTE.as_nanos();
                prop_assert!(u128::from(out) <= even + u128::from(per_minute.div_ceil(60)) + 2);
            }
        }
    }
}
