//! How many calls there were lately, in constant space: tenths of the last second, and the seconds
//! of the last minute for calls that are too rare to be seen in one second.

use std::time::Duration;

use tokio::time::Instant;

/// One more than a second has: the latest tenth is not over yet.
const TENTHS: usize = 11;
const SECONDS: usize = 60;

/// Counts of the last second and the last minute.
#[derive(Debug, Clone)]
pub struct RateWindow {
    origin: Option<Instant>,
    /// The shortest time, in seconds, over which calls are a rate.
    shortest: f64,
    /// Counts by number of the tenth, or of the second, since the origin; each with that number.
    tenths: [(u64, u32); TENTHS],
    seconds: [(u64, u32); SECONDS],
}

impl Default for RateWindow {
    fn default() -> Self {
        Self { origin: None, shortest: 1.0, tenths: [(0, 0); TENTHS], seconds: [(0, 0); SECONDS] }
    }
}

impl RateWindow {
    /// A window that begins now or later, with calls at the pace that is to be measured.
    pub fn since(origin: Instant) -> Self {
        Self { origin: Some(origin), shortest: 0.5, ..Self::default() }
    }

    /// Counts a call.
    pub fn count(&mut self, now: Instant) {
        let since = now.saturating_duration_since(*self.origin.get_or_insert(now));
        add(&mut self.tenths, tenth(since));
        add(&mut self.seconds, since.as_secs());
    }

    /// Calls per second over the last `span`, a second to a minute, or since the first call.
    pub fn rate(&self, now: Instant, span: Duration) -> f64 {
        let Some(origin) = self.origin else { return 0.0 };
        let since = now.saturating_duration_since(origin);
        if span <= Duration::from_secs(1) {
            let length = 1.0 + (since.as_secs_f64() * 10.0).fract() / 10.0;
            return f64::from(sum(&self.tenths, tenth(since), TENTHS)) / length.min(since.as_secs_f64().max(self.shortest));
        }
        let seconds = span.as_secs().min(SECONDS as u64);
        let calls = sum(&self.seconds, since.as_secs(), usize::try_from(seconds).unwrap_or(SECONDS));
        // The current second counts only for the part of it that has passed.
        let length = since.as_secs_f64().fract() + f64::from(u32::try_from(seconds - 1).unwrap_or(0));
        f64::from(calls) / length.min(since.as_secs_f64()).max(1.0)
    }
}

fn tenth(since: Duration) -> u64 {
    u64::try_from(since.as_millis() / 100).unwrap_or(u64::MAX)
}

fn slot<const N: usize>(number: u64) -> usize {
    usize::try_from(number % N as u64).unwrap_or(0)
}

fn add<const N: usize>(ring: &mut [(u64, u32); N], number: u64) {
    let each = &mut ring[slot::<N>(number)];
    *each = if each.0 == number { (number, each.1.saturating_add(1)) } else { (number, 1) };
}

fn at<const N: usize>(ring: &[(u64, u32); N], number: u64) -> u32 {
    let each = ring[slot::<N>(number)];
    if each.0 == number { each.1 } else { 0 }
}

fn sum<const N: usize>(ring: &[(u64, u32); N], last: u64, length: usize) -> u32 {
    (0..length as u64).filter_map(|back| last.checked_sub(back)).map(|number| at(ring, number)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_calls_are_seen_in_a_second_and_rare_ones_in_a_minute() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let near = |a: f64, b: f64| (a - b).abs() <= b / 20.0;
        let mut window = RateWindow::default();
        assert!(window.rate(start, second) == 0.0);
        for milli in 0..5_000 {
            window.count(start + Duration::from_millis(milli * 2));
        }
        let now = start + Duration::from_millis(9_999);
        for span in [1, 5, 60] {
            assert!(near(window.rate(now, second * span), 500.0), "{span}: {}", window.rate(now, second * span));
        }
        let mut window = RateWindow::default();
        for turn in 0..40 {
            window.count(start + second * (turn * 4));
        }
        let now = start + second * 159;
        assert!(near(window.rate(now, second * 60), 0.25), "{}", window.rate(now, second * 60));
        assert!(window.rate(now + second * 600, second * 60) == 0.0);
    }
}
