//! One call on a lane, from the outside: what is recorded when it goes out, how it ended, and what
//! its row had met before.

use std::sync::Arc;

use tokio::time::Instant;

use super::LaneIndex;
use crate::domain::provider::rate_limits::RateLimitStatus;
use crate::domain::row::retry::{FailureClass, RetryPolicy, Tally};

/// What is recorded about a call when it goes out.
#[derive(Debug, Clone, Copy)]
pub struct CallTicket {
    pub at: Instant,
    /// About how many tokens the call would take.
    pub tokens: u64,
    /// Which server of the lane the call went to.
    pub member: usize,
    /// Under which key of the server the call was made.
    pub epoch: u32,
    /// Calls in flight at that time, this one included.
    pub in_flight: u32,
    /// All calls and tokens that had gone out by then.
    pub total: (u64, u64),
}

/// How a call ended, as far as its end says anything about its lane.
#[derive(Debug, Clone, Default)]
pub struct CallFeedback {
    pub failure: Option<CallFailure>,
    /// Tokens read and written, if the provider reported them.
    pub tokens: Option<u64>,
    /// How much the server had to do for the answer, in tokens read, if it reported them.
    pub work: Option<u64>,
    pub allowances: Option<Box<RateLimitStatus>>,
    /// What the provider said, or why there was no answer, if the call failed.
    pub said: Option<Arc<str>>,
    /// Stands for the model and the endpoint that were asked.
    pub asked: u64,
    /// What the row had met on the lane before.
    pub row: Met,
}

/// A call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFailure {
    pub class: FailureClass,
    /// Stands for what was answered: the same for equal answers.
    pub mark: u32,
    /// Stands for the row that was answered so.
    pub row: u32,
}

impl CallFeedback {
    /// Whether the call shows that its lane is well. A refusal of the request is an answer, too.
    pub const fn is_answer(&self) -> bool {
        match self.failure {
            None => true,
            Some(CallFailure { class, .. }) => {
                matches!(class, FailureClass::Refused { .. } | FailureClass::EventStream | FailureClass::ResponseTooLarge)
            }
        }
    }

    /// The class of the failure, if the call failed.
    pub fn class(&self) -> Option<FailureClass> {
        self.failure.map(|failure| failure.class)
    }
}

/// A failure that is charged later, if calls that went out no earlier succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFailure {
    pub sent: Instant,
    /// Calls in flight when the call went out, itself included.
    pub in_flight: u32,
    /// Outages of the lane before that.
    pub outages: u32,
    pub failure: CallFailure,
    /// The row had failed before.
    pub retried: bool,
}

/// Charges that hold until a call of the lane succeeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubts {
    pub count: u32,
    /// How many calls of the lane had succeeded; wraps around.
    pub successes: u32,
    /// No further one before that.
    pub next: Option<Instant>,
}

/// What a row has met on its lane so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSoFar {
    pub tally: Tally,
    pub open: Option<OpenFailure>,
    pub doubts: Doubts,
    pub place: Place,
}

/// [`RowSoFar`] in eight bytes for the rows that have met nothing, as nearly all have: it moves with
/// each row from place to place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Met(Option<Box<RowSoFar>>);

impl Met {
    /// What the row has met.
    pub fn get(&self) -> RowSoFar {
        self.0.as_deref().copied().unwrap_or_default()
    }

    /// Tries of the row so far.
    pub fn tries(&self) -> u32 {
        self.0.as_ref().map_or(0, |row| row.tally.tries)
    }

    /// Whether the row may be what breaks the connections of this lane.
    pub fn is_suspect_on(&self, lane: LaneIndex) -> bool {
        self.0.as_ref().is_some_and(|row| row.is_suspect_on(lane))
    }
}

impl From<RowSoFar> for Met {
    fn from(row: RowSoFar) -> Self {
        Self((row != RowSoFar::default()).then(|| Box::new(row)))
    }
}

/// A server of a lane. Small, because each waiting row has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// What a row has met is about this lane: a row that takes another one begins anew.
    pub lane: u32,
    /// The open failure is about this server of it.
    pub member: u32,
}

impl Place {
    /// A server of a lane, by their indices.
    pub fn new(lane: LaneIndex, member: usize) -> Self {
        let [lane, member] = [lane, member].map(|index| u32::try_from(index).unwrap_or(u32::MAX));
        Self { lane, member }
    }
}

impl RowSoFar {
    /// Whether the row may be what breaks the connections of this lane; what it met on another one says
    /// nothing here.
    pub fn is_suspect_on(&self, lane: LaneIndex) -> bool {
        self.place.lane == Place::new(lane, 0).lane && self.tally.is_suspect()
    }

    /// Whether the row has used up its attempts.
    pub const fn is_used_up(&self, policy: &RetryPolicy) -> bool {
        self.tally.charged() + self.doubts.count >= policy.max_attempts
    }
}
