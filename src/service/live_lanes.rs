//! The state of the lanes at one moment, as quotes and the live part of the catalog read it.

use crate::domain::provider::lane_hold::LaneHold;
use crate::domain::time::Timestamp;
use crate::executor::LaneStatuses;

/// The lanes at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Live<'a> {
    pub board: &'a LaneStatuses,
    /// Kept besides the board, which only knows lanes that have received rows.
    pub holds: &'a [LaneHold],
    pub now: Timestamp,
}
