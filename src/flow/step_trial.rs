//! Judges whether another number of calls in flight pays: compares the work done in a round before
//! the change with the work done in a round after it.
//!
//! Work is counted, not calls alone: long calls that do more work do not make a server slow. Pure,
//! like the other algorithms in this folder.

use std::time::Duration;

use tokio::time::Instant;

/// The fewest calls that make a round meaningful.
const LEAST_CALLS: u32 = 8;
/// A shorter round says more about the clock than about the server.
const LEAST_TIME: Duration = Duration::from_millis(200);
/// A step up pays if it brings at least this part of the gain that it could bring.
const PAYS: f64 = 0.25;
/// Calls that take this many times their best time justify a step down, as an experiment.
const SLOW: f64 = 2.0;
/// A step down is kept if no more than this part of the work is lost.
const LOSS: f64 = 0.05;
/// Steps down are at least this far apart in time.
const CALM: Duration = Duration::from_secs(10);

/// Totals of the calls that ended while the limit did not change.
#[derive(Debug, Clone, Default)]
pub struct Round {
    began: Option<Instant>,
    last: Option<Instant>,
    calls: u32,
    work: u64,
    took: Duration,
}

impl Round {
    /// Counts a call that ended.
    pub fn count(&mut self, now: Instant, took: Duration, work: u64) {
        if self.began.is_none() {
            // The first end begins the round: earlier work was done under another limit.
            self.began = Some(now);
            return;
        }
        self.last = Some(now);
        self.calls += 1;
        self.work = self.work.saturating_add(work.max(1));
        self.took += took;
    }

    /// Whether the round is long enough to judge a limit of so many calls.
    pub fn is_over(&self, limit: u32) -> bool {
        self.calls >= limit.max(LEAST_CALLS) && self.length() >= LEAST_TIME
    }

    fn length(&self) -> Duration {
        self.last.zip(self.began).map_or(Duration::ZERO, |(last, began)| last.saturating_duration_since(began))
    }

    /// Work per second.
    #[expect(clippy::cast_precision_loss, reason = "rates are compared by parts of ten")]
    fn rate(&self) -> f64 {
        self.work as f64 / self.length().as_secs_f64().max(1e-3)
    }

    /// Seconds per unit of work, as a call sees it.
    #[expect(clippy::cast_precision_loss, reason = "times are compared by their multiples")]
    fn pace(&self) -> f64 {
        self.took.as_secs_f64() / self.work.max(1) as f64
    }
}

/// What a round says about the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialVerdict {
    /// The limit is fine.
    Fine,
    /// The last step did not pay; return to this limit.
    TakeBack(u32),
    /// Calls take long; try this limit.
    StepDown(u32),
}

/// A step whose effect is awaited, and the best pace of calls so far.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// The limit before the step, and the work per second under it.
    step: Option<(u32, f64)>,
    best_pace: Option<f64>,
    last_down: Option<Instant>,
}

impl Trial {
    /// Begins a step up from this limit; `round` was the last round under it.
    pub fn begin(&mut self, limit: u32, round: &Round) {
        self.step = Some((limit, round.rate()));
    }

    /// Judges a round under `limit`.
    pub fn judge(&mut self, round: &Round, now: Instant, limit: u32) -> TrialVerdict {
        if let Some((before, rate)) = self.step.take() {
            let gain = round.rate() / rate.max(f64::MIN_POSITIVE) - 1.0;
            let hoped = f64::from(limit) / f64::from(before.max(1)) - 1.0;
            // A step up must bring a gain; a step down must not lose work.
            let keeps = if limit > before { gain >= hoped * PAYS } else { gain >= -LOSS };
            if !keeps {
                return TrialVerdict::TakeBack(before);
            }
        }
        let pace = round.pace();
        let best = self.best_pace.map_or(pace, |best| best.min(pace));
        // The best pace is forgotten slowly: a model that has become slower for good is not
        // queueing.
        self.best_pace = Some(best * 1.005);
        let calm = self.last_down.is_none_or(|last| now.saturating_duration_since(last) >= CALM);
        if pace > best * SLOW && calm && limit > 1 {
            self.last_down = Some(now);
            self.step = Some((limit, round.rate()));
            return TrialVerdict::StepDown((limit - limit / 4).min(limit - 1));
        }
        TrialVerdict::Fine
    }
}
