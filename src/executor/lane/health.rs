//! How the lanes are: which are ready, which wait for a probe, which are avoided, and what the log is
//! told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::member::Member;
use super::provider::ProviderState;
use super::routes::RouteTable;
use super::{Lane, LaneIndex, LaneName, Lanes, servers};
use crate::domain::provider::server_hints::ServerHints;
use crate::domain::row::retry::FailureClass;
use crate::domain::time::Timestamp;

/// A lane rests if no call can start there for longer than this.
const A_WHILE: Duration = Duration::from_secs(2);
/// A lane that has been unhealthy for this long is avoided if there is another.
const AVOIDED_AFTER: Duration = Duration::from_secs(20);

impl Lanes {
    /// When a call to a server of a lane may start; `None` if more than the passing of time is needed.
    pub(super) fn member_ready_at(&self, lane: &Lane, member: usize, now: Instant) -> Option<Instant> {
        let member = lane.members.get(member).filter(|member| member.is_listed)?;
        let pool = self.pools.get(member.pool)?;
        if is_suspended(member, pool, now) {
            return None;
        }
        Some(member.flow.ready_at(now)?.max(pool.ready_at(now)?))
    }

    /// The servers that must answer a probe before a row may find out whether they are well again.
    pub fn suspended(&self, now: Instant) -> Vec<usize> {
        let all = self.lanes.iter().flat_map(|lane| servers(lane, &self.pools));
        all.filter(|(member, pool)| is_suspended(member, pool, now)).map(|(member, _)| member.pool).collect()
    }

    /// Takes the answer to a probe of a server.
    pub fn on_probed(&mut self, pool: usize, answer: Result<u16, (FailureClass, Arc<str>)>, now: Instant, asked: Instant, at: Timestamp) {
        let Some(state) = self.pools.get_mut(pool) else { return };
        let is_reached = state.on_probed(answer, now, asked, at);
        let (unreachable, is_up) = (state.reach().failing_since(), state.is_up());
        self.note_unreachable(pool, unreachable);
        if is_reached {
            self.recover(pool);
        } else if !is_up {
            // No row finds out whether the server is well again.
            for lane in &mut self.lanes {
                for member in lane.members.iter_mut().filter(|member| member.pool == pool) {
                    let was_down = member.flow.is_down();
                    member.flow.on_silence(now);
                    note_circuit(&lane.name, member, was_down, now);
                }
            }
        }
    }

    /// The servers that rows are ready for.
    pub fn wanted(&self) -> impl Iterator<Item = usize> {
        let waiting = self.lanes.iter().filter(|lane| !lane.fair.is_idle() || lane.waits_for_quarantined());
        waiting.flat_map(Lane::listed).map(|member| member.pool)
    }

    /// Takes what a server says about its load, in answer to a question under the given key.
    pub fn on_hints(&mut self, pool: usize, epoch: u32, hints: ServerHints, now: Instant) {
        let Some(state) = self.pools.get_mut(pool) else { return };
        state.end_hints();
        if state.epoch == epoch {
            state.on_hints(now, hints);
            let members = self.lanes.iter_mut().flat_map(|lane| &mut lane.members);
            members.filter(|member| member.pool == pool).for_each(|member| member.flow.on_hints(now, hints));
        }
    }

    /// Lets a row of each held lane find out at once whether its provider takes requests again.
    pub fn try_held(&mut self, now: Instant) {
        self.lanes.iter_mut().flat_map(|lane| &mut lane.members).for_each(|member| member.flow.try_now(now));
    }

    /// Says again in the log which lanes are held while rows wait for them.
    pub fn remind(&mut self, now: Instant) {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.fair.is_idle()) {
            for member in &mut lane.members {
                if member.flow.reminds(now) {
                    note_denials(&lane.name, member, false);
                }
            }
        }
    }

    /// Notes that a server cannot be reached since then, if that is so.
    pub(super) fn note_unreachable(&mut self, pool: usize, since: Option<Instant>) {
        let Some(since) = since else { return };
        let members = self.lanes.iter_mut().flat_map(|lane| &mut lane.members);
        members.filter(|member| member.pool == pool).for_each(|member| member.flow.on_unwell(since));
    }

    /// Notes that a server can be reached again.
    pub(super) fn recover(&mut self, pool: usize) {
        if let Some(state) = self.pools.get_mut(pool) {
            self.restarted.push(state.part_calls());
        }
        let has_it = |lane: &Lane| lane.listed().any(|member| member.pool == pool);
        self.recovered.extend((0..).zip(&self.lanes).filter(|(_, lane)| has_it(lane)).map(|(index, _)| index));
    }

    /// Takes what the calls hold that began before their server was restarted.
    pub fn take_restarted(&mut self) -> Vec<Arc<CancellationToken>> {
        std::mem::take(&mut self.restarted)
    }

    /// Takes the lanes that are well again since the last look.
    pub fn take_recovered(&mut self) -> Vec<LaneIndex> {
        std::mem::take(&mut self.recovered)
    }

    /// The earliest moment at which a lane that waits only for time may go on, at least a
    /// millisecond ahead.
    pub fn next_release(&self, now: Instant) -> Option<Instant> {
        let waiting = self.lanes.iter().filter(|lane| !lane.fair.is_idle() || lane.waits_for_quarantined());
        let ends = waiting.flat_map(|lane| (0..lane.members.len()).filter_map(move |member| self.member_ready_at(lane, member, now)));
        ends.filter(|at| *at > now).min().map(|until| until.max(now + Duration::from_millis(1)))
    }

    /// The lanes that are avoided, in order.
    pub fn avoided(&self, now: Instant) -> Vec<LaneIndex> {
        (0..self.lanes.len()).filter(|lane| self.is_avoided(*lane, now)).collect()
    }

    /// Whether every lane that rows may take by these routes rests: no call can start there for a
    /// while, whatever else happens.
    pub fn all_rest(&self, ways: &RouteTable, now: Instant) -> bool {
        let mut lanes = ways.lanes().peekable();
        lanes.peek().is_some() && lanes.all(|lane| self.rests(lane, now))
    }

    fn rests(&self, index: LaneIndex, now: Instant) -> bool {
        let later = |at: Option<Instant>| at.is_some_and(|at| at > now + A_WHILE);
        self.lanes.get(index).is_some_and(|lane| {
            lane.in_flight() == 0
                && servers(lane, &self.pools).all(|(member, pool)| later(member.flow.ready_at(now)) || later(pool.reach().resting_until()))
        })
    }

    /// Whether every server of a lane has been unhealthy for so long that its rows should go elsewhere.
    pub fn is_avoided(&self, index: LaneIndex, now: Instant) -> bool {
        self.lanes.get(index).is_none_or(|lane| servers(lane, &self.pools).all(|(member, pool)| is_avoided(member, pool, now)))
    }
}

/// Whether a server has been unhealthy for so long that rows should go elsewhere. Once in a while a row
/// is let through all the same, to find out whether it has recovered.
fn is_avoided(member: &Member, pool: &ProviderState, now: Instant) -> bool {
    if member.flow.denials().hold().is_some() && !member.flow.denials().needs_probe(now) {
        return true;
    }
    let breakers = [member.flow.breaker(), pool.reach()];
    let unwell = breakers.into_iter().filter_map(|breaker| Some((breaker.failing_since()?, breaker.needs_probe(now))));
    let long = |since: Instant| now.saturating_duration_since(since) >= AVOIDED_AFTER;
    unwell.clone().any(|(since, _)| long(since)) && !unwell.clone().all(|(_, needs_probe)| needs_probe)
}

/// Whether a server of a lane waits until it has answered a probe.
fn is_suspended(member: &Member, pool: &ProviderState, now: Instant) -> bool {
    member.flow.breaker().needs_probe(now) && pool.provider.can_be_asked() && !pool.has_answered(now)
}

/// Logs that a server of a lane is down, or well again. A circuit that opens and closes between two
/// probes is how a full server is met, and no news.
pub(super) fn note_circuit((provider, model): &LaneName, member: &Member, was_down: bool, now: Instant) {
    let model = model.as_deref();
    match (was_down, member.flow.is_down()) {
        (false, true) => {
            let until = member.flow.breaker().resting_until();
            let cooldown_s = until.map_or(0, |until| until.saturating_duration_since(now).as_secs());
            let said = member.flow.last_said().map(|said| &**said);
            tracing::error!(provider, model, cooldown_s, said, "circuit opened: calls of the lane keep failing");
        }
        (true, false) => tracing::info!(provider, model, "circuit closed"),
        (true, true) | (false, false) => {}
    }
}

/// Logs that a lane is held because its provider refuses every request, or that it no longer is.
pub(super) fn note_denials((provider, model): &LaneName, member: &Member, was_held: bool) {
    let model = model.as_deref();
    match (was_held, member.flow.denials().hold()) {
        (false, Some(hold)) => {
            let (reason, remedy) = (hold.denial.code(), hold.denial.remedy());
            tracing::error!(provider, model, reason, said = &*hold.said, "the lane is held, its rows wait: {remedy}");
        }
        (true, None) => tracing::info!(provider, model, "the lane is no longer held"),
        (true, Some(_)) | (false, None) => {}
    }
}
