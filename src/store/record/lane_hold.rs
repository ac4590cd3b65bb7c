//! Holds on lanes on disk, version 1.

use serde::{Deserialize, Serialize};

use super::{Record, moment, timestamp};
use crate::domain::provider::lane_hold::{Hold, LaneHold, LaneSelector};
use crate::store::record::error::RecordError;

/// Version 1 of a hold. It names its lane, because the key holds only a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    provider: String,
    upstream: Option<String>,
    drained: bool,
    since: i64,
}

impl Record for HoldRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "hold on a lane";
}

impl From<&LaneHold> for HoldRecord {
    fn from(held: &LaneHold) -> Self {
        let LaneSelector { provider, upstream } = held.lane.clone();
        let drained = match held.hold {
            Hold::Paused => false,
            Hold::Drained => true,
        };
        Self { provider, upstream, drained, since: moment(held.since) }
    }
}

impl TryFrom<HoldRecord> for LaneHold {
    type Error = RecordError;

    fn try_from(record: HoldRecord) -> Result<Self, RecordError> {
        let lane = LaneSelector { provider: record.provider, upstream: record.upstream };
        let hold = if record.drained { Hold::Drained } else { Hold::Paused };
        Ok(Self { lane, hold, since: timestamp::<HoldRecord>(record.since)? })
    }
}
