//! How many calls end well in a second of the time in which their provider is well.
//!
//! An outage says nothing about the pace before and after it: its time is left out, as if the clock
//! had stood still.

use std::time::Duration;

use tokio::time::Instant;

use super::rate_window::RateWindow;

/// A rate whose clock can be stopped.
#[derive(Debug, Clone, Default)]
pub struct WellRate {
    window: RateWindow,
    /// When a call ended well last.
    last: Option<Instant>,
    /// Since when the clock stands still.
    stopped: Option<Instant>,
    /// For how long it has stood still before.
    lost: Duration,
}

impl WellRate {
    /// Counts a call that ended well, which shows that the provider is well.
    pub fn count(&mut self, now: Instant) {
        if let Some(since) = self.stopped.take() {
            self.lost += now.saturating_duration_since(since);
        }
        self.last = Some(now);
        self.window.count(self.shown(now));
    }

    /// Notes that the provider has not been well since then.
    pub fn stop(&mut self, since: Instant) {
        let since = self.last.map_or(since, |last| last.max(since));
        self.stopped.get_or_insert(since);
    }

    /// Calls per second over the last `span` in which the provider was well.
    pub fn rate(&self, now: Instant, span: Duration) -> f64 {
        self.window.rate(self.shown(self.stopped.map_or(now, |since| since.min(now))), span)
    }

    /// The moment by the clock that can be stopped.
    fn shown(&self, at: Instant) -> Instant {
        at.checked_sub(self.lost).unwrap_or(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_no_part_of_the_pace() {
        let (start, second, minute) = (Instant::now(), Duration::from_secs(1), Duration::from_secs(60));
        let mut rate = WellRate::default();
        let run = |rate: &mut WellRate, from: Instant, seconds: u64| {
            (0..seconds * 10).for_each(|turn| rate.count(from + Duration::from_millis(turn * 100)));
            from + second * u32::try_from(seconds).unwrap()
        };
        let near = |rate: f64| (rate - 10.0).abs() < 0.5;
        let down = run(&mut rate, start, 100);
        for after in [1, 2, 50] {
            rate.stop(down + second * after);
        }
        let well = down + 600 * second;
        assert!(near(rate.rate(down + 30 * second, minute)) && near(rate.rate(well, minute)), "{}", rate.rate(well, minute));
        let later = run(&mut rate, well, 5);
        assert!(near(rate.rate(later, minute)), "{}", rate.rate(later, minute));
        // A lane that is merely idle has no pace.
        assert!(rate.rate(later + 600 * second, minute) == 0.0);
        // A stop that is dated before the last success does not take it back.
        rate.stop(later - 30 * second);
        assert!(near(rate.rate(later + 60 * second, minute)), "{}", rate.rate(later, minute));
    }
}
