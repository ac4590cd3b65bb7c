//! How many calls a second a provider takes if it does not state a rate, found out from refused
//! calls.
//!
//! Nothing is throttled until a call is refused. Then calls go out evenly, a little slower than the
//! rate that was accepted in the last second. The rate comes back fast up to a remembered ceiling,
//! just below where the trouble was, and creeps on from there, faster the longer no call is
//! refused. So the limit is touched now and then, by a few calls, and found again when it has
//! changed.
//!
//! A refusal may stop the whole lane for a while. That is its price, and it decides how often the
//! limit is touched: pauses take at most one part in [`PRICE`] of the time.
//!
//! Pure: the caller reports what happened and when. Invariant: once throttled, no second sees more
//! than the rate and a burst of [`BURST`].

use std::time::Duration;

use tokio::time::Instant;

use super::rate_window::RateWindow;
use super::requested_pause::PRICE;

/// The number of calls that makes a measured rate meaningful.
const ENOUGH: u32 = 20;
/// The longest look back.
const LONG: Duration = Duration::from_secs(60);
/// A burst of refusals is one event, not many.
const STEP: Duration = Duration::from_secs(1);
/// How often the rate grows.
const GROWTH: Duration = Duration::from_millis(250);
/// Growth towards the ceiling per growth step: the rate doubles in a second.
const FAST: f64 = 1.19;
/// Where fast growth ends, and where a cut at the limit goes to, as parts of the ceiling.
const NEAR: f64 = 0.985;
const BELOW: f64 = 0.97;
/// The most growth beyond the ceiling per growth step, as a part of the ceiling.
const RUN: f64 = 0.05;
/// The first growth beyond the ceiling, as a part of it, and the factor by which growth itself
/// grows with each step.
const CREEP: f64 = 0.002;
/// The first growth where refusals are dear: a burst that the provider takes beyond its rate must not
/// hide the limit.
const WARY: f64 = 0.000_5;
const FASTER: f64 = 1.06;
/// The least calls a second, unless even fewer are accepted: some calls must go out to find the
/// rate.
const LEAST: f64 = 1.0;
/// Where the search for a rate begins, unless more calls were accepted.
const FIRST: f64 = 10.0;
/// The slowest rate of all.
const SLOWEST: f64 = 1.0 / 30.0;
/// Where refusals are dear, a limit so little above the ceiling is no other than the ceiling.
const LITTLE: f64 = 1.1;
/// The burst that may go out at once, as time: the dispatcher is not woken more often.
const BURST: Duration = Duration::from_millis(10);
/// Beyond this multiple of the ceiling, or this many calls a second, the rate is no longer limited.
const FREE: f64 = 16.0;
const MAX_RATE: f64 = 100_000.0;

/// The rate of one lane.
#[derive(Debug, Clone, Default)]
pub struct AdaptiveRate {
    accepted: RateWindow,
    found: Option<Found>,
    /// Until when the lane stops; calls before that say nothing about the rate.
    paused_until: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Found {
    /// Calls per second.
    rate: f64,
    /// The rate that was accepted when calls were last refused; infinite until calls at a rate of
    /// ours have been refused.
    ceiling: f64,
    creep: f64,
    /// No growth beyond the ceiling before that: the last refusal has cost so much.
    paid_until: Instant,
    /// Growth towards the ceiling for each growth step.
    fast: f64,
    /// When everything that went out would have gone out at an even pace.
    even: Instant,
    last_cut: Instant,
    last_growth: Instant,
}

impl AdaptiveRate {
    /// The calls a second that may go out; `None` while no call has been refused.
    pub fn rate(&self) -> Option<f64> {
        self.found.as_ref().map(|found| found.rate)
    }

    /// The earliest moment at which a call may go out; `None` for now.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let found = self.found.as_ref()?;
        let ready = found.even.checked_sub(BURST)?;
        (ready > now).then_some(ready)
    }

    /// Whether the rate is what holds calls back.
    pub fn is_binding(&self, now: Instant) -> bool {
        self.found.as_ref().is_some_and(|found| found.is_binding(now))
    }

    /// Notes that a call goes out.
    pub fn take(&mut self, now: Instant) {
        let Some(found) = &mut self.found else { return };
        // The rate grows only while it is what holds calls back.
        if found.is_binding(now) {
            found.grow(now);
        } else {
            found.last_growth = now;
        }
        found.even = found.even.max(now) + found.gap();
        if found.rate > (found.ceiling * FREE).min(MAX_RATE) {
            self.found = None;
        }
    }

    /// Notes that the provider accepted a call.
    pub fn on_accepted(&mut self, now: Instant) {
        self.accepted.count(now);
    }

    /// Notes that the lane goes on before the end of its pause: refusals cost less than it seemed.
    pub fn on_resumed(&mut self, now: Instant) {
        (self.accepted, self.paused_until) = (RateWindow::since(now), None);
        if let Some(found) = &mut self.found {
            (found.fast, found.paid_until, found.last_growth) = (FAST, now, now);
        }
    }

    /// Notes that the provider refused a call that was sent at `sent`; `price` is for how long the
    /// lane stops because of that.
    pub fn on_refused(&mut self, now: Instant, sent: Instant, price: Option<Duration>) {
        let price = price.unwrap_or_default();
        let seen = self.found.as_ref().map_or(STEP, |found| found.gap().saturating_mul(ENOUGH));
        let accepted = self.accepted.rate(now, seen);
        let least = self.accepted.rate(now, LONG).clamp(SLOWEST, LEAST);
        if !price.is_zero() {
            let until = self.paused_until.map_or(now + price, |until| until.max(now + price));
            let is_early = self.paused_until.replace(until).is_some_and(|until| sent < until);
            self.accepted = RateWindow::since(until);
            if is_early && self.found.is_some() {
                return;
            }
        }
        let paid_until = now + price.saturating_mul(PRICE);
        let fast = FAST.powf(1.0 / price.as_secs_f64().max(1.0));
        let Some(found) = &mut self.found else {
            // Accepted calls may not have been answered yet.
            let rate = (accepted * BELOW).max(FIRST);
            self.found = Some(Found {
                rate,
                ceiling: f64::INFINITY,
                creep: CREEP,
                paid_until: now,
                fast,
                even: now,
                last_cut: now,
                last_growth: now,
            });
            return;
        };
        // Calls sent before the last cut, or just after it, bring no news.
        let step = STEP.max(found.gap().saturating_mul(2));
        if sent <= found.last_cut || now.saturating_duration_since(found.last_cut) < step {
            found.last_growth = now;
            return;
        }
        let (rate, searched) = (found.rate, found.ceiling.is_infinite());
        let known = if searched { rate } else { found.ceiling };
        let (rate, ceiling) = match accepted / rate {
            // A provider that accepts nothing for a while does not have a new limit.
            share if share < 0.1 => (rate * 0.5, known),
            share if share < 0.5 => (rate * 0.5, known * 0.9),
            // Refused below what was taken for the ceiling: a burst had gone into that.
            _ if !searched && now < found.paid_until => (rate * BELOW * BELOW, rate * BELOW),
            // What was well for so long is well again.
            _ if !searched && !price.is_zero() && rate < found.ceiling * LITTLE => (found.ceiling * BELOW, found.ceiling),
            _ => (accepted.min(rate) * BELOW, accepted.min(rate)),
        };
        found.rate = rate.max(least);
        found.ceiling = ceiling.max(found.rate);
        // A search may have ended by chance, on a refused burst.
        found.creep = match price.is_zero() {
            true if searched => CREEP * 5.0,
            true => CREEP,
            false => WARY,
        };
        (found.paid_until, found.fast) = (paid_until, fast);
        (found.last_cut, found.last_growth) = (now, now);
    }
}

impl Found {
    fn is_binding(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.even) <= self.gap().max(STEP / 10)
    }

    fn gap(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate.max(SLOWEST))
    }

    fn grow(&mut self, now: Instant) {
        // However long no call went out, one call is no proof of a much higher rate.
        if now.saturating_duration_since(self.last_growth) < GROWTH {
            return;
        }
        self.last_growth = now;
        if self.rate < self.ceiling * NEAR {
            self.rate = (self.rate * self.fast).min(self.ceiling * NEAR);
        } else if now >= self.paid_until {
            self.rate += self.ceiling * self.creep;
            let faster = if self.paid_until > self.last_cut { 1.0 + (FASTER - 1.0) / 2.0 } else { FASTER };
            self.creep = (self.creep * faster).min(RUN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RequestedPause;
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// How a provider answers a call at a moment, counted from the start: whether it accepts.
    type Provider = Box<dyn FnMut(Duration) -> bool>;

    fn bucket(per_second: f64, burst: f64) -> Provider {
        let (mut level, mut last) = (burst, Duration::ZERO);
        Box::new(move |at| {
            level = (level + (at - last).as_secs_f64() * per_second).min(burst);
            last = at;
            let takes = level >= 1.0;
            level -= if takes { 1.0 } else { 0.0 };
            takes
        })
    }

    fn windows(length: Duration, calls: u32) -> Provider {
        let mut used = (0, 0);
        Box::new(move |at| {
            let window = at.as_nanos() / length.as_nanos();
            used = if used.0 == window { (window, used.1 + 1) } else { (window, 1) };
            used.1 <= calls
        })
    }

    /// Sends calls as soon as allowed, answered after `latency`, for so many seconds. Returns the
    /// accepted and the refused calls of each second.
    fn drive(provider: &mut Provider, latency: Duration, seconds: usize) -> Vec<(u32, u32)> {
        drive_told(provider, latency, seconds, None)
    }

    /// Like `drive`, with a provider whose refusals ask for a wait.
    fn drive_told(provider: &mut Provider, latency: Duration, seconds: usize, wait: Option<Duration>) -> Vec<(u32, u32)> {
        let (start, mut throttle, mut pause) = (Instant::now(), AdaptiveRate::default(), RequestedPause::default());
        let mut tally = vec![(0, 0); seconds];
        let mut flying: std::collections::BTreeMap<(Instant, u32), (Instant, bool)> = std::collections::BTreeMap::new();
        let mut calls = 0;
        let end = start + Duration::from_secs(seconds as u64);
        let mut now = start;
        while now < end {
            while let Some(((back, _), (sent, taken))) =
                flying.first_key_value().filter(|((back, _), _)| *back <= now).map(|(k, v)| (*k, *v))
            {
                flying.pop_first();
                if taken {
                    if pause.on_accepted(back, sent) {
                        throttle.on_resumed(back);
                    }
                    throttle.on_accepted(back);
                } else {
                    let price = wait.and_then(|wait| pause.on_refused(back, sent, wait));
                    throttle.on_refused(back, sent, price);
                }
            }
            let mut room = 64_usize.saturating_sub(flying.len());
            while room > 0 && pause.ready_at(now).is_none() && throttle.ready_at(now).is_none() {
                throttle.take(now);
                pause.start(now);
                let taken = provider(now - start);
                let second = &mut tally[usize::try_from((now - start).as_secs()).unwrap()];
                if taken {
                    second.0 += 1
                } else {
                    second.1 += 1
                }
                // The provider refuses at once.
                calls += 1;
                flying.insert((now + if taken { latency } else { MILLI }, calls), (now, taken));
                room -= 1;
            }
            now += MILLI;
        }
        tally
    }

    /// A provider that takes nothing at all for so long after a refusal.
    fn strict(mut inner: Provider, wait: Duration) -> Provider {
        let mut until = Duration::ZERO;
        Box::new(move |at| {
            let taken = at >= until && inner(at);
            if !taken {
                until = until.max(at + wait);
            }
            taken
        })
    }

    fn shares(tally: &[(u32, u32)], per_second: f64) -> (f64, f64) {
        let (taken, refused) = tally.iter().fold((0.0, 0.0), |sum, each| (sum.0 + f64::from(each.0), sum.1 + f64::from(each.1)));
        (taken / (per_second * tally.len() as f64), refused / (taken + refused))
    }

    #[test]
    fn an_unknown_rate_is_found_used_up_and_seldom_passed() {
        type Maker = (&'static str, fn() -> Provider);
        let makers: [Maker; 3] =
            [("bucket", || bucket(200.0, 20.0)), ("no burst", || bucket(200.0, 1.0)), ("windows", || windows(MILLI * 1_000, 200))];
        for (name, make) in makers {
            for latency in [5, 50, 300] {
                let mut provider = make();
                let tally = drive(&mut provider, MILLI * latency, 70);
                let (used, refused) = shares(&tally[10..], 200.0);
                assert!(used >= 0.95 && refused <= 0.03, "{name}, {latency} ms: {used:.3} used, {refused:.3} turned away, {tally:?}");
            }
        }
    }

    #[test]
    fn a_rate_is_used_up_however_long_refused_calls_are_told_to_wait() {
        for wait in [1_000, 10_000] {
            for burst in [10.0, 50.0] {
                let mut provider = bucket(200.0, burst);
                let tally = drive_told(&mut provider, MILLI * 50, 60, Some(MILLI * wait));
                let (used, refused) = shares(&tally[10..], 200.0);
                assert!(used >= 0.95 && refused <= 0.03, "{wait} ms, {burst}: {used:.3} used, {refused:.4} turned away, {tally:?}");
            }
            let mut provider = windows(MILLI * 1_000, 200);
            let tally = drive_told(&mut provider, MILLI * 50, 60, Some(MILLI * wait));
            let (used, refused) = shares(&tally[20..], 200.0);
            assert!(used >= 0.93 && refused <= 0.03, "{wait} ms, windows: {used:.3} used, {refused:.4} turned away, {tally:?}");
        }
    }

    #[test]
    fn where_each_refusal_stops_the_lane_the_price_decides_how_often_the_limit_is_touched() {
        for (wait, warm_up) in [(1, 30), (10, 120)] {
            for burst in [10.0, 50.0] {
                let mut provider = strict(bucket(200.0, burst), Duration::from_secs(wait));
                let seconds = warm_up + 600;
                let tally = drive_told(&mut provider, MILLI * 50, seconds, Some(Duration::from_secs(wait)));
                let (used, _) = shares(&tally[warm_up..], 200.0);
                let touched: Vec<_> = (0..seconds).filter(|second| tally[*second].1 > 0).collect();
                let pauses = touched.iter().filter(|second| **second >= warm_up).count() * wait as usize;
                assert!(used >= 0.93 && pauses <= 25, "{wait} s, {burst}: {used:.3} used, touched in seconds {touched:?}, {tally:?}");
            }
        }
        // A limit that is raised is found as well.
        let (mut before, mut after) = (bucket(200.0, 20.0), bucket(400.0, 20.0));
        let provider: Provider = Box::new(move |at| if at.as_secs() < 60 { before(at) } else { after(at) });
        let tally = drive_told(&mut strict(provider, MILLI * 1_000), MILLI * 50, 240, Some(MILLI * 1_000));
        let (used, _) = shares(&tally[170..], 400.0);
        assert!(used >= 0.9, "{used:.3} {tally:?}");
    }

    #[test]
    fn a_limit_that_changes_is_followed_up_and_down() {
        let mut before = bucket(400.0, 20.0);
        let mut after = bucket(100.0, 20.0);
        let mut provider: Provider = Box::new(move |at| if (30..60).contains(&at.as_secs()) { after(at) } else { before(at) });
        let tally = drive(&mut provider, MILLI * 20, 110);
        for (seconds, rate) in [(10..30, 400.0), (40..60, 100.0), (85..110, 400.0)] {
            let (used, refused) = shares(&tally[seconds.clone()], rate);
            assert!(used >= 0.9 && refused <= 0.05, "{seconds:?}: {used:.3} used, {refused:.3} turned away, {tally:?}");
        }
    }

    #[test]
    fn an_outage_of_refusals_is_not_hammered_and_soon_forgotten() {
        let mut limit = bucket(200.0, 20.0);
        let mut provider: Provider = Box::new(move |at| !(20..50).contains(&at.as_secs()) && limit(at));
        let tally = drive(&mut provider, MILLI * 20, 80);
        let refused: u32 = tally[25..50].iter().map(|second| second.1).sum();
        assert!(refused <= 150, "{refused} calls while nothing was taken: {tally:?}");
        let (used, _) = shares(&tally[62..80], 200.0);
        assert!(used >= 0.9, "{used:.3} {tally:?}");
    }

    #[test]
    fn slow_rates_are_found_too() {
        let tally = drive(&mut bucket(0.5, 1.0), MILLI * 100, 600);
        let (used, refused) = shares(&tally[120..], 0.5);
        assert!(used >= 0.85 && refused <= 0.15, "{used:.3} used, {refused:.3} turned away {tally:?}");
    }

    #[test]
    fn what_is_never_turned_away_is_never_throttled() {
        let (now, mut throttle) = (Instant::now(), AdaptiveRate::default());
        for turn in 0..10_000 {
            assert_eq!(throttle.ready_at(now), None);
            throttle.take(now);
            throttle.on_accepted(now + MILLI * turn);
        }
        assert_eq!(throttle.rate(), None);
    }
}
