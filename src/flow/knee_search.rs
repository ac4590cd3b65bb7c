//! Looks for the number of calls in flight at which a server does the most work: its knee.
//!
//! One experiment at a time: another number of calls is tried, and kept if it pays. A step up must
//! bring work done, a step down must not lose more than it saves in calls, so a step of any size
//! pays by one rule: work / calls^worth must grow. An experiment lasts until its outcome is
//! clear beyond chance: a doubling that helps is clear after a round, a few percent take many.
//! Doublings come first; between a number that is too low and one that is too high, the search
//! halves. Then it rests, for so long that its experiments cost little, and looks again in both
//! directions, in small steps that grow while they pay. A change of the server ends the rest.
//!
//! Pure. It proposes numbers; the caller has the bounds.

mod step;

use std::time::Duration;

use tokio::time::Instant;

use self::step::Direction::{self, Down, Up};
use self::step::{Experiment, Recent, Side, shifted};
use super::goodput::{Sample, early_gain, gain};

/// A doubling of the calls in flight has to bring `2^WORTH - 1`, 5 %, more work.
const WORTH: f64 = 0.07;
/// Where somebody has stated a number: fewer calls have to bring more work.
const STATED_WORTH: f64 = -0.05;
/// The fewest calls that say anything.
const LEAST_CALLS: f64 = 8.0;
/// A shorter time says more about the clock than about the server.
const LEAST_TIME: Duration = Duration::from_millis(100);
/// The longest time before calls are counted after a step.
const LONGEST_LEAD: Duration = Duration::from_secs(10);
/// An outcome is clear beyond this many standard deviations.
const CLEAR: f64 = 2.0;
/// Rounds after which an experiment ends even if its outcome is not clear.
const LONGEST: f64 = 6.0;
/// The part of the greatest possible gain with which a step up is kept at first sight.
const AT_ONCE: f64 = 0.75;
/// The smallest step that is kept at first sight, as a logarithm.
const AT_LEAST: f64 = 0.6;
/// The part of it with which the next step is larger.
const STEEP: f64 = 0.4;
/// The largest and the smallest step, as logarithms, and the one of an experiment after a rest.
const DOUBLE: f64 = std::f64::consts::LN_2;
const LEAST_STEP: f64 = 0.09;
const SHY_STEP: f64 = 0.14;
/// The factor by which a step grows when it has paid, or did not show whether it pays.
const BOLDER: f64 = 1.8;
/// The shortest and the longest rest, and the least of it in lengths of an experiment.
const SHORTEST_REST: Duration = Duration::from_secs(4);
const LONGEST_REST: Duration = Duration::from_secs(20);
const REST: u32 = 5;
/// The longest rest after an experiment that took long.
const LONGEST_REST_OF_SLOW: Duration = Duration::from_secs(300);
/// A step down is tried after so many rests.
const SELDOM: u32 = 3;
/// Calls that show what a server does after it has changed.
const ENOUGH: u32 = 12;
/// A sample at rest is renewed when it is this old.
const STALE: Duration = Duration::from_secs(5);
/// The change of the work done that shows another server, as a logarithm.
const CHANGED: f64 = 0.2;
/// For how long a server's word about its load counts.
const HINT_HOLDS: Duration = Duration::from_secs(10);
/// Looks at what is known while as many calls end as are in flight: one more call tells little, and
/// a look costs more than counting it.
const LOOKS: u32 = 16;
/// Calls that take this many times their best time wait for each other.
const WAITING: f64 = 1.8;

/// The search for one server.
#[derive(Debug, Clone)]
pub struct KneeSearch {
    worth: f64,
    now: Sample,
    experiment: Option<Experiment>,
    /// The sample before, at the same number of calls.
    earlier: Option<Sample>,
    /// What was done since the experiment began or since the last look, in the sample or not.
    recent: Recent,
    /// Much less is done than before; what is done now will be known a moment later.
    has_changed: bool,
    /// Rests so far in which no step down was tried.
    since_down: u32,
    up: Side,
    down: Side,
    /// Where the next experiment goes.
    direction: Direction,
    rest: Duration,
    /// Neither direction paid.
    resting_until: Option<Instant>,
    /// The fewest seconds per unit of work.
    best_pace: Option<f64>,
    /// Calls that wait in the server, as it said, and when.
    waiting: Option<(Instant, u32)>,
    /// How long the calls that are in flight take, by the slowest lately.
    turnover: Duration,
    /// Calls that ended since the last look.
    unseen: u32,
}

impl KneeSearch {
    /// A search that begins with so many calls in flight; `is_stated` if somebody has said that these
    /// are right, and the most that there may be.
    pub fn new(level: u32, is_stated: bool) -> Self {
        Self {
            worth: if is_stated { STATED_WORTH } else { WORTH },
            now: Sample::new(level, Duration::ZERO),
            experiment: None,
            earlier: None,
            recent: Recent::default(),
            has_changed: false,
            since_down: 0,
            up: Side { bound: None, step: DOUBLE },
            down: Side { bound: None, step: if is_stated { SHY_STEP } else { DOUBLE / 2.0 } },
            direction: if is_stated { Down } else { Up },
            rest: SHORTEST_REST,
            resting_until: None,
            best_pace: None,
            waiting: None,
            turnover: Duration::ZERO,
            unseen: 0,
        }
    }

    /// A search around a number of calls that the server itself has named.
    pub fn near(level: u32) -> Self {
        let mut search = Self::new(level, false);
        search.up.step = DOUBLE / 2.0;
        search
    }

    /// Notes how many calls wait in the server; `None` if it does not say.
    pub fn on_waiting(&mut self, now: Instant, waiting: Option<u32>) {
        self.waiting = waiting.map(|waiting| (now, waiting));
    }

    /// Calls that wait in the server, if they are more than a few of those in flight.
    fn surplus(&self, now: Instant) -> u32 {
        let fresh = self.waiting.filter(|(at, _)| now.saturating_duration_since(*at) < HINT_HOLDS);
        fresh.map_or(0, |(_, waiting)| waiting).min(self.now.level.saturating_sub(1)).saturating_sub(self.now.level / 8)
    }

    /// Fewer calls are in flight than there may be, for want of rows or because a step up was a moment
    /// ago. Returns the number of calls to be in flight from now on, if it is to change.
    pub fn on_unused(&mut self) -> Option<u32> {
        if self.experiment.is_some() && !self.now.is_under_way() {
            return None;
        }
        let back = self.experiment.map(|experiment| experiment.before.level);
        self.interrupt(back.unwrap_or(self.now.level));
        back
    }

    /// Another number of calls is in flight, for reasons other than the search: measures anew.
    pub fn interrupt(&mut self, level: u32) {
        self.experiment = None;
        self.earlier = None;
        self.has_changed = false;
        self.recent = Recent::default();
        let now = self.now;
        self.now = Sample::new(level, self.lead(&now, level));
    }

    /// Counts a call that ended. Returns the number of calls to be in flight from now on, if it is to
    /// change; `most` is the largest that may be tried.
    pub fn on_success(&mut self, now: Instant, in_flight: u32, took: Duration, work: u64, most: u32) -> Option<u32> {
        self.now.count(now, in_flight, took, work);
        self.recent.count(now, work);
        self.unseen += 1;
        if self.unseen < self.now.level / LOOKS {
            return None;
        }
        self.unseen = 0;
        match self.experiment {
            Some(experiment) => self.judge(now, &experiment, most),
            None => self.look(now, most),
        }
    }

    /// Whether far less was done since the last look than the rate of `known` promises.
    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    fn has_collapsed(&self, now: Instant, known: &Sample, stretch: f64) -> bool {
        let Some(since) = self.recent.since else { return false };
        let elapsed = now.saturating_duration_since(since).as_secs_f64();
        let turnover = self.turnover.max(known.turnover().unwrap_or_default()).as_secs_f64() * stretch;
        let calls = known.call_rate() * elapsed;
        elapsed >= (4.0 * turnover).max(0.5)
            && calls >= 20.0
            && known.length().as_secs_f64() >= turnover / stretch
            && (self.recent.work as f64) < 0.4 * known.rate() * elapsed
    }

    /// Judges the experiment.
    fn judge(&mut self, now: Instant, experiment: &Experiment, most: u32) -> Option<u32> {
        let Experiment { before, direction, .. } = experiment;
        let size = (f64::from(self.now.level) / f64::from(before.level)).ln();
        if *direction == Up && self.has_collapsed(now, before, size.exp()) {
            return Some(self.take_back(now, experiment, true));
        }
        if *direction == Up
            && let Some((gain, variance)) = early_gain(before, &self.now)
        {
            let clear = CLEAR * variance.sqrt() / 2.0;
            if size > AT_LEAST && gain - clear > AT_ONCE * size {
                self.now = self.now.with_early();
                self.keep(experiment, true);
                return self.look(now, most);
            }
            if gain + clear < -STEEP * size {
                return Some(self.take_back(now, experiment, true));
            }
        }
        if !self.is_enough() {
            return None;
        }
        let (gain, variance) = gain(before, &self.now);
        let worth = gain - self.worth * size;
        let clear = CLEAR * variance.sqrt();
        let is_over = self.now.rounds() >= LONGEST || self.now.length() >= LONGEST_LEAD * 2;
        if worth > clear || (is_over && worth > 0.0) {
            self.keep(experiment, gain.abs() > STEEP * size.abs());
            None
        } else if worth < -clear || is_over {
            Some(self.take_back(now, experiment, worth < -clear))
        } else {
            None
        }
    }

    fn is_enough(&self) -> bool {
        self.now.calls() >= LEAST_CALLS.max(f64::from(self.now.level)) && self.now.length() >= LEAST_TIME
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Up => &mut self.up,
            Down => &mut self.down,
        }
    }

    fn keep(&mut self, experiment: &Experiment, is_steep: bool) {
        let Experiment { before, direction, .. } = experiment;
        self.experiment = None;
        self.earlier = None;
        self.recent = Recent::default();
        self.side(direction.other()).bound = Some(before.level);
        let side = self.side(*direction);
        if is_steep {
            side.step = (side.step * BOLDER).min(DOUBLE);
        }
        self.rest = SHORTEST_REST;
        self.resting_until = None;
        if experiment.is_reaction {
            // It was compared with a bad moment, which may have been others' use of the machine.
            self.up = Side { bound: None, step: DOUBLE };
            self.direction = Up;
        }
    }

    fn take_back(&mut self, now: Instant, experiment: &Experiment, is_clear: bool) -> u32 {
        let Experiment { before, direction, began, .. } = experiment;
        let level = self.now.level;
        self.experiment = None;
        self.earlier = Some(*before);
        self.recent = Recent::default();
        let side = self.side(*direction);
        side.bound = Some(level);
        side.step = if is_clear { SHY_STEP } else { (side.step * BOLDER).min(if *direction == Up { DOUBLE } else { DOUBLE / 2.0 }) };
        self.direction = direction.other();
        if *direction == Down
            && let Some(pace) = before.pace()
        {
            // Calls take longer than they once did, and not because they wait for each other.
            self.best_pace = self.best_pace.map(|best| best.max(pace / WAITING));
        }
        self.rest = self.rest.max((now.saturating_duration_since(*began) * REST).min(LONGEST_REST_OF_SLOW));
        self.now = Sample::new(before.level, self.lead(before, before.level));
        before.level
    }

    /// Looks whether an experiment is due.
    fn look(&mut self, now: Instant, most: u32) -> Option<u32> {
        if self.has_changed {
            return self.go_down(now);
        }
        if self.earlier.is_some_and(|earlier| self.has_collapsed(now, &earlier, 1.0)) {
            (self.has_changed, self.recent) = (true, Recent::since(now));
            return None;
        }
        if !self.is_enough() {
            return None;
        }
        if let Some(pace) = self.now.pace() {
            self.best_pace = Some(self.best_pace.map_or(pace, |best| best.min(pace)));
        }
        if let Some(earlier) = self.earlier {
            let (gain, variance) = gain(&earlier, &self.now);
            if gain.abs() > CHANGED && gain.abs() > 3.0 * variance.sqrt() {
                if gain < 0.0 {
                    (self.has_changed, self.recent) = (true, Recent::since(now));
                    return None;
                }
                self.note_change(Up);
            }
        }
        if self.resting_until.is_some_and(|until| now < until) {
            if self.now.length() >= STALE && self.now.rounds() >= 4.0 {
                self.earlier = Some(self.now);
                self.best_pace = self.best_pace.map(|best| best * 1.005);
                self.recent = Recent::since(now);
                self.now = self.now.renewed();
            }
            return None;
        }
        if self.resting_until.take().is_some() {
            self.up.bound = None;
            self.direction = Up;
            // A step down is tried less often: calls that wait for each other show that it may pay.
            self.since_down += 1;
            if self.since_down >= SELDOM || self.excess(self.now.pace()) > 0.0 {
                self.since_down = 0;
                self.down.bound = None;
            }
        }
        for direction in [self.direction, self.direction.other()] {
            if let Some(to) = self.target(now, direction, most) {
                return self.begin(now, self.now, to, direction);
            }
        }
        self.resting_until = Some(now + self.rest);
        self.rest = (self.rest + self.rest / 2).min(self.rest.max(LONGEST_REST));
        None
    }

    /// Goes down after the server has changed, as soon as it is known what it does now.
    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    fn go_down(&mut self, now: Instant) -> Option<u32> {
        let Recent { since, calls, work } = self.recent;
        let since = since.unwrap_or(now);
        let elapsed = now.saturating_duration_since(since);
        if calls < ENOUGH || elapsed < LEAST_TIME {
            return None;
        }
        let level = self.now.level;
        let before = Sample::of_work(level, since, now, calls, work);
        // By Little's law: calls that have not ended are not forgotten.
        let pace = f64::from(level) * elapsed.as_secs_f64() / (work.max(1) as f64);
        self.note_change(Down);
        let to = self.begin(now, before, shifted(level, Down, self.excess(Some(pace)).max(DOUBLE)), Down);
        if let Some(experiment) = &mut self.experiment {
            experiment.is_reaction = true;
        }
        to
    }

    /// The server is another than it was.
    fn note_change(&mut self, direction: Direction) {
        self.direction = direction;
        (self.up.bound, self.down.bound) = (None, None);
        self.side(direction).step = DOUBLE;
        self.rest = SHORTEST_REST;
        self.resting_until = None;
        self.earlier = None;
        self.has_changed = false;
    }

    /// The number of calls to try next in a direction, if there is one.
    fn target(&mut self, now: Instant, direction: Direction, most: u32) -> Option<u32> {
        let level = self.now.level;
        match (self.surplus(now), direction) {
            (0, _) => {}
            // More calls would only wait.
            (_, Up) => return None,
            (surplus, Down) => return Some(level - surplus).filter(|to| self.down.bound.is_none_or(|bound| *to > bound)),
        }
        let excess = if direction == Down { self.excess(self.now.pace()) } else { 0.0 };
        let side = *self.side(direction);
        let step = match side.bound {
            None => side.step.max(excess),
            // Halfway between a number that is known to be worse and the present one.
            Some(bound) => {
                let half = (f64::from(bound) / f64::from(level)).ln().abs() / 2.0;
                if half < LEAST_STEP {
                    return None;
                }
                half
            }
        };
        let to = shifted(level, direction, step).min(most.max(level));
        (to != level && Some(to) != side.bound).then_some(to)
    }

    /// How far the calls in flight may be beyond the knee, as a logarithm, by the times of calls.
    fn excess(&self, pace: Option<f64>) -> f64 {
        let slower = pace.zip(self.best_pace).map_or(1.0, |(pace, best)| pace / best);
        if slower > WAITING { (slower / 1.4).ln().clamp(LEAST_STEP, DOUBLE * 3.0) } else { 0.0 }
    }

    fn begin(&mut self, now: Instant, before: Sample, to: u32, direction: Direction) -> Option<u32> {
        self.experiment = Some(Experiment { before, direction, began: now, is_reaction: false });
        self.recent = Recent::since(now);
        let lead = self.lead(&before, to);
        self.now = Sample::new(to, lead);
        self.turnover = self.turnover.mul_f64(0.9);
        Some(to)
    }

    /// How long calls may still be due that went out beside others.
    fn lead(&mut self, before: &Sample, level: u32) -> Duration {
        self.turnover = self.turnover.max(before.turnover().unwrap_or_default());
        self.turnover.mul_f64((f64::from(level) / f64::from(before.level.max(1))).min(1.0)).min(LONGEST_LEAD)
    }
}
