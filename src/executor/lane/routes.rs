//! Where the rows of a batch may go at present: for each of its models, the planned offering and
//! its fallbacks.
//!
//! Rebuilt whenever the catalog, a hold or the health of a lane changes. Rows that are on their way
//! keep the table that they were made for.

use std::sync::Arc;

use tokio::time::Instant;

use super::Lanes;
use crate::catalog::Snapshot;
use crate::domain::batch::plan::{Plan, PlannedLane, PlannedModel};
use crate::domain::money::PriceSheet;
use crate::domain::provider::connection::{Connection, ProviderKind};
use crate::domain::provider::lane_hold::{Hold, LaneHold, hold_on};
use crate::domain::row::openai::RowRequest;
use crate::executor::lane::LaneIndex;
use crate::executor::lane::route::{Closed, LaneRoute, Reads};
use crate::quote::Attachment;

/// The routes of one model: a range of the table, and those that fresh rows take.
#[derive(Debug, Clone)]
struct OfModel {
    first: u16,
    count: u16,
    entry: u16,
    /// The routes that share the fresh rows, [`Self::entry`] first.
    shared: Vec<u16>,
}

/// The routes of a batch.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    routes: Vec<LaneRoute>,
    models: Vec<OfModel>,
}

impl RouteTable {
    pub fn get(&self, route: u16) -> Option<&LaneRoute> {
        self.routes.get(usize::from(route))
    }

    /// The lane that a route leads to, if anything can go there.
    pub fn lane(&self, route: u16) -> Option<LaneIndex> {
        self.get(route)?.lane
    }

    /// The routes that share the fresh rows of a model by how much room there is on each, with their
    /// lanes.
    pub fn shared(&self, model: u16) -> impl DoubleEndedIterator<Item = (u16, LaneIndex)> + '_ {
        let routes = self.models.get(usize::from(model)).map_or(&[][..], |model| &model.shared);
        routes.iter().filter_map(|route| Some((*route, self.lane(*route)?)))
    }

    /// For each model, the lanes that share its fresh rows.
    pub fn shared_lanes(&self) -> impl Iterator<Item = Vec<LaneIndex>> + '_ {
        (0..).zip(&self.models).map(|(model, _)| self.shared(model).map(|(_, lane)| lane).collect())
    }

    /// The lanes to which rows may go at present, each as often as it is the lane of a route.
    pub fn lanes(&self) -> impl Iterator<Item = LaneIndex> + '_ {
        self.routes.iter().filter_map(|route| route.lane)
    }

    /// Of the routes that share the fresh rows of a model, the one to the server that owns the rows of
    /// this family; `None` if there is but one route, some lane is not by prefix, or the rows are of no
    /// family.
    pub fn owner(&self, model: u16, family: impl FnOnce() -> Option<u64>) -> Option<u16> {
        let shared = || self.shared(model).filter_map(|(route, _)| Some((route, self.get(route)?)));
        if shared().nth(1).is_none() || !shared().all(|(_, route)| route.by_prefix) {
            return None;
        }
        let family = family()?;
        shared().max_by_key(|(_, route)| route.rank(family)).map(|(route, _)| route)
    }

    /// The lanes that share the fresh rows of a model by their beginnings, for each model with such.
    pub fn sharing_by_prefix(&self) -> impl Iterator<Item = Vec<LaneIndex>> + '_ {
        let is_by_prefix = |model: u16| self.shared(model).all(|(route, _)| self.get(route).is_some_and(|route| route.by_prefix));
        let lanes = (0..).zip(self.shared_lanes()).filter(move |(model, lanes)| lanes.len() > 1 && is_by_prefix(*model));
        lanes.map(|(_, lanes)| lanes)
    }

    /// The route that fresh rows of a model take if they take but one.
    pub fn primary(&self, model: u16) -> Option<u16> {
        self.models.get(usize::from(model)).map(|model| model.entry)
    }

    /// The lane that fresh rows of a model go to.
    pub fn primary_lane(&self, model: u16) -> Option<LaneIndex> {
        self.lane(self.primary(model)?)
    }

    /// The route of a row that should take `route`: the same if possible, else the route of fresh
    /// rows.
    pub fn current_or_primary(&self, route: u16) -> u16 {
        match self.get(route) {
            Some(known) if known.is_good() => route,
            _ => self.of(route).map_or(route, |model| model.entry),
        }
    }

    /// Where a row may go after a lane has failed it for good.
    pub fn next_fallback(&self, route: u16) -> Option<u16> {
        let model = self.of(route)?;
        (route + 1..model.first + model.count).find(|next| self.get(*next).is_some_and(LaneRoute::is_good))
    }

    /// Where a row may go if `route` does not read its files: to a healthy lane at once, or if
    /// there is none, to another lane after a while. The flag says whether the lane is healthy.
    pub fn accepting_files(&self, route: u16, files: &[Attachment]) -> Option<(u16, bool)> {
        self.other(route, |known| files.iter().all(|file| known.reads.takes(&file.mime, file.bytes)))
    }

    /// The route of a row that should take `route`: the same, unless its lane cannot be asked what
    /// the row asks and another lane can.
    pub fn supporting(&self, route: u16, row: &RowRequest<'_>) -> u16 {
        match self.get(route) {
            Some(known) if known.lane.is_some() && !known.can_be_asked(row) => {
                self.other(route, |other| other.can_be_asked(row)).map_or(route, |(other, _)| other)
            }
            Some(_) | None => route,
        }
    }

    /// Another route of the same model that is not held and fits `wanted`: a healthy one if there
    /// is one. The flag says whether it is healthy.
    fn other(&self, route: u16, wanted: impl Fn(&LaneRoute) -> bool) -> Option<(u16, bool)> {
        let model = self.of(route)?;
        let is_wanted = |other: &u16| self.get(*other).is_some_and(|known| known.lane.is_some() && wanted(known));
        let is_good = |other: &u16| self.get(*other).is_some_and(LaneRoute::is_good);
        let others: Vec<_> = (model.first..model.first + model.count).filter(|other| *other != route).filter(is_wanted).collect();
        let good = others.iter().find(|other| is_good(other)).map(|other| (*other, true));
        good.or_else(|| others.first().map(|other| (*other, false)))
    }

    fn of(&self, route: u16) -> Option<&OfModel> {
        self.models.iter().find(|model| (model.first..model.first + model.count).contains(&route))
    }

    /// Whether a route still leads to the same lane of the same server, under the same model name
    /// and in the same form, as before.
    pub fn is_unchanged(&self, before: &Self, route: u16) -> bool {
        let form = |route: &LaneRoute| (route.endpoints, route.messages, route.row_priority);
        let way = |ways: &Self| ways.get(route).map(|route| (route.lane, route.server.clone(), route.upstream.clone(), form(route)));
        way(self) == way(before)
    }

    /// The models whose rows have to wait, by their index in the plan.
    pub fn closed(&self) -> Vec<usize> {
        self.entries().enumerate().filter(|(_, route)| route.is_none_or(|route| route.lane.is_none())).map(|(model, _)| model).collect()
    }

    /// For each model, the route of its fresh rows.
    pub fn entries(&self) -> impl Iterator<Item = Option<&LaneRoute>> + '_ {
        self.models.iter().map(|model| self.get(model.entry))
    }
}

/// What decides on the routes besides the plan.
pub struct RouteContext<'a> {
    pub catalog: &'a Snapshot,
    pub holds: &'a [LaneHold],
    pub now: Instant,
    /// The cheapest lanes cannot do all rows before the deadline: dearer ones that the batch allows
    /// share them.
    pub in_haste: bool,
}

/// Builds the routes of a plan's models, in the plan's order.
///
/// A batch stays with the provider that it was planned with for as long as this provider serves the
/// model. It moves only if the lane is drained, or has been unhealthy for a while, and the plan has
/// another lane. A model planned with the simulated provider stays simulated, and no other model
/// ever becomes simulated: the client was promised real answers. Prices never change. Lanes of the
/// same price share the rows of a model, unless a quote has said where they go.
pub fn build_routes(plan: &Plan, around: &RouteContext<'_>, lanes: &mut Lanes) -> Arc<RouteTable> {
    let mut ways = RouteTable::default();
    for model in &plan.models {
        let first = u16::try_from(ways.routes.len()).unwrap_or(u16::MAX);
        let way = way(model, around.catalog);
        let (provider, upstream) = way.unwrap_or((&model.lane.provider, &model.lane.upstream));
        let own = route(provider, upstream, way.is_some(), model.lane.price, around, lanes);
        // As the quote had it when the batch was priced.
        let most_output = model.quoted.as_ref().map_or(own.most_output, |share| share.most_output);
        ways.routes.push(LaneRoute { most_output, ..own });
        for other in &model.alternatives {
            let serves = still_serves(other, around.catalog);
            ways.routes.push(route(&other.provider, &other.upstream, serves, other.price, around, lanes));
        }
        let routes = &ways.routes[usize::from(first)..];
        let waits = way.is_some() && is_paused(provider, upstream, around);
        let better = (0..).zip(routes).find(|(_, route)| route.is_good() && !waits).map_or(0, |(index, _)| index);
        let count = u16::try_from(routes.len()).unwrap_or(u16::MAX);
        let entry = &routes[usize::from(better)];
        let is_equal = |route: &LaneRoute| route.is_good() && entry.is_good() && (around.in_haste || route.price == entry.price);
        let others = (0..).zip(routes).filter(|(index, route)| *index != better && model.quoted.is_none() && is_equal(route));
        let shared = std::iter::once(first + better).chain(others.map(|(index, _)| first + index)).collect();
        ways.models.push(OfModel { first, count, entry: first + better, shared });
    }
    Arc::new(ways)
}

fn route(provider: &str, upstream: &str, serves: bool, price: PriceSheet, around: &RouteContext<'_>, lanes: &mut Lanes) -> LaneRoute {
    let held = hold_on(around.holds, provider, Some(upstream)).or(around.catalog.is_paused(provider, upstream).then_some(Hold::Paused));
    let lane = if serves && held.is_none() { lanes.of(provider, upstream, around.catalog) } else { None };
    let closed = if lane.is_some() { None } else { Some(held.map_or(Closed::NotServed, Closed::Held)) };
    let avoided = lane.is_some_and(|lane| lanes.is_avoided(lane, around.now));
    let by_prefix = around.catalog.is_local(provider);
    let servers = lane.filter(|_| by_prefix).map_or_else(Vec::new, |lane| lanes.identities(lane));
    let server = around.catalog.provider(provider).map(|provider| server(&provider.connection)).unwrap_or_default();
    let messages = around.catalog.provider(provider).is_some_and(|provider| provider.connection.kind.has_messages());
    let row_priority = around.catalog.provider(provider).map(|provider| provider.connection.kind.row_priority()).unwrap_or_default();
    let offering = around.catalog.offering(provider, upstream);
    let endpoints = offering.into_iter().flat_map(|offering| &offering.endpoints).copied().collect();
    let most_output = around.catalog.most_output(provider, upstream);
    let reads = offering.map_or(Reads::Unknown, |offering| Reads::Files(offering.files.clone()));
    let tool_names = around.catalog.provider(provider).map(|provider| provider.tool_names.clone()).unwrap_or_default();
    LaneRoute {
        lane,
        closed,
        most_output,
        endpoints,
        messages,
        row_priority,
        reads,
        tool_names,
        avoided,
        by_prefix,
        servers,
        server: server.into(),
        upstream: upstream.into(),
        name: format!("{provider}/{upstream}").into(),
        price,
    }
}

/// Identifies a server: who owns it, and where it is.
fn server(connection: &Connection) -> String {
    match &connection.kind {
        ProviderKind::Server(server) => format!("{} {}", connection.id, server.base_url),
        ProviderKind::Simulated { .. } => connection.id.clone(),
    }
}

/// Whether a provider still serves a model under the same name.
fn still_serves(lane: &PlannedLane, catalog: &Snapshot) -> bool {
    catalog.serves(&lane.model, &lane.provider, &lane.upstream) == Some(&lane.upstream)
        || catalog.provider(&lane.provider).is_some_and(|provider| !provider.is_real() && catalog.is_usable(&lane.provider))
}

/// Whether rows wait for a lane instead of going elsewhere.
fn is_paused(provider: &str, upstream: &str, around: &RouteContext<'_>) -> bool {
    match hold_on(around.holds, provider, Some(upstream)) {
        Some(hold) => hold == Hold::Paused,
        None => around.catalog.is_paused(provider, upstream),
    }
}

/// The provider that now serves a planned model, and the provider's name for the model.
fn way<'a>(model: &'a PlannedModel, catalog: &'a Snapshot) -> Option<(&'a str, &'a str)> {
    let simulated = |provider: &str| catalog.provider(provider).is_some_and(|provider| !provider.is_real());
    if model.quoted.is_some() {
        return still_serves(&model.lane, catalog).then_some((model.lane.provider.as_str(), model.lane.upstream.as_str()));
    }
    let PlannedLane { model: requested, provider, upstream, .. } = &model.lane;
    if let Some(upstream) = catalog.serves(requested, provider, upstream) {
        return Some((provider, upstream));
    }
    if simulated(provider) {
        // The simulated provider answers for every model, and is never replaced by a provider that
        // charges.
        return catalog.is_usable(provider).then_some((provider, upstream));
    }
    let resolved = match model.endpoint {
        Some(endpoint) => catalog.resolve_at(requested, endpoint),
        None => catalog.resolve(requested),
    };
    let other = resolved.ok().filter(|other| !simulated(other.provider))?;
    // Only from a provider that offers the model to another that does: a server that takes every
    // model may not have this one, and the client may not want that server to be asked.
    let offered = catalog.offers_of(requested).next().is_none() || catalog.offers_of(requested).any(|id| id == other.provider);
    offered.then_some((other.provider, other.upstream))
}
