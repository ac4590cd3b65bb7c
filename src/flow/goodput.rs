//! How much work a server does with so many calls in flight: one sample for each number of calls,
//! and the comparison of two.
//!
//! Two estimates, each exact where the other is not. The work that ended in a time is right
//! whatever a server does with its calls, but coarse: the calls at the edges of the time count as a
//! whole or not at all. The time that a call of a given size takes, by Little's law, needs few
//! calls, because the sizes of calls are taken out of it by a regression; but it is blind to calls
//! that are not answered at all. So both are used, and where they contradict each other, the first.
//!
//! Work is counted, not calls alone: long calls that do more work do not make a server slow. Pure,
//! like the other algorithms in this folder.

use std::time::Duration;

use tokio::time::Instant;

/// No estimate is better than this, as a part: servers and clocks are not.
const FLOOR: f64 = 0.007;
/// Part of the times of calls that is due to chance, beside the sizes of calls.
const CHANCE: f64 = 0.05;
/// The variance of a rate over one round, because calls of one size that began together end together:
/// one round more or less is within three standard deviations.
const LOCKSTEP: f64 = 0.25;
/// The part of the time of a call within which calls end together.
const GROUP: u32 = 8;
/// The factor by which calls that wait for each other vary more than calls that do not.
const TOGETHER: f64 = 2.0;

/// What is known of one number of calls in flight.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The calls that were to be in flight.
    pub level: u32,
    /// When so many were in flight; earlier calls are not counted.
    since: Option<Instant>,
    /// How long the first calls are left out: they began or ended beside others.
    lead: Duration,
    /// When counting began.
    began: Option<Instant>,
    last: Option<Instant>,
    /// Calls that end before that ended together with the first.
    grouped_until: Option<Instant>,
    /// Calls counted by when they ended.
    ended: f64,
    work: f64,
    squares: f64,
    /// Calls counted by when they began, too.
    fresh: Fresh,
    /// The same before counting began.
    early: Fresh,
}

/// Sums over calls, for the regression of time on work.
#[derive(Debug, Clone, Copy, Default)]
struct Fresh {
    calls: f64,
    beside: f64,
    work: f64,
    took: f64,
    work_work: f64,
    work_took: f64,
    took_took: f64,
}

impl Sample {
    /// A sample of `level` calls in flight, of which the first are left out for `lead`.
    pub fn new(level: u32, lead: Duration) -> Self {
        Self {
            level,
            since: None,
            lead,
            began: None,
            last: None,
            grouped_until: None,
            ended: 0.0,
            work: 0.0,
            squares: 0.0,
            fresh: Fresh::default(),
            early: Fresh::default(),
        }
    }

    /// The sample that counts the first calls, too.
    #[must_use]
    pub fn with_early(&self) -> Self {
        if self.began.is_some() {
            return *self;
        }
        let early = self.early;
        Self { fresh: early, began: self.since, ended: early.calls, work: early.work, squares: early.work_work, ..*self }
    }

    /// A sample of which only the work done in a time is known.
    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    pub fn of_work(level: u32, began: Instant, now: Instant, calls: u32, work: u64) -> Self {
        let (calls, work) = (f64::from(calls), work as f64);
        let mean = work / calls.max(1.0);
        let known = Self { since: Some(began), began: Some(began), last: Some(now), ..Self::new(level, Duration::ZERO) };
        Self { ended: calls, work, squares: calls * mean * mean, ..known }
    }

    /// The same level from now on.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { since: self.since, began: self.last, last: self.last, ..Self::new(self.level, Duration::ZERO) }
    }

    /// Counts a call that ended, with so many in flight, itself included.
    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    pub fn count(&mut self, now: Instant, in_flight: u32, took: Duration, work: u64) {
        let Some(since) = self.since else {
            if in_flight <= self.level + self.level / 8 {
                self.since = Some(now);
            }
            return;
        };
        let is_fresh = now.checked_sub(took).is_some_and(|sent| sent >= since);
        if self.began.is_none() {
            if is_fresh {
                self.early.count(in_flight, took, work);
                self.last = Some(now);
                if now.saturating_duration_since(since) >= self.lead {
                    self.began = Some(now);
                    self.grouped_until = Some(now + self.lead / GROUP);
                }
            }
            return;
        }
        self.last = Some(now);
        // Calls that began together end together: counting begins behind the first such group.
        if self.ended == 0.0 && self.grouped_until.is_some_and(|until| now < until) {
            self.began = Some(now);
            return;
        }
        let size = work.max(1) as f64;
        self.ended += 1.0;
        self.work += size;
        self.squares += size * size;
        if is_fresh {
            self.fresh.count(in_flight, took, work);
        }
    }

    /// Whether as many calls as there should be have been in flight.
    pub const fn is_under_way(&self) -> bool {
        self.since.is_some()
    }

    /// For how long calls were counted.
    pub fn length(&self) -> Duration {
        self.last.zip(self.began).map_or(Duration::ZERO, |(last, began)| last.saturating_duration_since(began))
    }

    /// How many times over all calls in flight have ended.
    pub fn rounds(&self) -> f64 {
        self.ended / f64::from(self.level.max(1))
    }

    /// Calls that were counted.
    pub fn calls(&self) -> f64 {
        self.ended
    }

    /// How long the calls that are in flight take; `None` before the first has ended. Long calls are
    /// in flight more often than they begin.
    pub fn turnover(&self) -> Option<Duration> {
        (self.fresh.took > 0.0).then(|| Duration::from_secs_f64(self.fresh.took_took / self.fresh.took))
    }

    /// Seconds per unit of work, as a call sees it.
    pub fn pace(&self) -> Option<f64> {
        (self.fresh.calls > 0.0).then(|| self.fresh.took / self.fresh.work)
    }

    /// Work a second.
    pub fn rate(&self) -> f64 {
        self.work / self.length().as_secs_f64().max(1e-6)
    }

    /// Calls a second.
    pub fn call_rate(&self) -> f64 {
        self.ended / self.length().as_secs_f64().max(1e-6)
    }

    /// The variance of the logarithm of [`Self::rate`].
    fn rate_variance(&self) -> f64 {
        let mean = self.work / self.ended.max(1.0);
        let spread = (self.squares / self.ended.max(1.0) / (mean * mean) - 1.0).max(0.0);
        let rounds = self.rounds().max(1e-3);
        2.0 * (CHANCE + spread.min(4.0)) / (f64::from(self.level) * rounds * rounds) + LOCKSTEP / (rounds * rounds) + FLOOR * FLOOR
    }
}

impl Fresh {
    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    fn count(&mut self, in_flight: u32, took: Duration, work: u64) {
        let (work, took) = (work.max(1) as f64, took.as_secs_f64());
        self.calls += 1.0;
        self.beside += f64::from(in_flight);
        self.work += work;
        self.took += took;
        self.work_work += work * work;
        self.work_took += work * took;
        self.took_took += took * took;
    }

    /// The time of a call of so much work, and the variance of its logarithm.
    fn time_of(&self, work: f64) -> Option<(f64, f64)> {
        if self.calls < 4.0 {
            return None;
        }
        let n = self.calls;
        let (mean_work, mean_took) = (self.work / n, self.took / n);
        let spread = (self.work_work / n - mean_work * mean_work).max(0.0);
        let joint = self.work_took / n - mean_work * mean_took;
        // More work never takes less time.
        let slope = if spread > 1e-9 * mean_work * mean_work { (joint / spread).max(0.0) } else { 0.0 };
        let time = mean_took + slope * (work - mean_work);
        if time <= 0.0 {
            return None;
        }
        let rest = (self.took_took / n - mean_took * mean_took - slope * joint).max(0.0) + CHANCE * CHANCE * mean_took * mean_took;
        let reach = (work - mean_work) * (work - mean_work) / (spread + 1e-6 * mean_work * mean_work);
        let variance = TOGETHER * rest / (n - 2.0) * (1.0 + reach) / (time * time) + FLOOR * FLOOR;
        Some((time, variance))
    }
}

/// By how much `after` did more work in a time than `before`, as a logarithm, and its variance.
pub fn gain(before: &Sample, after: &Sample) -> (f64, f64) {
    let by_rate = (after.rate() / before.rate().max(f64::MIN_POSITIVE)).max(1e-9).ln();
    let by_rate_variance = before.rate_variance() + after.rate_variance();
    let Some((by_time, by_time_variance)) = gain_by_time(&before.fresh, &after.fresh) else {
        return (by_rate, by_rate_variance);
    };
    let differ = by_rate - by_time;
    if differ * differ > 6.0 * (by_rate_variance + by_time_variance) {
        return (by_rate, by_rate_variance);
    }
    let (one, other) = (1.0 / by_rate_variance, 1.0 / by_time_variance);
    ((by_rate * one + by_time * other) / (one + other), 1.0 / (one + other))
}

/// The same of the first calls after a step, by their times alone: too good where they waited for
/// fewer others than later ones do. `None` while there are few.
pub fn early_gain(before: &Sample, after: &Sample) -> Option<(f64, f64)> {
    if after.early.calls < (f64::from(after.level) / 2.0).max(8.0) {
        return None;
    }
    gain_by_time(&before.fresh, &after.early)
}

fn gain_by_time(a: &Fresh, b: &Fresh) -> Option<(f64, f64)> {
    // Of calls of which size is more known?
    let sizes = [a.work / a.calls.max(1.0), b.work / b.calls.max(1.0), (a.work + b.work) / (a.calls + b.calls).max(1.0)];
    let gains = sizes.into_iter().filter_map(|work| {
        let ((time_a, variance_a), (time_b, variance_b)) = (a.time_of(work)?, b.time_of(work)?);
        let gain = (b.beside / b.calls / time_b / (a.beside / a.calls / time_a)).ln();
        Some((gain, variance_a + variance_b))
    });
    gains.min_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEVEL: u32 = 64;
    const TOOK: Duration = Duration::from_millis(100);

    /// When calls end that take [`TOOK`] each, in groups that begin and end together: each so many
    /// calls, the first at a moment of its own, one after another as quickly as they are sent.
    fn ends(groups: &[(u32, u64)], spread: u64) -> Vec<Duration> {
        let mut ends: Vec<_> = groups
            .iter()
            .flat_map(|(calls, at)| (0..*calls).map(move |call| Duration::from_micros(at * 1_000 + u64::from(call) * spread)))
            .flat_map(|first| (0..40).map(move |round| first + TOOK * round))
            .collect();
        ends.sort_unstable();
        ends
    }

    proptest! {
        /// A server that is as it was must not look like another one, wherever counting begins and ends.
        #[test]
        fn calls_that_end_together_do_not_look_like_a_change(
            first in 1..LEVEL,
            apart in 1_u64..99,
            spread in 1_u64..300,
            from in 0_u64..300,
        ) {
            let ends = ends(&[(first, 0), (LEVEL - first, apart)], spread);
            let start = Instant::now();
            let (mut before, mut now) = (Sample::new(LEVEL, Duration::ZERO), Sample::new(LEVEL, TOOK));
            for end in &ends {
                before.count(start + *end, LEVEL, TOOK, 1);
            }
            for end in ends.into_iter().filter(|end| *end >= Duration::from_millis(from)) {
                now.count(start + end, LEVEL, TOOK, 1);
                if now.calls() >= f64::from(LEVEL) && now.length() >= TOOK {
                    let (gain, variance) = gain(&before, &now);
                    prop_assert!(gain.abs() <= 0.2 || gain.abs() <= 3.0 * variance.sqrt(), "{gain} after {} rounds", now.rounds());
                }
            }
        }
    }
}
