//! The lanes: one for each offering of the catalog that rows go to, and one for whatever else a
//! provider takes. Each has its own stated limits, on top of those of its provider, and the batches
//! that have ready rows for it, in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::gauge::Gauge;
use super::pool::Pool;
use super::run::LaneIndex;
use crate::catalog::Snapshot;
use crate::domain::connection::{Connection, Limits, ProviderKind};
use crate::domain::id::BatchId;
use crate::provider::{Dispatch, SetupError};

/// Builds the provider behind a connection; the daemon knows where keys are.
pub type OpenProvider = Arc<dyn Fn(&Connection) -> Result<Arc<dyn Dispatch>, SetupError> + Send + Sync>;

/// Which lane: a provider's id and, for an offering of the catalog, the provider's name for the model.
pub(super) type LaneName = (String, Option<String>);

/// One lane.
pub(super) struct Lane {
    pub name: LaneName,
    pool: usize,
    /// Stated for the offering itself.
    limits: Limits,
    gauge: Gauge,
    /// Batches with ready rows; the first one is next. A batch is in it at most once.
    pub rotation: VecDeque<BatchId>,
}

impl Lane {
    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.gauge.in_flight
    }

    fn ready_at(&self, now: Instant) -> Option<Instant> {
        let full = self.limits.in_flight.is_some_and(|most| self.gauge.in_flight >= most);
        if full { None } else { Some(self.gauge.paced_until(now)) }
    }
}

/// All lanes, by index and by name, and the providers behind them.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    pools: Vec<Pool>,
    by_name: HashMap<LaneName, LaneIndex>,
    by_provider: HashMap<String, usize>,
    open: OpenProvider,
}

impl Lanes {
    pub fn new(open: OpenProvider) -> Self {
        Self { lanes: Vec::new(), pools: Vec::new(), by_name: HashMap::new(), by_provider: HashMap::new(), open }
    }

    /// The lane of a provider's model, opened at first use. Models that the catalog does not know
    /// share one: their names come from clients, and there must not be a lane for each.
    pub fn of(&mut self, provider: &str, upstream: &str, catalog: &Snapshot) -> Option<LaneIndex> {
        let pool = self.pool(provider, catalog)?;
        let known = catalog.offering(provider, upstream).map(|_| upstream.to_owned());
        let name = (provider.to_owned(), known);
        if let Some(index) = self.by_name.get(&name) {
            return Some(*index);
        }
        let limits = stated(&name, catalog);
        let gauge = Gauge::new(limits);
        self.lanes.push(Lane { name: name.clone(), pool, limits, gauge, rotation: VecDeque::new() });
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
                // What was learnt about the server goes on to hold.
                let pool = &mut self.pools[index];
                (pool.connection, pool.provider) = (connection.clone(), opened);
                Some(index)
            }
            Some(index) => {
                self.pools[index] = self.pools[index].moved(connection.clone(), opened);
                Some(index)
            }
            None => {
                self.pools.push(Pool::new(connection.clone(), opened));
                self.by_provider.insert(provider.to_owned(), self.pools.len() - 1);
                Some(self.pools.len() - 1)
            }
        }
    }

    /// Takes the limits of every lane from a new catalog.
    pub fn refresh(&mut self, catalog: &Snapshot, now: Instant) {
        for pool in &mut self.pools {
            if let Some(provider) = catalog.provider(&pool.connection.id) {
                pool.set_limits(&provider.connection, now);
            }
        }
        for lane in &mut self.lanes {
            lane.limits = stated(&lane.name, catalog);
            lane.gauge.set(lane.limits, now);
        }
    }

    pub fn get(&mut self, index: LaneIndex) -> Option<&mut Lane> {
        self.lanes.get_mut(index)
    }

    /// The provider behind a lane.
    pub fn pool_of(&mut self, index: LaneIndex) -> Option<&mut Pool> {
        let pool = self.lanes.get(index)?.pool;
        self.pools.get_mut(pool)
    }

    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Every lane with its provider.
    pub fn iter(&self) -> impl Iterator<Item = (&Lane, &Pool)> {
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

    /// When a call may start on a lane; `None` if that is not a question of time alone.
    fn ready_at(&self, lane: &Lane, now: Instant) -> Option<Instant> {
        Some(lane.ready_at(now)?.max(self.pools.get(lane.pool)?.ready_at(now)?))
    }

    /// A call goes out that will take about so many tokens. Returns the address that it goes to, as
    /// [`Pool::epoch`].
    pub fn start(&mut self, index: LaneIndex, now: Instant, tokens: u64) -> u32 {
        let Some(lane) = self.lanes.get_mut(index) else { return 0 };
        lane.gauge.start(now, tokens);
        let pool = &mut self.pools[lane.pool];
        pool.gauge.start(now, tokens);
        pool.epoch
    }

    /// It has ended; `truly` is how many tokens it took, if that is known.
    pub fn end(&mut self, index: LaneIndex, now: Instant, said: u64, truly: Option<u64>) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        lane.gauge.end(now, said, truly);
        self.pools[lane.pool].gauge.end(now, said, truly);
    }

    /// The earliest moment at which a lane that waits for nothing but the time may go on, and none
    /// closer than a millisecond.
    pub fn next_release(&self, now: Instant) -> Option<Instant> {
        let waiting = self.lanes.iter().filter(|lane| !lane.rotation.is_empty());
        let ends = waiting.filter_map(|lane| self.ready_at(lane, now)).filter(|at| *at > now);
        ends.min().map(|until| until.max(now + std::time::Duration::from_millis(1)))
    }
}

/// What the catalog says of a lane itself.
fn stated((provider, upstream): &LaneName, catalog: &Snapshot) -> Limits {
    let offering = upstream.as_ref().and_then(|upstream| catalog.offering(provider, upstream));
    offering.map_or_else(Limits::default, |offering| offering.limits)
}

/// Whether two connections are the same but for their limits.
fn same_way(a: &Connection, b: &Connection) -> bool {
    a.kind == b.kind && a.key == b.key
}

/// Whether two connections lead to the same server under the same key.
fn same_place(a: &Connection, b: &Connection) -> bool {
    let urls = match (&a.kind, &b.kind) {
        (ProviderKind::OpenAi(a), ProviderKind::OpenAi(b)) => a.base_url == b.base_url,
        (ProviderKind::Simulated { .. }, ProviderKind::Simulated { .. }) => true,
        (ProviderKind::OpenAi(_), ProviderKind::Simulated { .. }) | (ProviderKind::Simulated { .. }, ProviderKind::OpenAi(_)) => false,
    };
    urls && a.key == b.key
}
