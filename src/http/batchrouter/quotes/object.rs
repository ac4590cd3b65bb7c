//! A quote as it is shown.

use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::catalog::Snapshot;
use crate::domain::id::QuoteId;
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Account, micros_up};
use crate::domain::quote::constraints::{Constraints, PriceProtection, ProviderPreferences};
use crate::domain::time::Timestamp;
use crate::domain::vocabulary::Operation;
use crate::http::batchrouter::items::Read;
use crate::http::batchrouter::money::{Pricing, money};
use crate::quote::{Considered, Decision, GroupDecision, Lane, OBSERVED, Rejection, Verdict};

/// Everything that a quote is rendered from.
pub struct QuoteObject<'a> {
    pub id: QuoteId,
    pub now: Timestamp,
    pub valid_until: Timestamp,
    pub deadline: Timestamp,
    /// The time that the tier allows.
    pub window: Duration,
    /// The fee, in percent of what providers charge.
    pub fee: Decimal,
    pub demands: &'a Constraints,
    pub read: &'a Read,
    pub lanes: &'a [Lane<'a>],
    pub decision: &'a Decision,
    pub catalog: &'a Snapshot,
    /// Of whoever asks.
    pub account: &'a Account,
}

impl QuoteObject<'_> {
    /// The response.
    pub fn json(&self) -> Value {
        let (id, valid_until, deadline) = (self.id.in_hex(), moment(self.valid_until), moment(self.deadline));
        let pricing = self.pricing();
        let max_price = self.demands.max_price.map(|most| money(most.0));
        json!({
            "quote_id": id,
            "valid_until": valid_until,
            "created_at": moment(self.now),
            "sla_deadline": deadline,
            "deadline_at": deadline,
            "routing_mode": self.demands.mode,
            "sla_tier": self.demands.tier,
            "privacy_tier": self.demands.privacy_tier,
            "allowed_regions": self.demands.regions,
            "required_tools": self.demands.tools,
            "max_price": max_price,
            "price_protection_policy": self.demands.protection,
            "fallback_price_ceiling": self.fallback_ceiling().map(money),
            "provider_preferences": preferences(&self.demands.preferences),
            "item_count": self.read.items.len(),
            "pricing_estimate": pricing.map_or_else(Pricing::unknown, Pricing::json),
            "token_estimate": self.tokens(),
            "quote_lanes": lane_objects(self),
            "funding_preview": funding(pricing, self.account),
            "quote_explanation": self.explanation(&deadline),
            "quote_lock": { "quote_id": id, "valid_until": valid_until, "max_price": max_price, "status": "active" },
        })
    }

    /// The most that all items may cost where other lanes have taken over; `None` if nobody knows.
    fn fallback_ceiling(&self) -> Option<Decimal> {
        match (self.demands.max_price, self.demands.protection) {
            (Some(most), _) => Some(most.0),
            (None, PriceProtection::LockTotalAndFallback) => self.pricing().map(Pricing::total),
            (None, PriceProtection::LockTotal) => None,
        }
    }

    /// For each group, whether each of its lanes may take items of the others, when those fail for good.
    pub fn takers(&self) -> Vec<Vec<bool>> {
        let (total, ceiling) = (self.pricing().map(Pricing::total), self.fallback_ceiling());
        let of_group = |group: &GroupDecision| {
            let selected = || group.selected().try_fold(Decimal::ZERO, |sum, (each, _)| Some(sum + self.price(each)?.total()));
            let rest = total.and_then(|total| Some(total - selected()?));
            // Whoever takes over may get any item of the group, and so must take all, at a known price.
            let takes = |considered: &Considered| {
                let Some(whole) = considered.whole.map(|cost| Pricing::of(cost.0, self.fee).total()) else { return false };
                let within = ceiling.is_none_or(|ceiling| rest.is_some_and(|rest| rest + whole <= ceiling));
                self.demands.preferences.allow_fallbacks && considered.eligible && within
            };
            group.lanes.iter().map(takes).collect()
        };
        self.decision.groups.iter().map(of_group).collect()
    }

    /// Every lane that was considered, the selected ones first, then the best, with the place of its group.
    fn considered<'a>(&'a self, takers: &'a [Vec<bool>]) -> impl Iterator<Item = Told<'a>> {
        let groups = self.decision.groups.iter().zip(takers).enumerate();
        let all = groups.flat_map(|(place, (group, takers))| {
            group.lanes.iter().zip(takers).map(move |(considered, takes_over)| Told { group: place, considered, takes_over: *takes_over })
        });
        all.clone().filter(Told::is_selected).chain(all.filter(|told| !told.is_selected()))
    }

    fn price(&self, considered: &Considered) -> Option<Pricing> {
        considered.cost.map(|cost| Pricing::of(cost.0, self.fee))
    }

    /// What the selected lanes charge; `None` if nobody knows that of one of them.
    pub fn pricing(&self) -> Option<Pricing> {
        self.decision.selected().try_fold(Pricing::default(), |sum, (considered, _)| Some(sum.plus(self.price(considered)?)))
    }

    /// What the prices were computed from, and how sure that is. Ours.
    fn tokens(&self) -> Value {
        let (mut input, mut output, mut observed) = (0_u64, 0_u64, false);
        for (considered, items) in self.decision.selected() {
            let lane = &self.lanes[considered.lane];
            for item in items.iter().filter_map(|place| self.read.items.get(*place as usize)) {
                input = input.saturating_add(item.input_tokens(lane.tokenizer));
                output = output.saturating_add(lane.output_tokens(item));
                observed |= lane.observed_output.is_some() && item.output.tokens > 0;
            }
        }
        json!({
            "input_tokens": input,
            "output_tokens": output,
            "input_basis": self.read.input_basis.as_str(),
            "output_basis": if observed { OBSERVED } else { self.read.output_basis.as_str() },
            "tokenizers": self.read.tokenizers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    fn explanation(&self, deadline: &str) -> Value {
        let named = |told: &Told<'_>| {
            let lane = &self.lanes[told.considered.lane];
            json!({ "provider": lane.provider, "model": lane.model })
        };
        let takers = self.takers();
        let (selected, others): (Vec<_>, Vec<_>) = self.considered(&takers).partition(Told::is_selected);
        let spare: Vec<_> = others.iter().filter(|told| told.takes_over).map(named).collect();
        let on = selected.iter().map(|told| {
            let lane = &self.lanes[told.considered.lane];
            format!("{} on {}", lane.model, lane.provider)
        });
        let items = match self.read.items.len() {
            1 => "1 item goes".to_owned(),
            several => format!("{several} items go"),
        };
        let summary = format!(
            "{items} to {}; {} other lanes were considered, of which {} could take over.",
            on.collect::<Vec<_>>().join(", "),
            others.len(),
            spare.len(),
        );
        json!({
            "customer_safe": true,
            "summary": summary,
            "lane_mode": if selected.len() > 1 { "multi_lane" } else { "single_lane" },
            "sla_class": { "tier": self.demands.tier, "deadline_at": deadline, "target_seconds": self.window.as_secs() },
            "selected_lanes": selected.iter().map(named).collect::<Vec<_>>(),
            "fallback_behavior": { "enabled": self.demands.preferences.allow_fallbacks, "providers": spare },
            "rejected_lanes": others.iter().map(named).collect::<Vec<_>>(),
        })
    }
}

/// A lane and what is told of it.
#[derive(Clone, Copy)]
struct Told<'a> {
    group: usize,
    considered: &'a Considered,
    takes_over: bool,
}

impl Told<'_> {
    fn is_selected(&self) -> bool {
        self.considered.is_selected()
    }
}

/// `provider_preferences`, as they were understood.
pub fn preferences(wishes: &ProviderPreferences) -> Value {
    let ProviderPreferences { only, ignore, allow_fallbacks, data_collection, zdr } = wishes;
    json!({ "only": only, "ignore": ignore, "allow_fallbacks": allow_fallbacks, "data_collection": data_collection, "zdr": zdr })
}

/// Whether a batch of just these items can be paid. Nothing is reserved for it yet.
fn funding(pricing: Option<Pricing>, account: &Account) -> Value {
    let available = account.available();
    let total = pricing.map(|pricing| money(pricing.total()));
    let reserve = pricing.map(|pricing| micros_up(Usd(pricing.total())));
    let missing = |reserve: Usd| available.map_or(Decimal::ZERO, |available| (reserve.0 - available.0).max(Decimal::ZERO));
    json!({
        "available": available.map(|available| money(available.0)),
        "reserved": money(account.reserved.0),
        "estimated_total": total,
        "quote_total": total,
        "reservation_amount": reserve.map(|reserve| money(reserve.0)),
        "shortfall": reserve.map(|reserve| money(missing(reserve))),
        "can_fund": reserve.map(|reserve| missing(reserve).is_zero()),
    })
}

/// The lanes of a quote, all of them, each with why it is not selected.
pub fn lane_objects(quote: &QuoteObject<'_>) -> Vec<Value> {
    let takers = quote.takers();
    (1_u32..).zip(quote.considered(&takers)).map(|(rank, told)| lane_object(quote, rank, told)).collect()
}

fn lane_object(quote: &QuoteObject<'_>, rank: u32, told: Told<'_>) -> Value {
    let Told { group, considered, takes_over } = told;
    let lane = &quote.lanes[considered.lane];
    let place = quote.read.groups.get(group).and_then(|of| of.place(lane.model));
    let asked = place.and_then(|place| quote.read.names.get(group)?.get(place));
    let customer_model = asked.map_or(lane.model, String::as_str);
    let (items, reasons) = match &considered.verdict {
        Verdict::Selected(items) => (items.as_slice(), &[][..]),
        Verdict::Rejected(reasons) => (&[][..], reasons.as_slice()),
    };
    let code = reasons.first().map(Rejection::code);
    let tell = |reason: &Rejection| format!("{}/{} {reason}", lane.provider, lane.upstream);
    json!({
        "lane_rank": rank,
        "selected": reasons.is_empty(),
        "provider": lane.provider,
        "model": lane.model,
        "customer_model": customer_model,
        "resolved_alias": lane.model,
        "provider_model": lane.upstream,
        "model_family": quote.catalog.model(lane.model).and_then(|model| model.family.as_deref()),
        "operation": quote.read.operations.get(group).copied().unwrap_or(Operation::Responses),
        "context_window": lane.context_window,
        "max_input_tokens": lane.max_input_tokens,
        "max_output_tokens": lane.max_output_tokens,
        "regions": lane.regions,
        "item_count": items.len(),
        "item_sequence_numbers": items,
        "price": quote.price(considered).map(Pricing::json),
        "capacity": { "available_queue_items": lane.supply.room_rows, "available_queue_tokens": lane.supply.room_tokens },
        "estimated_seconds": considered.seconds,
        "could_take_over": takes_over && !reasons.is_empty(),
        "rejection_reason": code,
        "rejection_code": code,
        "rejection_message": reasons.first().map(tell),
        "rejections": reasons.iter().map(|reason| json!({ "code": reason.code(), "message": tell(reason) })).collect::<Vec<_>>(),
    })
}

/// RFC 3339 with milliseconds, as it was observed.
pub fn moment(at: Timestamp) -> String {
    format!("{at:.3}")
}
