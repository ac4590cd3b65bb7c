//! What is going on in the lanes at one moment: what a quote and the live part of the catalog look at.

use crate::domain::provider::lane_hold::LaneHold;
use crate::domain::time::Timestamp;
use crate::executor::LaneStatuses;

/// The lanes at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Live<'a> {
    pub board: &'a LaneStatuses,
    /// Beside the board, which knows of lanes only that rows have gone to.
    pub holds: &'a [LaneHold],
    pub now: Timestamp,
}
