//! The outcome of deciding a quote, lane by lane: everything that a dialect may show, and not how
//! it is shown.

use std::time::Duration;

use rust_decimal::Decimal;

use super::items::ReadItems;
use super::pricing::Pricing;
use crate::catalog::Snapshot;
use crate::domain::id::QuoteId;
use crate::domain::money::Usd;
use crate::domain::org::ledger::Account;
use crate::domain::quote::constraints::{Constraints, PriceProtection};
use crate::domain::time::Timestamp;
use crate::domain::vocabulary::Operation;
use crate::quote::tokens::Basis;
use crate::quote::{Considered, Decision, GroupDecision, Lane, LaneVerdict, OBSERVED, Rejection};

/// A decision in the form in which dialects may show it.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub id: QuoteId,
    pub created_at: Timestamp,
    pub valid_until: Timestamp,
    pub deadline: Timestamp,
    /// The time that the tier allows.
    pub window: Duration,
    pub constraints: Constraints,
    /// The number of items that were quoted.
    pub items: usize,
    /// The number of items that no lane takes.
    pub unplaced: usize,
    /// The charge of the selected lanes; `None` if the charge of any of them is unknown.
    pub pricing: Option<Pricing>,
    /// The most that all items may cost where other lanes have taken over, in US dollars; `None` if
    /// it is unknown.
    pub fallback_ceiling: Option<Decimal>,
    pub tokens: TokenEstimate,
    /// The amount that a batch of just these items reserves, in whole micro-dollars; `None` if a price
    /// is unknown, and in a quote that no client sees.
    pub reserve: Option<Usd>,
    /// The account of the organisation that asks.
    pub account: Account,
    /// Every lane that was considered: the selected ones first, then the best.
    pub lanes: Vec<ConsideredLane>,
}

/// The token counts that the prices were computed from, and how certain they are.
#[derive(Debug, Clone)]
pub struct TokenEstimate {
    pub input: u64,
    pub output: u64,
    pub input_basis: Basis,
    pub output_basis: &'static str,
    pub tokenizers: Vec<String>,
}

/// A lane, and why it serves items or not.
#[derive(Debug, Clone)]
pub struct ConsideredLane {
    pub provider: String,
    /// The provider's name for the model.
    pub upstream: String,
    pub model: String,
    /// The model under the name that the client used.
    pub customer_model: String,
    pub family: Option<String>,
    pub operation: Operation,
    /// In tokens.
    pub context_window: Option<u64>,
    pub max_input_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub regions: Vec<String>,
    /// The places of the items that the lane serves, counted from 0; empty if the lane is not
    /// selected.
    pub items: Vec<u32>,
    pub price: Option<Pricing>,
    /// Rows and tokens that fit into the lane's queue.
    pub room: (u64, u64),
    /// The approximate duration of its work.
    pub seconds: Option<u64>,
    /// The lane may take items of other lanes when those fail for good.
    pub takes_over: bool,
    /// Why the lane is not selected, the weightiest reason first; empty if it is.
    pub rejections: Vec<Rejection>,
}

impl ConsideredLane {
    /// Whether the lane serves items.
    pub fn is_selected(&self) -> bool {
        self.rejections.is_empty()
    }

    /// A reason for people, with the lane's name.
    pub fn explain(&self, reason: &Rejection) -> String {
        format!("{}/{} {reason}", self.provider, self.upstream)
    }
}

/// A decision while its outcome is derived.
pub(super) struct Decided<'a> {
    pub read: &'a ReadItems,
    pub lanes: &'a [Lane<'a>],
    pub decision: &'a Decision,
    pub constraints: &'a Constraints,
    /// In percent of what providers charge.
    pub fee: Decimal,
}

impl Decided<'_> {
    /// See [`Outcome::fallback_ceiling`].
    pub fn fallback_ceiling(&self) -> Option<Decimal> {
        match (self.constraints.max_price, self.constraints.protection) {
            (Some(most), _) => Some(most.0),
            (None, PriceProtection::LockTotalAndFallback) => self.pricing().map(Pricing::total),
            (None, PriceProtection::LockTotal) => None,
        }
    }

    /// For each group, whether each of its lanes may take items of other lanes when those fail for
    /// good.
    pub fn takers(&self) -> Vec<Vec<bool>> {
        let (total, ceiling) = (self.pricing().map(Pricing::total), self.fallback_ceiling());
        let of_group = |group: &GroupDecision| {
            let selected = || group.selected().try_fold(Decimal::ZERO, |sum, (each, _)| Some(sum + self.price(each)?.total()));
            let rest = total.and_then(|total| Some(total - selected()?));
            // A lane that takes over may get any item of the group, so it must be able to take all,
            // at a known price.
            let takes = |considered: &Considered| {
                let Some(whole) = considered.whole.map(|cost| Pricing::of(cost.0, self.fee).total()) else { return false };
                let within = ceiling.is_none_or(|ceiling| rest.is_some_and(|rest| rest + whole <= ceiling));
                self.constraints.preferences.allow_fallbacks && considered.eligible && within
            };
            group.lanes.iter().map(takes).collect()
        };
        self.decision.groups.iter().map(of_group).collect()
    }

    fn price(&self, considered: &Considered) -> Option<Pricing> {
        considered.cost.map(|cost| Pricing::of(cost.0, self.fee))
    }

    /// See [`Outcome::pricing`].
    pub fn pricing(&self) -> Option<Pricing> {
        self.decision.selected().try_fold(Pricing::default(), |sum, (considered, _)| Some(sum.plus(self.price(considered)?)))
    }

    /// See [`Outcome::tokens`].
    pub fn tokens(&self) -> TokenEstimate {
        let (mut input, mut output, mut observed) = (0_u64, 0_u64, false);
        for (considered, items) in self.decision.selected() {
            let lane = &self.lanes[considered.lane];
            for item in items.iter().filter_map(|place| self.read.items.get(*place as usize)) {
                input = input.saturating_add(item.input_tokens(lane.tokenizer));
                output = output.saturating_add(lane.output_tokens(item));
                observed |= lane.observed_output.is_some() && item.output.tokens > 0;
            }
        }
        TokenEstimate {
            input,
            output,
            input_basis: self.read.input_basis,
            output_basis: if observed { OBSERVED } else { self.read.output_basis.as_str() },
            tokenizers: self.read.tokenizers.iter().map(ToString::to_string).collect(),
        }
    }

    /// See [`Outcome::lanes`].
    pub fn considered(&self, takers: &[Vec<bool>], catalog: &Snapshot) -> Vec<ConsideredLane> {
        let groups = self.decision.groups.iter().zip(takers).enumerate();
        let all = groups.flat_map(|(place, (group, takers))| {
            group.lanes.iter().zip(takers).map(move |(considered, takes_over)| (place, considered, *takes_over))
        });
        let (selected, others): (Vec<_>, Vec<_>) = all.partition(|(_, considered, _)| considered.is_selected());
        let ranked = selected.into_iter().chain(others);
        ranked.map(|(group, considered, takes_over)| self.lane(group, considered, takes_over, catalog)).collect()
    }

    fn lane(&self, group: usize, considered: &Considered, takes_over: bool, catalog: &Snapshot) -> ConsideredLane {
        let lane = &self.lanes[considered.lane];
        let place = self.read.groups.get(group).and_then(|of| of.place(lane.model));
        let asked = place.and_then(|place| self.read.names.get(group)?.get(place));
        let (items, rejections) = match &considered.verdict {
            LaneVerdict::Selected(items) => (items.clone(), Vec::new()),
            LaneVerdict::Rejected(reasons) => (Vec::new(), reasons.clone()),
        };
        ConsideredLane {
            provider: lane.provider.to_owned(),
            upstream: lane.upstream.to_owned(),
            model: lane.model.to_owned(),
            customer_model: asked.map_or(lane.model, String::as_str).to_owned(),
            family: catalog.model(lane.model).and_then(|model| model.family.clone()),
            operation: self.read.operations.get(group).copied().unwrap_or(Operation::Responses),
            context_window: lane.context_window,
            max_input_tokens: lane.max_input_tokens,
            max_output_tokens: lane.max_output_tokens,
            regions: lane.regions.to_vec(),
            items,
            price: self.price(considered),
            room: (lane.supply.room_rows, lane.supply.room_tokens),
            seconds: considered.seconds,
            takes_over,
            rejections,
        }
    }
}
