//! Counts the calls in flight and paces new ones: the stated limits of a provider or of one
//! offering.

use tokio::time::Instant;

use crate::domain::provider::connection::Limits;
use crate::flow::RateLimiter;

/// The calls in flight and the prescribed paces.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    pub in_flight: u32,
    requests: Option<RateLimiter>,
    tokens: Option<RateLimiter>,
}

impl InFlight {
    pub fn new(limits: Limits) -> Self {
        let pace = |per_minute: Option<u64>| per_minute.map(RateLimiter::new);
        Self { in_flight: 0, requests: pace(limits.requests_per_minute.map(u64::from)), tokens: pace(limits.tokens_per_minute) }
    }

    /// Changes the paces; earlier calls still count.
    pub fn set(&mut self, limits: Limits, now: Instant) {
        set(&mut self.requests, limits.requests_per_minute.map(u64::from), now);
        set(&mut self.tokens, limits.tokens_per_minute, now);
    }

    /// The moment at which the paces allow the next call.
    pub fn paced_until(&self, now: Instant) -> Instant {
        let paces = [&self.requests, &self.tokens].into_iter().flatten();
        paces.filter_map(|pace| pace.ready_at(now)).max().unwrap_or(now)
    }

    /// Notes that a call of about so many tokens goes out.
    pub fn start(&mut self, now: Instant, tokens: u64) {
        self.in_flight += 1;
        if let Some(pace) = &mut self.requests {
            pace.take(now, 1);
        }
        if let Some(pace) = &mut self.tokens {
            pace.take(now, tokens);
        }
    }

    /// Takes back a call that was not made after all.
    pub fn refund(&mut self, now: Instant, tokens: u64) {
        self.end(now, tokens, Some(0));
        if let Some(pace) = &mut self.requests {
            pace.correct(now, 1, 0);
        }
    }

    /// Settles the call with its actual token count, if known.
    pub fn end(&mut self, now: Instant, said: u64, truly: Option<u64>) {
        self.in_flight -= 1;
        if let (Some(pace), Some(truly)) = (&mut self.tokens, truly) {
            pace.correct(now, said, truly);
        }
    }
}

fn set(pace: &mut Option<RateLimiter>, per_minute: Option<u64>, now: Instant) {
    match (pace.as_mut(), per_minute) {
        (Some(pace), Some(per_minute)) => pace.set(now, per_minute),
        (None, Some(per_minute)) => *pace = Some(RateLimiter::new(per_minute)),
        (_, None) => *pace = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_not_made_takes_nothing_of_the_limits() {
        let limits = Limits { requests_per_minute: Some(60), tokens_per_minute: Some(600), ..Limits::default() };
        let (mut in_flight_gauge, now) = (InFlight::new(limits), Instant::now());
        in_flight_gauge.start(now, 100);
        let owed = in_flight_gauge.paced_until(now);
        assert!(owed > now);
        in_flight_gauge.refund(now, 100);
        assert_eq!((in_flight_gauge.paced_until(now), in_flight_gauge.in_flight), (now, 0));
        in_flight_gauge.start(now, 100);
        assert_eq!(in_flight_gauge.paced_until(now), owed);
    }
}
