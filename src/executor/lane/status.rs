//! What the lanes are doing, for display: published by the dispatcher about once a second, and
//! readable by any task at any time.
//!
//! Nothing here is stored; a restart begins with empty statuses. Queue lengths are exact for
//! batches of one model. Rows of a batch with several models are divided among its models as in the
//! input.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::member::Member;
use super::provider::ProviderState;
use super::waiting::{self, LaneWait, Moments};
use super::{Lane, Lanes};
use crate::domain::batch::waiting::Waiting;
use crate::domain::id::{BatchId, OrgId};
use crate::domain::time::{Clock, Timestamp, later};
use crate::executor::run::Run;

/// What a lane is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneReport {
    /// Unfinished rows, including those in flight.
    pub queued_rows: u64,
    /// About how many input tokens these rows have.
    pub queued_tokens: u64,
    pub load: LaneLoad,
    /// Each server by its address, which is scheme, host, port and path, if its provider has several.
    pub servers: Vec<(String, LaneLoad)>,
}

/// The calls of a lane, or those to one of its servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneLoad {
    /// Calls in flight.
    pub in_flight: u32,
    /// Calls that there may be in flight at present, as far as known; `None` without a bound.
    pub allowed: Option<u32>,
    /// Requests a minute that are kept to at present, stated or found out; `None` without a
    /// bound.
    pub per_minute: Option<u64>,
    /// Milliseconds that the last answers took, rounded to two digits; `None` before the first.
    pub latency_ms: Option<u64>,
    /// No call until then: the provider asked for a pause, or calls kept failing.
    pub resting_until: Option<Timestamp>,
    /// When the provider last answered anything.
    pub last_answer: Option<Timestamp>,
    /// No connection can be made.
    pub unreachable: bool,
    /// Why no call is made, if none is.
    pub wait: Option<LaneWait>,
}

/// All lanes at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneStatuses {
    /// Grows whenever a field below has changed.
    pub generation: u64,
    /// The daemon is stopping and dispatches no more rows.
    pub draining: bool,
    /// Rows that got the answer of another row, since the start.
    pub shared_rows: u64,
    /// By provider, and by the provider's name for the model.
    lanes: HashMap<String, HashMap<Option<String>, LaneReport>>,
    /// When each provider last answered, and whether it is unreachable.
    providers: HashMap<String, (Option<Timestamp>, bool)>,
    /// Why rows wait, by batch; without those whose rows do not.
    waiting: HashMap<BatchId, Vec<Waiting>>,
    /// Calls in flight of each organisation but the operator's.
    calls: HashMap<OrgId, u32>,
}

impl LaneStatuses {
    /// The lane of a provider's model, whether or not rows have ever gone there.
    pub fn lane(&self, provider: &str, upstream: &str) -> LaneReport {
        let (last_answer, unreachable) = self.providers.get(provider).copied().unwrap_or_default();
        let known = self.lanes.get(provider).and_then(|lanes| lanes.get(&Some(upstream.to_owned()))).cloned().unwrap_or_default();
        LaneReport { load: LaneLoad { last_answer, unreachable, ..known.load }, ..known }
    }

    /// Every lane that rows have gone to: the provider, its name for the model if the catalog knows
    /// the model, and what the lane is doing.
    pub fn lanes(&self) -> impl Iterator<Item = (&str, Option<&str>, LaneReport)> {
        self.lanes.iter().flat_map(|(provider, lanes)| {
            lanes.iter().map(move |(upstream, report)| (provider.as_str(), upstream.as_deref(), report.clone()))
        })
    }

    /// Calls in flight of an organisation; 0 for the operator's own, which are not counted.
    pub fn calls_of(&self, org: OrgId) -> u32 {
        self.calls.get(&org).copied().unwrap_or(0)
    }

    /// Why rows wait, of all batches.
    pub fn all_waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values().flatten()
    }

    /// Why rows of a batch wait; empty if none does.
    pub fn waiting(&self, batch: BatchId) -> &[Waiting] {
        self.waiting.get(&batch).map_or(&[], Vec::as_slice)
    }
}

/// Whole seconds: the precision that is shown, and coarse enough to change rarely.
fn in_seconds(at: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(at.as_second()).ok()
}

/// The calls to one server of a lane.
fn load_of(member: &Member, pool: &ProviderState, clock: &Clock, moments: Moments, now: Instant) -> LaneLoad {
    let at = |until: Instant| in_seconds(later(clock.now(), until.saturating_duration_since(now)));
    LaneLoad {
        in_flight: member.in_flight(),
        allowed: [member.flow.allowed(), pool.allowed(now)].into_iter().flatten().min(),
        per_minute: member.flow.per_minute(),
        latency_ms: member.flow.latency().map(in_two_digits),
        resting_until: member.flow.resting_until(now).and_then(at),
        last_answer: pool.last_answer.and_then(in_seconds),
        unreachable: pool.is_unreachable(),
        wait: waiting::of_server(member, pool, moments, now),
    }
}

/// The report of a lane from its servers: sums where numbers add up, and of the rest what holds for all
/// of them.
fn report_of(lane: &Lane, lanes: &Lanes, clock: &Clock, moments: Moments, now: Instant) -> LaneReport {
    let servers: Vec<_> =
        lanes.servers_of(lane).map(|(member, pool)| (pool.address(), load_of(member, pool, clock, moments, now))).collect();
    let loads = || servers.iter().map(|(_, load)| load);
    let sum = |value: fn(&LaneLoad) -> Option<u64>| loads().map(value).sum::<Option<u64>>();
    let latencies: Vec<_> = loads().filter_map(|load| load.latency_ms).collect();
    let load = LaneLoad {
        in_flight: lane.in_flight(),
        allowed: sum(|load| load.allowed.map(u64::from)).and_then(|sum| u32::try_from(sum).ok()),
        per_minute: sum(|load| load.per_minute),
        latency_ms: latencies.iter().sum::<u64>().checked_div(latencies.len() as u64),
        resting_until: loads().map(|load| load.resting_until).min().flatten(),
        last_answer: loads().filter_map(|load| load.last_answer).max(),
        unreachable: loads().all(|load| load.unreachable),
        wait: waiting::of_all(loads().map(|load| load.wait.clone())),
    };
    LaneReport { load, servers: if servers.len() > 1 { servers } else { Vec::new() }, ..LaneReport::default() }
}

/// Whole milliseconds, rounded to two digits: as exact as the latency itself is, and rarely
/// changing.
fn in_two_digits(latency: Duration) -> u64 {
    let millis = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    let unit = 10_u64.pow(millis.checked_ilog10().unwrap_or(0).saturating_sub(1));
    millis / unit * unit
}

/// What holds for all lanes.
#[derive(Debug, Clone)]
pub(in crate::executor) struct Whole {
    /// Calls in flight of each organisation that has any.
    pub calls: HashMap<OrgId, u32>,
    pub draining: bool,
    /// Rows that got the answer of another row, since the start.
    pub shared_rows: u64,
    pub disk_is_full: bool,
    pub moments: Moments,
}

/// The shared place where the statuses are published.
pub type SharedLaneStatuses = Arc<ArcSwap<LaneStatuses>>;

/// Publishes what the lanes are doing, if it differs from before.
pub(in crate::executor) fn publish(
    wall: &SharedLaneStatuses,
    lanes: &Lanes,
    runs: &FxHashMap<BatchId, Run>,
    clock: &Clock,
    Whole { calls, draining, shared_rows, disk_is_full, moments }: Whole,
) {
    let now = Instant::now();
    let mut board = LaneStatuses { draining, shared_rows, calls, ..LaneStatuses::default() };
    for (provider, (last_answer, unreachable)) in lanes.providers() {
        board.providers.insert(provider.to_owned(), (last_answer.and_then(in_seconds), unreachable));
    }
    for lane in lanes.iter() {
        let report = report_of(lane, lanes, clock, moments, now);
        board.lanes.entry(lane.name.0.clone()).or_default().insert(lane.name.1.clone(), report);
    }
    for (id, run) in runs {
        let waiting = waiting::of_run(run, lanes, disk_is_full, moments, now);
        if !waiting.is_empty() {
            board.waiting.insert(*id, waiting);
        }
        for (index, rows, tokens) in run.backlog() {
            let Some(report) = lanes.name(index).and_then(|(provider, upstream)| board.lanes.get_mut(provider)?.get_mut(upstream)) else {
                continue;
            };
            report.queued_rows = report.queued_rows.saturating_add(rows);
            report.queued_tokens = report.queued_tokens.saturating_add(tokens);
        }
    }
    let before = wall.load();
    board.generation = before.generation;
    if board != **before {
        board.generation += 1;
        wall.store(Arc::new(board));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_shown_as_exactly_as_it_is_known() {
        let shown = [0, 7, 42, 789, 1_234, 98_765].map(|millis| in_two_digits(Duration::from_millis(millis)));
        assert_eq!(shown, [0, 7, 42, 780, 1_200, 98_000]);
    }
}
