//! A step of the search: its direction, its size, the experiment that tries it, and what was done
//! since.

use tokio::time::Instant;

use super::Sample;

/// The direction of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

use Direction::{Down, Up};

impl Direction {
    pub const fn other(self) -> Self {
        match self {
            Up => Down,
            Down => Up,
        }
    }
}

/// What is known of one direction.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// A number of calls that is no better than the present one.
    pub bound: Option<u32>,
    /// The next step where no bound is known, as a logarithm.
    pub step: f64,
}

/// An experiment.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    pub before: Sample,
    pub direction: Direction,
    pub began: Instant,
    /// Begun because the server seemed to have changed.
    pub is_reaction: bool,
}

/// Calls that ended since a moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recent {
    pub since: Option<Instant>,
    pub calls: u32,
    pub work: u64,
}

impl Recent {
    pub fn since(now: Instant) -> Self {
        Self { since: Some(now), ..Self::default() }
    }

    pub fn count(&mut self, now: Instant, work: u64) {
        if self.since.is_none() {
            self.since = Some(now);
            return;
        }
        self.calls = self.calls.saturating_add(1);
        self.work = self.work.saturating_add(work);
    }
}

/// The number of calls one step away from `level`; the step is a logarithm.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds of a number of calls")]
pub fn shifted(level: u32, direction: Direction, step: f64) -> u32 {
    let exact = f64::from(level);
    match direction {
        Up => ((exact * step.exp()).round() as u32).max(level + 1),
        Down => ((exact * (-step).exp()).round() as u32).min(level.saturating_sub(1)).max(1),
    }
}
