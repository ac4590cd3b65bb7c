//! The lanes: one for each offering of the catalog that rows go to, and one for all other models
//! that a provider takes. Each lane has its own flow control, on top of the limits of its provider
//! as a whole, and shares its capacity among the batches that have ready rows for it.

pub mod blame;
pub mod call;
pub mod flow_control;
pub mod in_flight;
pub mod provider;
pub mod route;
pub mod routes;
pub mod status;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::blame::{Judged, LaneTraits};
use self::call::{CallFeedback, CallTicket};
use self::flow_control::FlowControl;
use self::provider::ProviderState;
use super::run::row::ReadyRow;
use crate::catalog::Snapshot;
use crate::domain::batch::priority::Owner;
use crate::domain::id::BatchId;
use crate::domain::provider::connection::{Connection, Limits, ProviderKind};
use crate::domain::provider::server_hints::ServerHints;
use crate::domain::row::retry::FailureClass;
use crate::domain::time::Timestamp;
use crate::flow::FairQueue;
use crate::flow::circuit_breaker::CircuitChange;
use crate::provider::{Dispatch, SetupError};

/// Builds the provider behind a connection; the daemon knows where the keys are.
pub type OpenProvider = Arc<dyn Fn(&Connection) -> Result<Arc<dyn Dispatch>, SetupError> + Send + Sync>;

/// Names a lane: a provider's id and, for an offering of the catalog, the provider's model name.
pub(super) type LaneName = (String, Option<String>);

/// A lane that has been unhealthy for this long is avoided if there is another.
const AVOIDED_AFTER: Duration = Duration::from_secs(20);
/// Consecutive rows of one batch on a lane where rows with the same beginning run next to each
/// other.
const RUN_OF_ALIKE: u32 = 16;

/// One lane.
pub(super) struct Lane {
    pub name: LaneName,
    pub pool: usize,
    pub flow: FlowControl,
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
        if self.flow.in_flight_gauge.in_flight == 0 { self.quarantined.pop_front() } else { None }
    }

    /// Whether the lane must drain before a quarantined row can run.
    pub fn waits_for_quarantined(&self) -> bool {
        !self.quarantined.is_empty()
    }

    /// What a row of so many tokens is charged to its batch's share.
    pub fn cost(&self, tokens: u64) -> u64 {
        if self.flow.counts_tokens() { tokens.max(1) } else { 1 }
    }
}

/// All lanes, by index and by name, and the providers behind them.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    pools: Vec<ProviderState>,
    by_name: HashMap<LaneName, LaneIndex>,
    by_provider: HashMap<String, usize>,
    open: OpenProvider,
    /// The most calls at a time that are tried on a lane without a stated limit.
    most: u32,
    /// Lanes that are well again, and whose rows need not wait any longer.
    recovered: Vec<LaneIndex>,
}

impl Lanes {
    pub fn new(open: OpenProvider, most: u32) -> Self {
        Self {
            lanes: Vec::new(),
            pools: Vec::new(),
            by_name: HashMap::new(),
            by_provider: HashMap::new(),
            open,
            most,
            recovered: Vec::new(),
        }
    }

    /// The lane of a provider's model, opened at first use. Models that the catalog does not know
    /// share one lane: their names come from clients, and there must not be a lane for each name.
    pub fn of(&mut self, provider: &str, upstream: &str, catalog: &Snapshot) -> Option<LaneIndex> {
        let pool = self.pool(provider, catalog)?;
        let known = catalog.offering(provider, upstream).map(|_| upstream.to_owned());
        let name = (provider.to_owned(), known);
        if let Some(index) = self.by_name.get(&name) {
            return Some(*index);
        }
        let by_prefix = catalog.is_local(provider);
        let traits = LaneTraits { is_local: by_prefix, can_be_down: catalog.provider(provider).is_none_or(|provider| provider.is_real()) };
        let flow = FlowControl::new(stated(&name, catalog), self.most, traits);
        self.lanes.push(Lane {
            name: name.clone(),
            pool,
            flow,
            fair: FairQueue::new(),
            by_prefix,
            turn: None,
            quarantined: VecDeque::new(),
        });
        self.by_name.insert(name, self.lanes.len() - 1);
        Some(self.lanes.len() - 1)
    }

    /// The pool of a provider, opened at first use and again when its connection has changed.
    fn pool(&mut self, provider: &str, catalog: &Snapshot) -> Option<usize> {
        let connection = &catalog.provider(provider)?.connection;
        let known = self.by_provider.get(provider).copied();
        if let Some(index) = known.filter(|index| same_way(&self.pools[*index].connection, connection)) {
            return Some(index);
        }
        let opened = match (self.open)(connection) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(provider, %error, "a provider cannot be used");
                return None;
            }
        };
        match known {
            Some(index) if same_place(&self.pools[index].connection, connection) => {
                // What was learnt about the server still holds.
                let pool = &mut self.pools[index];
                (pool.connection, pool.provider) = (connection.clone(), opened);
                Some(index)
            }
            Some(index) => {
                self.pools[index] = self.pools[index].moved(connection.clone(), opened);
                self.lanes.iter_mut().filter(|lane| lane.pool == index).for_each(|lane| lane.flow.reset());
                Some(index)
            }
            None => {
                self.pools.push(ProviderState::new(connection.clone(), opened, catalog.is_local(provider)));
                self.by_provider.insert(provider.to_owned(), self.pools.len() - 1);
                Some(self.pools.len() - 1)
            }
        }
    }

    /// Updates the limits of every lane from a new catalog.
    pub fn refresh(&mut self, catalog: &Snapshot, now: Instant) {
        for pool in &mut self.pools {
            if let Some(provider) = catalog.provider(&pool.connection.id) {
                pool.set_limits(&provider.connection, now);
            }
        }
        for lane in &mut self.lanes {
            lane.flow.set(stated(&lane.name, catalog), now);
            lane.by_prefix = catalog.is_local(&lane.name.0);
        }
    }

    pub fn get(&mut self, index: LaneIndex) -> Option<&mut Lane> {
        self.lanes.get_mut(index)
    }

    /// The provider behind a lane.
    pub fn pool_of(&mut self, index: LaneIndex) -> Option<&mut ProviderState> {
        let pool = self.lanes.get(index)?.pool;
        self.pools.get_mut(pool)
    }

    /// The providers.
    pub fn providers(&self) -> impl Iterator<Item = &ProviderState> {
        self.pools.iter()
    }

    /// The providers, by index.
    pub fn pools(&mut self) -> impl Iterator<Item = (usize, &mut ProviderState)> {
        self.pools.iter_mut().enumerate()
    }

    /// Opens the operator's own servers, so that they are probed.
    pub fn open_local(&mut self, catalog: &Snapshot) {
        let local = catalog.providers().filter(|(provider, ready)| *ready && provider.is_local);
        for id in local.map(|(provider, _)| provider.id().to_owned()).collect::<Vec<_>>() {
            self.pool(&id, catalog);
        }
    }

    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Every lane with its provider.
    pub fn iter(&self) -> impl Iterator<Item = (&Lane, &ProviderState)> {
        self.lanes.iter().filter_map(|lane| Some((lane, self.pools.get(lane.pool)?)))
    }

    /// The name of a lane.
    pub fn name(&self, index: LaneIndex) -> Option<&LaneName> {
        self.lanes.get(index).map(|lane| &lane.name)
    }

    /// Whether a call may start on a lane now.
    pub fn has_room(&self, index: LaneIndex, now: Instant) -> bool {
        self.lanes.get(index).and_then(|lane| self.ready_at(lane, now)).is_some_and(|at| at <= now)
    }

    /// When a call may start on a lane; `None` if more than the passing of time is needed.
    fn ready_at(&self, lane: &Lane, now: Instant) -> Option<Instant> {
        let pool = self.pools.get(lane.pool)?;
        if is_suspended(lane, pool, now) {
            return None;
        }
        Some(lane.flow.ready_at(now)?.max(pool.ready_at(now)?))
    }

    /// The providers that must answer a probe before a row may find out whether a lane of theirs is
    /// well again.
    pub fn suspended(&self, now: Instant) -> Vec<usize> {
        let suspended = self.lanes.iter().filter(|lane| self.pools.get(lane.pool).is_some_and(|pool| is_suspended(lane, pool, now)));
        suspended.map(|lane| lane.pool).collect()
    }

    /// Notes that a call of about so many tokens goes out.
    pub fn start(&mut self, index: LaneIndex, now: Instant, tokens: u64) -> Option<CallTicket> {
        let lane = self.lanes.get_mut(index)?;
        let pool = self.pools.get_mut(lane.pool)?;
        pool.start(now, tokens);
        Some(lane.flow.start(now, tokens, pool.epoch))
    }

    /// Takes back a call that was let out but not made: its share of the limits is returned.
    pub fn refund(&mut self, index: LaneIndex, now: Instant, sent: &CallTicket) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Some(pool) = self.pools.get_mut(lane.pool) else { return };
        pool.refund(now, sent);
        lane.flow.refund(now, sent);
    }

    /// Ends a call; `lesson` is `None` if its end says nothing about the lane. Returns what a failure
    /// costs the row, if it says anything.
    pub fn end(
        &mut self,
        index: LaneIndex,
        now: Instant,
        at: Timestamp,
        sent: &CallTicket,
        lesson: Option<&CallFeedback>,
    ) -> Option<Judged> {
        let lane = self.lanes.get_mut(index)?;
        let pool = self.pools.get_mut(lane.pool)?;
        pool.in_flight_gauge.end(now, sent.tokens, lesson.and_then(|lesson| lesson.tokens));
        // The outcome of a call to an earlier address says nothing about the current one.
        let lesson = lesson.filter(|_| pool.epoch == sent.epoch);
        let was_down = lane.flow.is_down();
        let judged = lane.flow.end(now, sent, lesson, pool.is_up());
        let is_reached = pool.learn(lesson.map(CallFeedback::class), now, sent.at, at);
        if judged.circuit == CircuitChange::Recovered {
            self.recovered.push(index);
        }
        note_circuit(lane, was_down, now);
        if is_reached {
            let pool = lane.pool;
            self.recover(pool);
        }
        lesson.map(|_| judged)
    }

    /// Takes the answer to a probe of a provider.
    pub fn on_probed(&mut self, pool: usize, answer: Result<u16, FailureClass>, now: Instant, asked: Instant, at: Timestamp) {
        let Some(state) = self.pools.get_mut(pool) else { return };
        if state.on_probed(answer, now, asked, at) {
            self.recover(pool);
        } else if !state.is_up() {
            // No row finds out whether the provider's lanes are well again.
            for lane in self.lanes.iter_mut().filter(|lane| lane.pool == pool) {
                let was_down = lane.flow.is_down();
                lane.flow.on_silence(now);
                note_circuit(lane, was_down, now);
            }
        }
    }

    /// Takes what a server says about its load, in answer to a question to the given address.
    pub fn on_hints(&mut self, pool: usize, epoch: u32, hints: ServerHints, now: Instant) {
        let Some(state) = self.pools.get_mut(pool) else { return };
        state.end_hints();
        if state.epoch == epoch {
            self.lanes.iter_mut().filter(|lane| lane.pool == pool).for_each(|lane| lane.flow.on_hints(now, hints));
        }
    }

    fn recover(&mut self, pool: usize) {
        self.recovered.extend((0..).zip(&self.lanes).filter(|(_, lane)| lane.pool == pool).map(|(index, _)| index));
    }

    /// Takes the lanes that are well again since the last look.
    pub fn take_recovered(&mut self) -> Vec<LaneIndex> {
        std::mem::take(&mut self.recovered)
    }

    /// The earliest moment at which a lane that waits only for time may go on, at least a
    /// millisecond ahead.
    pub fn next_release(&self, now: Instant) -> Option<Instant> {
        let waiting = self.lanes.iter().filter(|lane| !lane.fair.is_idle() || lane.waits_for_quarantined());
        let ends = waiting.filter_map(|lane| self.ready_at(lane, now)).filter(|at| *at > now);
        ends.min().map(|until| until.max(now + Duration::from_millis(1)))
    }

    /// Takes the quarantined rows, or those of one batch.
    pub fn take_quarantined(&mut self, only: Option<BatchId>) -> Vec<(BatchId, ReadyRow)> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            let (these, others) =
                std::mem::take(&mut lane.quarantined).into_iter().partition(|(batch, _)| only.is_none_or(|only| only == *batch));
            lane.quarantined = others;
            taken.extend(these);
        }
        taken
    }

    /// Removes a batch that has ended from a lane.
    pub fn forget(&mut self, index: LaneIndex, batch: BatchId) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.fair.forget(batch);
        }
    }

    /// The lanes that are avoided, in order.
    pub fn avoided(&self, now: Instant) -> Vec<LaneIndex> {
        (0..self.lanes.len()).filter(|lane| self.is_avoided(*lane, now)).collect()
    }

    /// How long a lane would take for so many rows at its present pace; `None` while the pace is
    /// unknown.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn time_for(&self, index: LaneIndex, rows: u64, now: Instant) -> Option<Duration> {
        let rate = self.lanes.get(index)?.flow.rate(now);
        if rate > 0.0 { Duration::try_from_secs_f64(rows as f64 / rate).ok() } else { None }
    }

    /// Changes the weight of a batch.
    pub fn weigh(&mut self, index: LaneIndex, batch: BatchId, weight: u32) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.fair.weigh(batch, weight);
        }
    }

    /// Whether a lane has been unhealthy for so long that its rows should go elsewhere. Once in a
    /// while a row is let through all the same, to find out whether the lane has recovered.
    pub fn is_avoided(&self, index: LaneIndex, now: Instant) -> bool {
        let Some(lane) = self.lanes.get(index) else { return true };
        let breakers = [Some(lane.flow.breaker()), self.pools.get(lane.pool).map(ProviderState::reach)];
        let unwell = breakers.into_iter().flatten().filter_map(|breaker| Some((breaker.failing_since()?, breaker.needs_probe(now))));
        let long = |since: Instant| now.saturating_duration_since(since) >= AVOIDED_AFTER;
        unwell.clone().any(|(since, _)| long(since)) && !unwell.clone().all(|(_, needs_probe)| needs_probe)
    }
}

/// Logs that a lane is down, or well again. A circuit that opens and closes between two probes is
/// how a full server is met, and no news.
fn note_circuit(lane: &Lane, was_down: bool, now: Instant) {
    let (provider, model) = (&lane.name.0, lane.name.1.as_deref());
    match (was_down, lane.flow.is_down()) {
        (false, true) => {
            let cooldown_s = lane.flow.breaker().resting_until().map_or(0, |until| until.saturating_duration_since(now).as_secs());
            tracing::error!(provider, model, cooldown_s, "circuit opened: calls of the lane keep failing");
        }
        (true, false) => tracing::info!(provider, model, "circuit closed"),
        (true, true) | (false, false) => {}
    }
}

/// Whether a lane waits until its provider has answered a probe.
fn is_suspended(lane: &Lane, pool: &ProviderState, now: Instant) -> bool {
    lane.flow.breaker().needs_probe(now) && pool.provider.can_be_asked() && !pool.has_answered(now)
}

/// The limits that the catalog states for a lane: no more calls at a time than its provider takes
/// as a whole.
fn stated((provider, upstream): &LaneName, catalog: &Snapshot) -> Limits {
    let offering = upstream.as_ref().and_then(|upstream| catalog.offering(provider, upstream));
    let own = offering.map_or_else(Limits::default, |offering| offering.limits);
    let of_provider = catalog.provider(provider).and_then(|provider| provider.connection.limits.in_flight);
    Limits { in_flight: own.in_flight.or(of_provider), ..own }
}

/// Whether two connections differ at most in their limits.
fn same_way(a: &Connection, b: &Connection) -> bool {
    a.kind == b.kind && a.key == b.key
}

/// Whether two connections lead to the same server under the same key.
fn same_place(a: &Connection, b: &Connection) -> bool {
    let urls = match (&a.kind, &b.kind) {
        (ProviderKind::Server(a), ProviderKind::Server(b)) => (&a.base_url, a.api) == (&b.base_url, b.api),
        (ProviderKind::Simulated { .. }, ProviderKind::Simulated { .. }) => true,
        (ProviderKind::Server(_), ProviderKind::Simulated { .. }) | (ProviderKind::Simulated { .. }, ProviderKind::Server(_)) => false,
    };
    urls && a.key == b.key
}

/// Index of a lane in the dispatcher's table.
pub type LaneIndex = usize;
