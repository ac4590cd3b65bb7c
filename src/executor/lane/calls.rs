//! Calls of the lanes: which server a row goes to, that it goes out, and what its end means.
use tokio::time::Instant;

use super::blame::{Judged, Pick};
use super::call::{CallFeedback, CallTicket, Doubts, Place, RowSoFar};
use super::health::{note_circuit, note_denials};
use super::member::{Member, least_busy, owner};
use super::provider::CallMeans;
use super::{Lane, LaneIndex, Lanes};
use crate::domain::time::Timestamp;
use crate::flow::circuit_breaker::CircuitChange;

/// What may go out on a lane now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The server that has room.
    pub server: usize,
    /// Which of a batch's ready rows goes out.
    pub pick: Pick,
    /// The server takes its own rows first: those that begin like rows that it had before.
    pub has_own: bool,
}

impl Lanes {
    /// What may go out on a lane now; `None` if nothing may.
    pub fn slot(&self, index: LaneIndex, now: Instant) -> Option<Slot> {
        let lane = self.lanes.get(index)?;
        let (members, has_room) = (|| lane.members.iter().enumerate(), |member| self.has_room(lane, member, now));
        // A server that may be well again gets a row soon: otherwise it would never be found out.
        let tried = members().find(|(server, member)| member.flow.pick(now) == Pick::Probe && has_room(*server));
        if let Some((server, _)) = tried {
            return Some(Slot { server, pick: Pick::Probe, has_own: false });
        }
        let server = least_busy(members().filter(|(server, _)| has_room(*server)))?;
        Some(Slot { server, pick: lane.pick(now), has_own: lane.by_prefix && well(lane, now).nth(1).is_some() })
    }

    /// Whether rows of this family are the slot's server's own.
    pub fn is_own(&self, index: LaneIndex, slot: Slot, family: u64, now: Instant) -> bool {
        self.lanes.get(index).and_then(|lane| owner(well(lane, now), family)) == Some(slot.server)
    }

    fn has_room(&self, lane: &Lane, member: usize, now: Instant) -> bool {
        self.member_ready_at(lane, member, now).is_some_and(|at| at <= now)
    }

    /// The provider behind a server of a lane, opened again if its key may have changed, and what its calls
    /// hold.
    pub fn provider_of(&mut self, index: LaneIndex, member: usize, now: Instant) -> Option<CallMeans> {
        let member = self.lanes.get(index)?.members.get(member)?;
        let pool = self.pools.get_mut(member.pool)?;
        if member.flow.denials().needs_probe(now) {
            match (self.open)(&pool.connection) {
                Ok(provider) => pool.provider = provider,
                Err(error) => tracing::error!(provider = pool.connection.id, %error, "a provider cannot be used"),
            }
        }
        Some(CallMeans { provider: pool.provider.clone(), restarted: pool.calls() })
    }

    /// Notes that a call of about so many tokens goes out to a server.
    pub fn start(&mut self, index: LaneIndex, member: usize, now: Instant, tokens: u64) -> Option<CallTicket> {
        let flow = self.lanes.get_mut(index)?.members.get_mut(member)?;
        let pool = self.pools.get_mut(flow.pool)?;
        pool.start(now, tokens);
        Some(CallTicket { member, ..flow.flow.start(now, tokens, pool.epoch) })
    }

    /// Takes back a call that was let out but not made: its share of the limits is returned.
    pub fn refund(&mut self, index: LaneIndex, now: Instant, sent: &CallTicket) {
        let Some(member) = self.lanes.get_mut(index).and_then(|lane| lane.members.get_mut(sent.member)) else { return };
        let Some(pool) = self.pools.get_mut(member.pool) else { return };
        pool.refund(now, sent);
        member.flow.refund(now, sent);
    }

    /// Ends a call; `lesson` is `None` if its end says nothing about the lane. Returns what a failure
    /// costs the row, if it says anything.
    pub fn end(
        &mut self,
        index: LaneIndex,
        now: Instant,
        at: Timestamp,
        sent: &CallTicket,
        lesson: Option<CallFeedback>,
    ) -> Option<Judged> {
        let lane = self.lanes.get_mut(index)?;
        let place = Place::new(index, sent.member);
        let pool = self.pools.get_mut(lane.members.get(sent.member)?.pool)?;
        pool.in_flight_gauge.end(now, sent.tokens, lesson.as_ref().and_then(|lesson| lesson.tokens));
        // The outcome of a call under an earlier key says nothing about the current one.
        let lesson = lesson.filter(|_| pool.epoch == sent.epoch);
        let row = at_server(lane, lesson.as_ref().map(|lesson| lesson.row.get()).unwrap_or_default(), place);
        let member = lane.members.get_mut(sent.member)?;
        let (was_down, was_held) = (member.flow.is_down(), member.flow.denials().hold().is_some());
        let judged = member.flow.end(now, sent, lesson.as_ref(), &row, pool.is_up());
        if lesson.as_ref().is_some_and(CallFeedback::is_answer) {
            lane.successes = lane.successes.wrapping_add(1);
        }
        let is_reached = pool.learn(lesson.as_ref(), now, sent.at, at);
        if judged.circuit == CircuitChange::Recovered {
            self.recovered.push(index);
        }
        note_circuit(&lane.name, member, was_down, now);
        note_denials(&lane.name, member, was_held);
        let (pool, unreachable) = (member.pool, pool.reach().failing_since());
        if is_reached {
            self.recover(pool);
        }
        self.note_unreachable(pool, unreachable);
        lesson.map(|_| Judged { row: RowSoFar { place, ..judged.row }, ..judged })
    }
}

/// What a row has met, as far as it bears on this server: nothing of what it met on another lane, where
/// it may have gone while its own was down. A success of any server of the lane dispels the doubts. What
/// is open from another of them is judged there, and says nothing here.
fn at_server(lane: &mut Lane, row: RowSoFar, place: Place) -> RowSoFar {
    let no_doubts = Doubts { successes: lane.successes, ..Doubts::default() };
    if row.place.lane != place.lane {
        return RowSoFar { place, doubts: no_doubts, ..RowSoFar::default() };
    }
    let doubts = if row.doubts.successes == lane.successes { row.doubts } else { no_doubts };
    if row.place.member == place.member {
        return RowSoFar { doubts, ..row };
    }
    let before = usize::try_from(row.place.member).ok().and_then(|member| lane.members.get_mut(member));
    let tally = before.map_or(row.tally, |member| member.flow.settle(&row));
    RowSoFar { tally, doubts, place, open: None }
}

/// The servers of a lane that get rows as usual, by index.
fn well(lane: &Lane, now: Instant) -> impl Iterator<Item = (usize, &Member)> {
    lane.members.iter().enumerate().filter(move |(_, member)| member.is_listed && member.flow.pick(now) != Pick::Probe)
}
