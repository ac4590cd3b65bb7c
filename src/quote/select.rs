//! The choice among the lanes that meet the demands.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use rust_decimal::Decimal;

use super::eligible::{failed_demands, misfit};
use super::lane::{Lane, Sum};
use super::rejection::Rejection;
use super::{Group, Item};
use crate::domain::money::{MaxPrice, Usd};
use crate::domain::org::ledger::with_fee;
use crate::domain::quote::constraints::{Constraints, LaneSort, RoutingMode, RoutingPreferences};

/// The decisions for all groups, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub groups: Vec<GroupDecision>,
}

impl Decision {
    /// The lanes that serve items, each with its items, group by group.
    pub fn selected(&self) -> impl Iterator<Item = (&Considered, &[u32])> {
        self.groups.iter().flat_map(GroupDecision::selected)
    }
}

/// The decision for the items of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDecision {
    /// Every lane of the group's models: the selected lanes, then the lanes that could take over,
    /// then the others, each kind with the best first.
    pub lanes: Vec<Considered>,
    /// Items that no lane takes; empty if every item has a lane.
    pub unplaced: Vec<u32>,
}

/// A lane, and the decision about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// Its place among the lanes.
    pub lane: usize,
    /// The cost of the items that fit the lane, or of its selected items if it is selected; `None`
    /// if no item fits or the lane's prices are not established.
    pub cost: Option<Usd>,
    /// The cost of all items of the group on this lane; `None` if an item does not fit, or the
    /// lane's prices are not established.
    pub whole: Option<Usd>,
    /// Approximate seconds that the lane needs; `None` if unknown.
    pub seconds: Option<u64>,
    /// Whether the lane meets every demand for at least one item: it is selected, or could take
    /// over.
    pub eligible: bool,
    pub verdict: LaneVerdict,
}

impl Considered {
    /// Whether the lane serves items.
    pub fn is_selected(&self) -> bool {
        matches!(self.verdict, LaneVerdict::Selected(_))
    }
}

/// Whether a lane serves items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneVerdict {
    /// The lane serves these items, in ascending order.
    Selected(Vec<u32>),
    /// The lane serves none, for at least one reason, the weightiest first.
    Rejected(Vec<Rejection>),
}

impl GroupDecision {
    /// The lanes that serve items, each with its items.
    pub fn selected(&self) -> impl Iterator<Item = (&Considered, &[u32])> {
        self.lanes.iter().filter_map(|considered| match &considered.verdict {
            LaneVerdict::Selected(items) => Some((considered, items.as_slice())),
            LaneVerdict::Rejected(_) => None,
        })
    }
}

/// The conditions of a choice that are not among the demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms<'a> {
    /// The time that the tier allows.
    pub window: Duration,
    /// The fee on top of the providers' charges, in percent of those charges. It counts towards
    /// price ceilings.
    pub fee: Decimal,
    pub preferences: &'a RoutingPreferences,
}

/// Decides which lanes serve the items of each group. Room that one group takes is not available to
/// later groups.
pub fn decide(items: &[Item], groups: &[Group], lanes: &[Lane<'_>], constraints: &Constraints, terms: &Terms<'_>) -> Decision {
    let mut lanes = lanes.to_vec();
    let decide = |group| {
        let decision = LaneChoice { items, group, lanes: &lanes, constraints, terms }.decide();
        for (considered, taken) in decision.selected() {
            let lane = &mut lanes[considered.lane];
            let taken = sum(items, taken, lane);
            let supply = &mut lane.supply;
            supply.room_rows = supply.room_rows.saturating_sub(taken.items);
            supply.room_tokens = supply.room_tokens.saturating_sub(taken.input_tokens);
            supply.queued_rows = supply.queued_rows.saturating_add(taken.items);
            supply.queued_tokens = supply.queued_tokens.saturating_add(taken.tokens());
        }
        decision
    };
    Decision { groups: groups.iter().map(decide).collect() }
}

/// Sums up items as a lane reads and answers them.
fn sum(items: &[Item], places: &[u32], lane: &Lane<'_>) -> Sum {
    at(items, places).fold(Sum::default(), |sum, item| sum.and(item, lane))
}

/// The items at these places.
fn at<'a>(items: &'a [Item], places: &[u32]) -> impl Iterator<Item = &'a Item> {
    places.iter().filter_map(|place| items.get(*place as usize))
}

struct LaneChoice<'a> {
    items: &'a [Item],
    group: &'a Group,
    lanes: &'a [Lane<'a>],
    constraints: &'a Constraints,
    terms: &'a Terms<'a>,
}

/// A lane that meets the demands for at least one item.
struct Candidate {
    lane: usize,
    /// Items that fit, in ascending order.
    fits: Vec<u32>,
    sum: Sum,
    /// The cost of all items of the group on this lane, whether they fit or not. Only this makes
    /// lanes that take different items comparable.
    whole: Option<Usd>,
    /// Why the first item that does not fit does not fit.
    misfit: Option<Rejection>,
}

impl LaneChoice<'_> {
    fn decide(&self) -> GroupDecision {
        let mut candidates = Vec::new();
        let mut rejected = Vec::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            if self.group.place(lane.model).is_some() {
                match self.candidate(index, lane) {
                    Ok(candidate) => candidates.push(candidate),
                    Err(considered) => rejected.push(considered),
                }
            }
        }
        candidates.sort_by(|a, b| self.compare(a, b));
        rejected.sort_by(|a, b| known_first(a.cost, b.cost).then(a.lane.cmp(&b.lane)));
        let (selected, unplaced) = self.select(&candidates);
        let mut considered: Vec<Considered> = Vec::with_capacity(candidates.len() + rejected.len());
        let mut others = Vec::new();
        for (candidate, items) in candidates.iter().zip(selected) {
            match items.is_empty() {
                true => others.push(self.eligible(candidate, &candidate.sum, LaneVerdict::Rejected(vec![self.passed_over(candidate)]))),
                false => {
                    let sum = sum(self.items, &items, &self.lanes[candidate.lane]);
                    considered.push(self.eligible(candidate, &sum, LaneVerdict::Selected(items)));
                }
            }
        }
        considered.extend(others);
        considered.extend(rejected);
        GroupDecision { lanes: considered, unplaced }
    }

    fn considered(&self, lane: usize, sum: &Sum, eligible: bool, verdict: LaneVerdict) -> Considered {
        let of = &self.lanes[lane];
        Considered {
            lane,
            cost: of.cost(sum).filter(|_| sum.items > 0),
            whole: None,
            seconds: of.seconds_for(sum.items, sum.tokens()),
            eligible,
            verdict,
        }
    }

    fn eligible(&self, candidate: &Candidate, sum: &Sum, verdict: LaneVerdict) -> Considered {
        let whole = candidate.whole.filter(|_| candidate.misfit.is_none());
        Considered { whole, ..self.considered(candidate.lane, sum, true, verdict) }
    }

    /// Why a candidate serves no items: one lane for all items is better than several lanes.
    fn passed_over(&self, candidate: &Candidate) -> Rejection {
        match &candidate.misfit {
            Some(misfit) => misfit.clone(),
            None if self.has_room(candidate) => Rejection::NotCheapest,
            None => no_room(&self.lanes[candidate.lane]),
        }
    }

    /// Examines one lane: which items fit it, or every reason why none does.
    fn candidate(&self, index: usize, lane: &Lane<'_>) -> Result<Candidate, Considered> {
        let mut reasons = failed_demands(lane, self.constraints);
        let mut first_misfit = None;
        let mut fits = Vec::new();
        let mut sum = Sum::default();
        for place in &self.group.items {
            let Some(item) = self.items.get(*place as usize) else { continue };
            match misfit(lane, *place, item) {
                Some(reason) => _ = first_misfit.get_or_insert(reason),
                None => {
                    fits.push(*place);
                    sum = sum.and(item, lane);
                }
            }
        }
        if fits.is_empty() {
            reasons.extend(first_misfit.clone());
        }
        let supply = &lane.supply;
        // Computed only if not all items have room.
        let least = || at(self.items, &fits).map(|item| item.input_tokens(lane.tokenizer)).min();
        if supply.room_rows == 0 || sum.input_tokens > supply.room_tokens && least().is_some_and(|tokens| tokens > supply.room_tokens) {
            reasons.push(no_room(lane));
        }
        let taken = (sum.items.min(supply.room_rows), sum.input_tokens.min(supply.room_tokens).saturating_add(sum.output_tokens));
        if let Some(seconds) = lane.seconds_for(taken.0, taken.1).filter(|seconds| *seconds > self.target()) {
            reasons.push(Rejection::SlaUnattainable { seconds, target: self.target() });
        }
        let cost = lane.cost(&sum).map(|cost| with_fee(cost, self.terms.fee));
        let most = &self.terms.preferences.most;
        if !lane.price.map_or(*most == MaxPrice::default(), |price| most.allows(&price)) {
            reasons.push(Rejection::RateCeiling);
        }
        if let Some(ceiling) = self.constraints.max_price
            && cost.is_none_or(|cost| cost > ceiling)
        {
            reasons.push(Rejection::PriceCeiling { price: cost, ceiling });
        }
        match reasons.is_empty() {
            true => {
                let whole = match first_misfit {
                    None => lane.cost(&sum),
                    Some(_) => lane.cost(&self::sum(self.items, &self.group.items, lane)),
                };
                Ok(Candidate { lane: index, fits, sum, whole, misfit: first_misfit })
            }
            false => Err(self.considered(index, &sum, false, LaneVerdict::Rejected(reasons))),
        }
    }

    /// Which candidates take which items: one candidate that takes all items if there is one, else
    /// the best candidate takes as much as it can, and so on. Returns one list of items per
    /// candidate, and the items that are left.
    fn select(&self, candidates: &[Candidate]) -> (Vec<Vec<u32>>, Vec<u32>) {
        let mut selected = vec![Vec::new(); candidates.len()];
        if let Some(best) = candidates.iter().position(|candidate| self.takes_all(candidate)) {
            selected[best].clone_from(&candidates[best].fits);
            return (selected, Vec::new());
        }
        // Items with the fewest lanes choose first: a lane with little room goes to them.
        let mut lanes_of: HashMap<u32, usize> = HashMap::new();
        for place in candidates.iter().flat_map(|candidate| &candidate.fits) {
            *lanes_of.entry(*place).or_default() += 1;
        }
        let mut left = self.group.items.clone();
        left.sort_by_key(|place| lanes_of.get(place).copied());
        for (candidate, taken) in candidates.iter().zip(&mut selected) {
            let lane = &self.lanes[candidate.lane];
            let mut sum = Sum::default();
            left.retain(|place| {
                let Some(item) = self.items.get(*place as usize) else { return false };
                let with = sum.and(item, lane);
                let fits = candidate.fits.binary_search(place).is_ok();
                if !fits || with.items > lane.supply.room_rows || with.input_tokens > lane.supply.room_tokens {
                    return true;
                }
                sum = with;
                taken.push(*place);
                false
            });
            taken.sort_unstable();
        }
        left.sort_unstable();
        (selected, left)
    }

    fn takes_all(&self, candidate: &Candidate) -> bool {
        candidate.misfit.is_none() && self.has_room(candidate)
    }

    /// The time that the tier allows, in seconds.
    fn target(&self) -> u64 {
        self.terms.window.as_secs()
    }

    /// Whether all items that fit the candidate may wait on its lane.
    fn has_room(&self, candidate: &Candidate) -> bool {
        let supply = &self.lanes[candidate.lane].supply;
        candidate.sum.items <= supply.room_rows && candidate.sum.input_tokens <= supply.room_tokens
    }

    /// Orders two candidates, the better one first: by the client's order, then by what the mode
    /// puts before the price, then by the price of all items, then by the order of the models in
    /// the request and of the lanes in the catalog.
    fn compare(&self, a: &Candidate, b: &Candidate) -> Ordering {
        let (first, second) = (&self.lanes[a.lane], &self.lanes[b.lane]);
        let seconds = |candidate: &Candidate| self.lanes[candidate.lane].seconds_for(candidate.sum.items, candidate.sum.tokens());
        let late = |candidate: &Candidate| seconds(candidate).is_none_or(|seconds| seconds > self.target() / 2);
        let by_mode = match self.constraints.mode {
            RoutingMode::Cheapest | RoutingMode::EdgeOnly => Ordering::Equal,
            RoutingMode::SlaAware => late(a).cmp(&late(b)),
            RoutingMode::Hybrid => first.own.cmp(&second.own).reverse(),
        };
        let RoutingPreferences { order, sort, .. } = self.terms.preferences;
        let wished = |lane: &Lane<'_>| order.iter().position(|id| id == lane.provider).unwrap_or(order.len());
        let by_sort = || match sort {
            LaneSort::Price => Ordering::Equal,
            LaneSort::Latency => known_first(first.supply.latency_ms, second.supply.latency_ms),
            LaneSort::Throughput => known_first(seconds(a), seconds(b)),
        };
        let place = |lane: &Lane<'_>| self.group.place(lane.model);
        wished(first)
            .cmp(&wished(second))
            .then(by_mode)
            .then_with(by_sort)
            .then_with(|| known_first(a.whole, b.whole))
            .then_with(|| place(first).cmp(&place(second)))
            .then_with(|| a.lane.cmp(&b.lane))
    }
}

fn no_room(lane: &Lane<'_>) -> Rejection {
    Rejection::CapacityUnavailable { rows: lane.supply.room_rows, tokens: lane.supply.room_tokens }
}

/// Orders the smaller value first; unknown values come last.
fn known_first<T: Ord>(a: Option<T>, b: Option<T>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}
