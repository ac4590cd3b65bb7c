//! What a provider says is left of its limits, according to the headers of its answers.
//!
//! An answer describes one moment. What was sent since then is deducted, and the quota is assumed
//! to come back evenly until the moment at which it is complete again. The buckets of OpenAI and
//! Anthropic fill that way; where a provider counts in fixed windows, this errs on the careful
//! side.
//!
//! Pure. Knows no header names; `provider` reads the headers.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::provider::rate_limits::RateLimitLeft;

/// The longest time for which a provider's statement is trusted. A limit for a whole day lasts for
/// days; calls are tried again before that.
const LONGEST: Duration = Duration::from_secs(600);

/// What is left of one limit, by our own reckoning.
#[derive(Debug, Clone, Default)]
pub struct RemainingQuota(Option<Bucket>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// The level at `at`; negative after a call that took more than was left.
    level: f64,
    per_second: f64,
    at: Instant,
    /// When the quota is complete again; nothing is known beyond that.
    full_at: Instant,
}

impl RemainingQuota {
    /// Takes an answer's statement of what was left when its call was accepted; `since` was sent
    /// after that call.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn on_limit_headers(&mut self, now: Instant, said: RateLimitLeft, since: u64) {
        let reset = said.reset.min(LONGEST);
        if reset.is_zero() {
            self.0 = None;
            return;
        }
        let missing = said.limit.map_or(0, |limit| limit.saturating_sub(said.remaining));
        let per_second = missing as f64 / said.reset.as_secs_f64();
        self.0 = Some(Bucket { level: said.remaining as f64 - since as f64, per_second, at: now, full_at: now + reset });
    }

    /// The earliest moment at which something is left; `None` for now.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let bucket = self.0.filter(|bucket| now < bucket.full_at)?;
        let short = 1.0 - bucket.level_at(now);
        if short <= 0.0 {
            return None;
        }
        let wait = Duration::try_from_secs_f64(short / bucket.per_second).unwrap_or(LONGEST);
        Some((now + wait.min(LONGEST)).min(bucket.full_at))
    }

    /// Deducts units that go out.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn take(&mut self, now: Instant, units: u64) {
        match &mut self.0 {
            Some(bucket) if now < bucket.full_at => {
                bucket.level = bucket.level_at(now) - units as f64;
                bucket.at = now;
            }
            forgotten => *forgotten = None,
        }
    }
}

impl Bucket {
    fn level_at(&self, now: Instant) -> f64 {
        self.level + now.saturating_duration_since(self.at).as_secs_f64() * self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_left_goes_out_at_once_and_the_rest_as_it_comes_back() {
        let now = Instant::now();
        let mut quota = RemainingQuota::default();
        assert_eq!(quota.ready_at(now), None);
        // 60 a minute, of which 55 are used: one comes back each second.
        quota.on_limit_headers(now, RateLimitLeft { limit: Some(60), remaining: 5, reset: SECOND * 55 }, 2);
        for _ in 0..3 {
            assert_eq!(quota.ready_at(now), None);
            quota.take(now, 1);
        }
        assert_eq!(quota.ready_at(now), Some(now + SECOND));
        assert_eq!(quota.ready_at(now + SECOND), None);
        quota.take(now + SECOND, 11);
        assert_eq!(quota.ready_at(now + SECOND), Some(now + SECOND * 12));
        assert_eq!(quota.ready_at(now + SECOND * 60), None, "all of it is back");
    }

    #[test]
    fn without_a_limit_nothing_comes_back_before_the_reset() {
        let now = Instant::now();
        let mut quota = RemainingQuota::default();
        quota.on_limit_headers(now, RateLimitLeft { limit: None, remaining: 0, reset: SECOND * 20 }, 0);
        assert_eq!(quota.ready_at(now), Some(now + SECOND * 20));
        quota.on_limit_headers(now, RateLimitLeft { limit: None, remaining: 0, reset: SECOND * 86_400 }, 0);
        assert_eq!(quota.ready_at(now), Some(now + LONGEST));
        quota.on_limit_headers(now, RateLimitLeft { limit: Some(9), remaining: 9, reset: Duration::ZERO }, 0);
        assert_eq!(quota.ready_at(now), None);
    }

    proptest! {
        #[test]
        fn a_wait_ends_by_the_reset(limit in proptest::option::of(0u64..1_000), remaining in 0u64..1_000, reset in 0u64..100_000, since in 0u64..2_000, taken in 0u64..u64::MAX) {
            let now = Instant::now();
            let mut quota = RemainingQuota::default();
            let reset = Duration::from_millis(reset);
            quota.on_limit_headers(now, RateLimitLeft { limit, remaining, reset }, since);
            quota.take(now, taken);
            let ready = quota.ready_at(now);
            prop_assert!(ready.is_none_or(|at| at <= now + reset));
        }
    }
}
