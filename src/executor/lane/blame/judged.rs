//! What a judge is told of its lane beforehand, and what it says of calls and rows.

use std::time::Duration;

use crate::executor::lane::call::RowSoFar;
use crate::flow::circuit_breaker::CircuitChange;

/// What the end of a call means for its row and its lane.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    pub row: RowSoFar,
    /// The row waits for so long in any case.
    pub at_least: Duration,
    pub circuit: CircuitChange,
    /// The failure may come from too many calls at a time.
    pub may_be_full: bool,
    /// The failure is the row's result.
    pub is_final: bool,
    /// The row need not wait longer each time: it seems to have been refused for lack of room, or the
    /// circuit is open and decides when the next call goes out.
    pub is_hurried: bool,
}

impl Default for Judged {
    fn default() -> Self {
        Self {
            row: RowSoFar::default(),
            at_least: Duration::ZERO,
            circuit: CircuitChange::None,
            may_be_full: false,
            is_final: false,
            is_hurried: false,
        }
    }
}

/// What is known of a lane's provider beforehand.
#[derive(Debug, Clone, Copy)]
pub struct LaneTraits {
    /// A server of the operator's own.
    pub is_local: bool,
    /// The lane takes the rows of several models.
    pub is_shared: bool,
    /// Denials in a row after which the lane is held.
    pub hold_after: u32,
    /// Whether the provider can be down at all; the simulated one is a part of the program.
    pub can_be_down: bool,
}

/// What is known of the lane when a call fails, beside the call.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    /// Nothing else shows that the provider is down.
    pub is_up: bool,
    /// How long an answer takes; `None` before the first.
    pub latency: Option<Duration>,
}

/// Which of a batch's ready rows goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The next one.
    Next,
    /// Any: the lane was not well a moment ago, and the rows that stand first may be the cause.
    Any,
    /// Any that was never tried, to find out whether the lane is well: rows that cannot be answered
    /// often stand together.
    Probe,
}
