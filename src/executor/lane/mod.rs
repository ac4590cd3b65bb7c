//! The lanes: one for each offering of the catalog that rows go to, and one for all other models
//! that a provider takes. A lane shares its capacity among the batches that have ready rows for it.
//! Its provider has one server or several; each has its own flow control, on top of the limits of
//! the server as a whole.

pub mod addresses;
pub mod blame;
pub mod call;
pub mod calls;
pub mod denials;
pub mod flow_control;
mod health;
pub mod in_flight;
mod inquiry;
pub mod member;
pub mod provider;
pub mod route;
pub mod routes;
pub mod server_queue;
pub mod status;
mod table;
pub mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use self::blame::Pick;
use self::member::Member;
use self::provider::ProviderState;
pub(super) use self::table::Lanes;
use super::run::row::ReadyRow;
use crate::domain::batch::priority::Owner;
use crate::domain::id::BatchId;
use crate::domain::provider::connection::Connection;
use crate::flow::FairQueue;
use crate::provider::{Dispatch, SetupError};

/// Builds the provider behind a connection to one server; the daemon knows where the keys are.
pub type OpenProvider = Arc<dyn Fn(&Connection) -> Result<Arc<dyn Dispatch>, SetupError> + Send + Sync>;

/// Names a lane: a provider's id and, for an offering of the catalog, the provider's model name.
pub(super) type LaneName = (String, Option<String>);

/// Index of a lane in the dispatcher's table.
pub type LaneIndex = usize;

/// Consecutive rows of one batch on a lane where rows with the same beginning run next to each
/// other.
const RUN_OF_ALIKE: u32 = 16;

/// One lane.
pub(super) struct Lane {
    pub name: LaneName,
    /// The servers, and those that were servers of its provider: calls may still be in flight there.
    pub members: Vec<Member>,
    /// Calls that were answered, on any of them; wraps around.
    pub successes: u32,
    /// Batches with ready rows.
    pub fair: FairQueue<BatchId, Owner>,
    /// Rows with the same beginning run next to each other, for the server's prefix cache.
    pub by_prefix: bool,
    /// On a lane by prefix: the batch whose turn it is, and how many more rows the turn has.
    turn: Option<(BatchId, u32)>,
    /// Rows that must run with no other row beside them; meanwhile no other row starts.
    pub quarantined: VecDeque<(BatchId, ReadyRow)>,
}

impl Lane {
    fn new(name: LaneName, by_prefix: bool) -> Self {
        Self { name, members: Vec::new(), successes: 0, fair: FairQueue::new(), by_prefix, turn: None, quarantined: VecDeque::new() }
    }

    /// The batch whose row is next.
    pub fn next(&mut self) -> Option<BatchId> {
        if let Some((batch, left)) = self.turn.take()
            && left > 0
            && self.fair.is_ready(batch)
        {
            self.turn = Some((batch, left - 1));
            return Some(batch);
        }
        let first = self.fair.first()?;
        if self.by_prefix {
            self.turn = Some((first, RUN_OF_ALIKE - 1));
        }
        Some(first)
    }

    /// The next quarantined row, if the lane is empty.
    pub fn next_quarantined(&mut self) -> Option<(BatchId, ReadyRow)> {
        if self.in_flight() == 0 { self.quarantined.pop_front() } else { None }
    }

    /// Whether the lane must drain before a quarantined row can run.
    pub fn waits_for_quarantined(&self) -> bool {
        !self.quarantined.is_empty()
    }

    /// What a row of so many tokens is charged to its batch's share.
    pub fn cost(&self, tokens: u64) -> u64 {
        if self.listed().any(|member| member.flow.counts_tokens()) { tokens.max(1) } else { 1 }
    }

    /// Calls in flight, at servers that are no longer listed, too.
    pub fn in_flight(&self) -> u32 {
        self.members.iter().map(Member::in_flight).sum()
    }

    /// The servers that the lane has now.
    pub fn listed(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.iter().filter(|member| member.is_listed)
    }

    /// In which order rows go out.
    pub fn pick(&self, now: Instant) -> Pick {
        let mut picks = self.listed().map(|member| member.flow.pick(now));
        if picks.any(|pick| pick == Pick::Any) { Pick::Any } else { Pick::Next }
    }
}

/// The listed servers of a lane, each with what is known of it on all lanes.
fn servers<'a>(lane: &'a Lane, pools: &'a [ProviderState]) -> impl Iterator<Item = (&'a Member, &'a ProviderState)> + Clone {
    lane.listed().filter_map(|member| Some((member, pools.get(member.pool)?)))
}
