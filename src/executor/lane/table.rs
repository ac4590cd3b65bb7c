//! The table of all lanes and of the servers behind them: opened at first use, kept in step with the
//! catalog.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::addresses::{Found, MOST, NameOf, Names, name_of};
use super::blame::LaneTraits;
use super::flow_control::FlowControl;
use super::member::Member;
use super::provider::ProviderState;
use super::{Lane, LaneIndex, LaneName, OpenProvider, servers};
use crate::catalog::Snapshot;
use crate::domain::id::BatchId;
use crate::domain::provider::connection::{Connection, HostAddresses, Limits, ProviderKind, ServerConnection};
use crate::executor::run::row::ReadyRow;
use crate::provider::Dispatch;

/// All lanes, by index and by name, and the servers behind them.
pub(in crate::executor) struct Lanes {
    pub(super) lanes: Vec<Lane>,
    pub(super) pools: Vec<ProviderState>,
    by_name: HashMap<LaneName, LaneIndex>,
    /// By provider, the connection for which its servers were opened, and these.
    by_provider: HashMap<String, (Connection, Vec<usize>)>,
    /// Names behind which there may be several servers.
    names: Names,
    pub(super) open: OpenProvider,
    /// The most calls at a time that are tried on a server without a stated limit.
    most: u32,
    /// Denials in a row after which a lane is held.
    hold_after: u32,
    /// Lanes that are well again, and whose rows need not wait any longer.
    pub(super) recovered: Vec<LaneIndex>,
    /// What the calls hold that began before their server was restarted.
    pub(super) restarted: Vec<Arc<CancellationToken>>,
}

impl Lanes {
    pub fn new(open: OpenProvider, most: u32, hold_after: u32) -> Self {
        Self {
            lanes: Vec::new(),
            pools: Vec::new(),
            by_name: HashMap::new(),
            by_provider: HashMap::new(),
            names: Names::default(),
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
        let by_name: Vec<_> = connection.servers().collect();
        self.names.keep(provider, &by_name);
        let wanted: Vec<_> = by_name.iter().flat_map(|server| self.names.servers(server)).collect();
        let servers: Vec<_> = wanted.iter().filter_map(|server| self.server(server, is_local)).collect();
        for (index, pool) in self.pools.iter_mut().enumerate().filter(|(_, pool)| pool.connection.id == provider) {
            pool.is_listed = servers.contains(&index);
            if pool.is_listed {
                self.names.follow(&pool.connection, &pool.provider);
            }
        }
        if servers.len() == wanted.len() {
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
            self.pools[index].is_listed = true;
            return Some(index);
        }
        // The first of several addresses is that of the one server that there was.
        let known = known.or_else(|| self.pools.iter().position(|pool| is_whole_of(&pool.connection, connection)));
        let spare = if known.is_none() { self.spare(&connection.id) } else { None };
        let opened = match (self.open)(connection) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(provider = connection.id, %error, "a provider cannot be used");
                return None;
            }
        };
        let Some(index) = known.or(spare) else {
            self.pools.push(ProviderState::new(connection.clone(), opened, is_local));
            return Some(self.pools.len() - 1);
        };
        let pool = &mut self.pools[index];
        let is_same = known.is_some() && pool.connection.key == connection.key;
        if is_same {
            // What was learnt about the server still holds.
            (pool.connection, pool.provider, pool.is_listed) = (connection.clone(), opened, true);
        } else {
            *pool = pool.moved(connection.clone(), opened);
        }
        let address = pool.address();
        for member in self.lanes.iter_mut().flat_map(|lane| &mut lane.members).filter(|member| member.pool == index) {
            member.readdress(&address);
            if !is_same {
                member.flow.reset();
            }
        }
        Some(index)
    }

    /// A server that the provider had and that another one can take the place of, once there are many.
    fn spare(&self, provider: &str) -> Option<usize> {
        let mut of_provider = self.pools.iter().enumerate().filter(|(_, pool)| pool.connection.id == provider && !pool.is_listed);
        if of_provider.clone().nth(MOST).is_none() { None } else { of_provider.find(|(_, pool)| pool.is_over()).map(|(index, _)| index) }
    }

    /// The names to be looked up now: each at most once in the first time, or in the second if a server
    /// of it cannot be reached.
    pub fn names_due(&mut self, now: Instant, times: (Duration, Duration)) -> Vec<(NameOf, Arc<dyn Dispatch>)> {
        let is_dead = |pool: &&ProviderState| pool.is_listed && pool.is_unreachable();
        let dead: Vec<_> = self.pools.iter().filter(is_dead).filter_map(|pool| name_of(&pool.connection)).collect();
        self.names.begin(now, times, |name| dead.contains(name))
    }

    /// Takes what a name resolved to. Returns whether lanes have other servers now, once their routes
    /// are built again.
    pub fn on_found(&mut self, name: &NameOf, found: Found) -> bool {
        let is_other = self.names.on_found(name, found);
        if is_other {
            self.by_provider.remove(&name.0);
        }
        is_other
    }

    /// Updates the limits of every lane from a new catalog.
    pub fn refresh(&mut self, catalog: &Snapshot, now: Instant) {
        let is_there = |provider: &str| catalog.provider(provider).is_some();
        self.by_provider.retain(|provider, _| is_there(provider));
        self.names.retain(is_there);
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

    /// Stands for the servers that a lane has now.
    pub fn identities(&self, index: LaneIndex) -> Vec<u64> {
        self.lanes.get(index).into_iter().flat_map(Lane::listed).map(|member| member.identity).collect()
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
        (ProviderKind::Server(a), ProviderKind::Server(b)) => (&a.base_url, a.api, address(a)) == (&b.base_url, b.api, address(b)),
        (ProviderKind::Simulated { .. }, ProviderKind::Simulated { .. }) => true,
        (ProviderKind::Server(_), ProviderKind::Simulated { .. }) | (ProviderKind::Simulated { .. }, ProviderKind::Server(_)) => false,
    };
    is_same && a.id == b.id
}

/// The one of its host's addresses that a connection leads to.
fn address(server: &ServerConnection) -> Option<IpAddr> {
    match server.addresses {
        HostAddresses::One(address) => Some(address),
        HostAddresses::Any | HostAddresses::Each => None,
    }
}

/// Whether a connection leads to whatever has the name of the other one, which leads to one of its
/// addresses.
fn is_whole_of(whole: &Connection, part: &Connection) -> bool {
    match &part.kind {
        ProviderKind::Server(server) if address(server).is_some() => {
            let kind = ProviderKind::Server(ServerConnection { addresses: HostAddresses::Each, ..server.clone() });
            same_place(whole, &Connection { kind, ..part.clone() })
        }
        ProviderKind::Server(_) | ProviderKind::Simulated { .. } => false,
    }
}
