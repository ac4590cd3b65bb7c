//! Why the rows of running batches wait, as the dispatcher publishes it once a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::member::Member;
use super::route::Closed;
use super::{LaneIndex, Lanes};
use crate::domain::batch::waiting::{WaitReason, Waiting};
use crate::domain::provider::lane_hold::Hold;
use crate::domain::time::{Clock, Timestamp, later, until};
use crate::executor::lane::provider::ProviderState;
use crate::executor::run::{Run, RunPlace};

/// Why a lane makes no call at the moment, although rows may wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneWait {
    pub reason: WaitReason,
    pub since: Option<Timestamp>,
    pub said: Option<Arc<str>>,
}

/// The largest difference between the two clocks that is left as it is.
const DRIFT: Duration = Duration::from_secs(2);

/// Converts moments for display: the same moment always to the same time, unless the wall clock is
/// set.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    now: Instant,
    wall: Timestamp,
}

impl Moments {
    pub fn new(clock: &Clock) -> Self {
        Self { now: Instant::now(), wall: clock.now() }
    }

    /// Follows the wall clock if it was set, or ran on while the machine slept.
    pub fn follow(&mut self, clock: &Clock) {
        let fresh = Self::new(clock);
        let expected = later(self.wall, fresh.now.saturating_duration_since(self.now));
        if until(expected, fresh.wall).max(until(fresh.wall, expected)) > DRIFT {
            *self = fresh;
        }
    }

    /// A moment in whole seconds: the precision that is shown, and coarse enough to change rarely.
    fn at(&self, moment: Instant) -> Option<Timestamp> {
        let wall = match moment.checked_duration_since(self.now) {
            Some(after) => later(self.wall, after),
            None => self.wall.checked_sub(jiff::SignedDuration::try_from(self.now - moment).ok()?).ok()?,
        };
        Timestamp::from_second(wall.as_second()).ok()
    }
}

/// Why a lane makes no call, by its servers: why the first one makes none. `None` if any server takes
/// calls, or would.
pub fn of_all(mut waits: impl Iterator<Item = Option<LaneWait>>) -> Option<LaneWait> {
    let first = waits.next()??;
    waits.all(|wait| wait.is_some()).then_some(first)
}

/// Why a server of a lane gets no call.
pub fn of_server(member: &Member, pool: &ProviderState, moments: Moments, now: Instant) -> Option<LaneWait> {
    let flow = &member.flow;
    let said = || flow.last_said().cloned();
    if let Some(hold) = flow.denials().hold() {
        return Some(LaneWait { reason: WaitReason::Denied(hold.denial), since: moments.at(hold.since), said: Some(hold.said.clone()) });
    }
    if let Some(since) = pool.reach().failing_since() {
        return Some(LaneWait { reason: WaitReason::Unreachable, since: moments.at(since), said: pool.failure().cloned() });
    }
    if flow.is_down() {
        let since = flow.breaker().failing_since().and_then(|since| moments.at(since));
        return Some(LaneWait { reason: WaitReason::Failing, since, said: said() });
    }
    if let Some(since) = pool.full_since(now) {
        return Some(LaneWait { reason: WaitReason::ServerBusy, since: moments.at(since), said: None });
    }
    let since = flow.paused_since(now)?;
    Some(LaneWait { reason: WaitReason::RateLimited, since: moments.at(since), said: said() })
}

/// Why rows of a run wait, by lane; empty if none does.
pub fn of_run(run: &Run, lanes: &Lanes, disk_is_full: bool, moments: Moments, now: Instant) -> Vec<Waiting> {
    let mut waiting: Vec<Waiting> = Vec::new();
    if run.stop.is_some() || run.control.paused {
        return waiting;
    }
    let whole = |reason| Waiting { lane: None, reason, since: None, rows: run.unfinished(), said: None };
    if disk_is_full {
        waiting.push(whole(WaitReason::DiskFull));
    }
    if run.place == RunPlace::Queued {
        waiting.push(whole(WaitReason::Queued));
    }
    for (route, rows) in run.by_model().filter(|(_, rows)| *rows > 0) {
        let Some(route) = route else { continue };
        let (lane, wait) = match (route.lane, route.closed) {
            (Some(index), _) => (lanes.title(index), lanes.wait_of(index, moments, now)),
            (None, closed) => (Some(route.name.clone()), Some(of_closed(closed))),
        };
        let Some(LaneWait { reason, since, said }) = wait else { continue };
        match waiting.iter_mut().find(|known| known.lane == lane && known.reason == reason) {
            Some(known) => known.rows += rows,
            None => waiting.push(Waiting { lane, reason, since, rows, said }),
        }
    }
    waiting
}

const fn of_closed(closed: Option<Closed>) -> LaneWait {
    let reason = match closed {
        Some(Closed::Held(Hold::Paused)) => WaitReason::Paused,
        Some(Closed::Held(Hold::Drained)) => WaitReason::Drained,
        Some(Closed::NotServed) | None => WaitReason::NoProvider,
    };
    LaneWait { reason, since: None, said: None }
}

impl Lanes {
    /// Why a lane makes no call.
    fn wait_of(&self, index: LaneIndex, moments: Moments, now: Instant) -> Option<LaneWait> {
        of_all(self.servers_of(self.lanes.get(index)?).map(|(member, pool)| of_server(member, pool, moments, now)))
    }

    /// The name of a lane for a person.
    fn title(&self, index: LaneIndex) -> Option<Arc<str>> {
        let (provider, upstream) = self.name(index)?;
        Some(upstream.as_ref().map_or_else(|| provider.as_str().into(), |upstream| format!("{provider}/{upstream}").into()))
    }
}
