//! The current capacity of an offering: the live part of the catalog.

use crate::catalog::{Capacity, Offer};
use crate::domain::provider::connection::Limits;
use crate::domain::provider::lane_hold::{Hold, hold_on};
use crate::domain::time::{Timestamp, later};
use crate::executor::LaneReport;
use crate::quote;
use crate::service::live_lanes::Live;

/// How long a provider counts as reachable after an answer, in seconds. This is the value that a
/// supplier of BatchRouter declared for its heartbeat.
pub const HEARTBEAT_SECONDS: u64 = 120;

/// The part of an offering's supply that is known from the catalog; the rest is live.
#[derive(Debug, Clone)]
pub struct Supply {
    provider: String,
    upstream: String,
    takes_work: bool,
    capacity: Capacity,
    /// The stated rate limits of the offering and of its provider.
    limits: [Limits; 2],
}

/// The capacity of a lane at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneCapacity {
    pub status: CapacityStatus,
    /// Rows and tokens that still fit into the lane's queue.
    pub room: (u64, u64),
    pub freshness: Freshness,
    pub last_answer: Option<Timestamp>,
    /// When this capacity changes if nothing else happens.
    pub good_until: Option<Timestamp>,
}

/// Whether a lane takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapacityStatus {
    Active,
    /// The daemon is stopping.
    Draining,
    /// An operator holds the lane, in the catalog or since.
    Paused,
}

/// How certain it is that a lane can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The lane has answered within [`HEARTBEAT_SECONDS`].
    Fresh,
    /// The lane is not called now: it cannot be reached, or rests.
    Stale,
    /// The lane has not been called lately; rows are still routed to it.
    Unknown,
}

/// The state of an offering's lane at one moment.
struct LaneState {
    /// The lane is neither paused nor drained, in the catalog or since.
    takes_work: bool,
    /// Rows and tokens that still fit into the lane's queue.
    room: (u64, u64),
    /// The lane is not called now: it cannot be reached, or rests.
    silent: bool,
    resting_until: Option<Timestamp>,
    last_answer: Option<Timestamp>,
}

impl Supply {
    /// The supply of an offering, as far as the catalog knows it.
    pub fn of(offer: &Offer<'_>) -> Self {
        Self {
            provider: offer.provider.id().to_owned(),
            upstream: offer.offering.upstream.clone(),
            takes_work: offer.takes_work(),
            capacity: offer.offering.capacity,
            limits: [offer.offering.limits, offer.provider.connection.limits],
        }
    }

    /// The supply of a provider for a model that the provider does not list.
    pub fn of_any(provider: &str, upstream: &str, limits: Limits) -> Self {
        let (provider, upstream, limits) = (provider.to_owned(), upstream.to_owned(), [limits; 2]);
        Self { provider, upstream, takes_work: true, capacity: Capacity::default(), limits }
    }

    fn now(&self, live: &Live<'_>) -> LaneState {
        let (report, hold) = self.look(live);
        self.state(&report, hold, live.now)
    }

    fn look(&self, live: &Live<'_>) -> (LaneReport, Option<Hold>) {
        (live.board.lane(&self.provider, &self.upstream), hold_on(live.holds, &self.provider, Some(&self.upstream)))
    }

    /// Rows and tokens that fit into the queue besides those that already wait there.
    fn room(&self, report: &LaneReport) -> (u64, u64) {
        let Capacity { queue_items, queue_tokens } = self.capacity;
        (queue_items.saturating_sub(report.queued_rows), queue_tokens.saturating_sub(report.queued_tokens))
    }

    fn state(&self, report: &LaneReport, hold: Option<Hold>, now: Timestamp) -> LaneState {
        let takes_work = self.takes_work && hold.is_none();
        let room = if takes_work { self.room(report) } else { (0, 0) };
        let resting_until = report.load.resting_until.filter(|until| now < *until);
        LaneState {
            takes_work,
            room,
            silent: report.load.unreachable || resting_until.is_some(),
            resting_until,
            last_answer: report.load.last_answer,
        }
    }

    /// The supply as a quote needs it, and whether an operator holds the lane.
    pub fn for_quote(&self, live: &Live<'_>) -> (quote::Supply, bool) {
        let (report, hold) = self.look(live);
        let (room_rows, room_tokens) = self.room(&report);
        let LaneState { silent, .. } = self.state(&report, hold, live.now);
        // The board only knows the rates of lanes that have received rows.
        let stated = self.limits.iter().filter_map(|limits| limits.requests_per_minute.map(u64::from));
        let supply = quote::Supply {
            room_rows,
            room_tokens,
            silent,
            queued_rows: report.queued_rows,
            queued_tokens: report.queued_tokens,
            per_minute: stated.chain(report.load.per_minute).min(),
            latency_ms: report.load.latency_ms,
            tokens_per_minute: self.limits.iter().filter_map(|limits| limits.tokens_per_minute).min(),
        };
        (supply, hold.is_some())
    }

    /// Whether rows can be routed to the lane right now.
    pub fn is_available(&self, live: &Live<'_>) -> bool {
        let LaneState { takes_work, room, silent, .. } = self.now(live);
        takes_work && !live.board.draining && !silent && room.0 > 0 && room.1 > 0
    }

    /// The capacity of the lane now.
    pub fn capacity(&self, live: &Live<'_>) -> LaneCapacity {
        let LaneState { takes_work, room, silent, resting_until, last_answer } = self.now(live);
        let status = match (takes_work, live.board.draining) {
            (false, _) => CapacityStatus::Paused,
            (true, true) => CapacityStatus::Draining,
            (true, false) => CapacityStatus::Active,
        };
        let fresh_until = last_answer.map(|at| later(at, std::time::Duration::from_secs(HEARTBEAT_SECONDS)));
        let fresh = fresh_until.filter(|until| live.now < *until);
        let freshness = match (silent, fresh) {
            (true, _) => Freshness::Stale,
            (false, Some(_)) => Freshness::Fresh,
            (false, None) => Freshness::Unknown,
        };
        LaneCapacity { status, room, freshness, last_answer, good_until: [fresh, resting_until].into_iter().flatten().min() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::LaneLoad;

    #[test]
    fn what_is_held_or_rests_is_not_routed_to() {
        let capacity = Capacity { queue_items: 10, queue_tokens: 100 };
        let supply = Supply { provider: "p".into(), upstream: "u".into(), takes_work: true, capacity, limits: Default::default() };
        let at = |second| Timestamp::from_second(second).unwrap();
        let report = LaneReport {
            queued_rows: 4,
            queued_tokens: 120,
            load: LaneLoad { resting_until: Some(at(100)), ..LaneLoad::default() },
            ..LaneReport::default()
        };
        let resting = supply.state(&report, None, at(99));
        assert_eq!((resting.takes_work, resting.silent, resting.resting_until, resting.room), (true, true, Some(at(100)), (6, 0)));
        let rested = supply.state(&report, None, at(100));
        assert_eq!((rested.takes_work, rested.silent, rested.resting_until), (true, false, None));
        for hold in [Hold::Paused, Hold::Drained] {
            let held = supply.state(&LaneReport::default(), Some(hold), at(0));
            assert_eq!((held.takes_work, held.silent, held.room), (false, false, (0, 0)));
        }
    }
}
