//! The table of all lanes and of the servers behind them: opened at first use, kept in step with the
//! catalog.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::blame::LaneTraits;
use super::flow_control::FlowControl;
use super::member::Member;
use super::provider::ProviderState;
use super::{Lane, LaneIndex, LaneName, OpenProvider, servers};
use crate::catalog::Snapshot;
use crate::domain::id::BatchId;
use crate::domain::provider::connection::{Connection, Limits, ProviderKind};
use crate::executor::run::row::ReadyRow;

/// All lanes, by index and by name, and the servers behind them.
pub(in crate::executor) struct Lanes {
    pub(super) lanes: Vec<Lane>,
    pub(super) pools: Vec<ProviderState>,
    by_name: HashMap<LaneName, LaneIndex>,
    /// By provider, the connection for which its servers were opened, and these.
    by_provider: HashMap<String, (Connection, Vec<usize>)>,
    pub(super) open: OpenProvider,
    /// The most calls at a time that are tried on a server without a stated limit.
    most: u32,
    /// Denials in a row after which a lane is held.
    hold_after: u32,
    /// Lanes that are well again, and whose rows need not wait any longer.
    pub(super) recovered: Vec<LaneIndex>,
    /// What the calls hold that began before their server was restarted.
    pub(super) restarted: Vec<CancellationToken>,
}

impl Lanes {
    pub fn new(open: OpenProvider, most: u32, hold_after: u32) -> Self {
        Self {
            lanes: Vec::new(),
            pools: Vec::new(),
            by_name: HashMap::new(),
            by_provider: HashMap::new(),
            open,
            most,
            hold_after,
            recovered: Vec::new(),
            restarted: Vec::new(),
        }
    }

    /// The lane of a provider's model, opened at first use, on the servers that the provider has now.
    /// Models that the catalog does not know share one lane: their names come from clients, and there
    /// must not be a lane for each name.
    pub fn of(&mut self, provider: &str, upstream: &str, catalog: &Snapshot) -> Option<LaneIndex> {
        let pools = self.servers(provider, catalog)?;
        let known = catalog.offering(provider, upstream).map(|_| upstream.to_owned());
        let name = (provider.to_owned(), known);
        let by_prefix = catalog.is_local(provider);
        let index = match self.by_name.get(&name) {
            Some(index) => *index,
            None => {
                self.lanes.push(Lane::new(name.clone(), by_prefix));
                self.by_name.insert(name.clone(), self.lanes.len() - 1);
                self.lanes.len() - 1
            }
        };
        let traits = LaneTraits {
            is_local: by_prefix,
            is_shared: name.1.is_none(),
            hold_after: self.hold_after,
            can_be_down: catalog.provider(provider).is_none_or(|provider| provider.is_real()),
        };
        let lane = self.lanes.get_mut(index)?;
        for member in &mut lane.members {
            member.is_listed = pools.contains(&member.pool);
        }
        for pool in pools {
            if !lane.members.iter().any(|member| member.pool == pool) {
                let flow = FlowControl::new(stated(&name, catalog), self.most, traits);
                lane.members.push(Member::new(pool, flow, &self.pools.get(pool)?.address()));
            }
        }
        Some(index)
    }

    /// The servers of a provider, opened at first use and again when their connection has changed;
    /// `None` if none can be opened.
    fn servers(&mut self, provider: &str, catalog: &Snapshot) -> Option<Vec<usize>> {
        let connection = &catalog.provider(provider)?.connection;
        if let Some((_, servers)) = self.by_provider.get(provider).filter(|(opened, _)| same_way(opened, connection)) {
            return Some(servers.clone());
        }
        let is_local = catalog.is_local(provider);
        let servers: Vec<_> = connection.servers().filter_map(|server| self.server(&server, is_local)).collect();
        for (index, pool) in self.pools.iter_mut().enumerate().filter(|(_, pool)| pool.connection.id == provider) {
            pool.is_listed = servers.contains(&index);
        }
        if servers.len() > connection.replicas.len() {
            self.by_provider.insert(provider.to_owned(), (connection.clone(), servers.clone()));
        } else {
            // One that cannot be opened is tried again the next time.
            self.by_provider.remove(provider);
        }
        Some(servers).filter(|servers| !servers.is_empty())
    }

    fn server(&mut self, connection: &Connection, is_local: bool) -> Option<usize> {
        let known = self.pools.iter().position(|pool| same_place(&pool.connection, connection));
        if let Some(index) = known.filter(|index| same_way(&self.pools[*index].connection, connection)) {
            return Some(index);
        }
        let opened = match (self.open)(connection) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(provider = connection.id, %error, "a provider cannot be used");
                return None;
            }
        };
        match known {
            Some(index) if self.pools[index].connection.key == connection.key => {
                // What was learnt about the server still holds.
                let pool = &mut self.pools[index];
                (pool.connection, pool.provider) = (connection.clone(), opened);
                Some(index)
            }
            Some(index) => {
                self.pools[index] = self.pools[index].moved(connection.clone(), opened);
                let members = self.lanes.iter_mut().flat_map(|lane| &mut lane.members);
                members.filter(|member| member.pool == index).for_each(|member| member.flow.reset());
                Some(index)
            }
            None => {
                self.pools.push(ProviderState::new(connection.clone(), opened, is_local));
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
            let stated = stated(&lane.name, catalog);
            lane.members.iter_mut().for_each(|member| member.flow.set(stated, now));
            lane.by_prefix = catalog.is_local(&lane.name.0);
        }
    }

    /// Whether the lane is one of the operator's own servers.
    pub fn is_local(&self, index: LaneIndex) -> bool {
        self.lanes.get(index).is_some_and(|lane| servers(lane, &self.pools).any(|(_, pool)| pool.is_local))
    }

    pub fn get(&mut self, index: LaneIndex) -> Option<&mut Lane> {
        self.lanes.get_mut(index)
    }

    /// The servers of all providers, by index.
    pub fn pools(&mut self) -> impl Iterator<Item = (usize, &mut ProviderState)> {
        self.pools.iter_mut().enumerate().filter(|(_, pool)| pool.is_listed)
    }

    /// A server, also one that its provider does not have any more.
    pub fn pool(&mut self, index: usize) -> Option<&mut ProviderState> {
        self.pools.get_mut(index)
    }

    /// For each provider whether no server of it can be reached, and when one last answered.
    pub fn providers(&self) -> BTreeMap<&str, (Option<crate::domain::time::Timestamp>, bool)> {
        let mut providers = BTreeMap::new();
        for pool in self.pools.iter().filter(|pool| pool.is_listed) {
            let known = providers.entry(pool.connection.id.as_str()).or_insert((None, true));
            *known = (known.0.max(pool.last_answer), known.1 && pool.is_unreachable());
        }
        providers
    }

    /// Opens the operator's own servers, so that they are probed.
    pub fn open_local(&mut self, catalog: &Snapshot) {
        let local = catalog.providers().filter(|(provider, ready)| *ready && provider.is_local);
        for id in local.map(|(provider, _)| provider.id().to_owned()).collect::<Vec<_>>() {
            self.servers(&id, catalog);
        }
    }

    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Every lane.
    pub fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter()
    }

    /// The servers of a lane.
    pub fn servers_of<'a>(&'a self, lane: &'a Lane) -> impl Iterator<Item = (&'a Member, &'a ProviderState)> {
        servers(lane, &self.pools)
    }

    /// The name of a lane.
    pub fn name(&self, index: LaneIndex) -> Option<&LaneName> {
        self.lanes.get(index).map(|lane| &lane.name)
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

    /// How long lanes would take together for so many rows at their present pace; `None` while the pace
    /// is unknown.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn time_for(&self, lanes: &[LaneIndex], rows: u64, now: Instant) -> Option<Duration> {
        let listed = lanes.iter().filter_map(|index| self.lanes.get(*index)).flat_map(Lane::listed);
        let rate: f64 = listed.map(|member| member.flow.rate(now)).sum();
        if rate > 0.0 { Duration::try_from_secs_f64(rows as f64 / rate).ok() } else { None }
    }

    /// Changes the weight of a batch.
    pub fn weigh(&mut self, index: LaneIndex, batch: BatchId, weight: u32) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.fair.weigh(batch, weight);
        }
    }
}

/// The limits that the catalog states for a server of a lane: no more calls at a time than the server
/// takes as a whole.
fn stated((provider, upstream): &LaneName, catalog: &Snapshot) -> Limits {
    let offering = upstream.as_ref().and_then(|upstream| catalog.offering(provider, upstream));
    let own = offering.map_or_else(Limits::default, |offering| offering.limits);
    let of_provider = catalog.provider(provider).and_then(|provider| provider.connection.limits.in_flight);
    Limits { in_flight: own.in_flight.or(of_provider), ..own }
}

/// Whether two connections differ at most in their limits.
fn same_way(a: &Connection, b: &Connection) -> bool {
    a.kind == b.kind && a.replicas == b.replicas && a.key == b.key
}

/// Whether two connections lead to the same server of the same provider, under whatever key.
fn same_place(a: &Connection, b: &Connection) -> bool {
    let is_same = match (&a.kind, &b.kind) {
        (ProviderKind::Server(a), ProviderKind::Server(b)) => (&a.base_url, a.api) == (&b.base_url, b.api),
        (ProviderKind::Simulated { .. }, ProviderKind::Simulated { .. }) => true,
        (ProviderKind::Server(_), ProviderKind::Simulated { .. }) | (ProviderKind::Simulated { .. }, ProviderKind::Server(_)) => false,
    };
    is_same && a.id == b.id
}
