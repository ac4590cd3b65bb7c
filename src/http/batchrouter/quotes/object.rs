//! A quote as it is shown.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::domain::money::Usd;
use crate::domain::org::ledger::Account;
use crate::domain::quote::constraints::ProviderPreferences;
use crate::http::batchrouter::money::{Pricing, money, pricing};
use crate::http::response::time::moment;
use crate::quote::Rejection;
use crate::service::quotes::outcome::{ConsideredLane, Outcome, TokenEstimate};

/// The response in the form that is stored with the quote.
pub fn shown(outcome: &Outcome) -> Vec<u8> {
    object(outcome).to_string().into_bytes()
}

fn object(outcome: &Outcome) -> Value {
    let (id, valid_until, deadline) = (outcome.id.in_hex(), moment(outcome.valid_until), moment(outcome.deadline));
    let constraints = &outcome.constraints;
    let max_price = constraints.max_price.map(|most| money(most.0));
    json!({
        "quote_id": id,
        "valid_until": valid_until,
        "created_at": moment(outcome.created_at),
        "sla_deadline": deadline,
        "deadline_at": deadline,
        "routing_mode": constraints.mode,
        "sla_tier": constraints.tier,
        "privacy_tier": constraints.privacy_tier,
        "allowed_regions": constraints.regions,
        "required_tools": constraints.tools,
        "max_price": max_price,
        "price_protection_policy": constraints.protection,
        "fallback_price_ceiling": outcome.fallback_ceiling.map(money),
        "provider_preferences": preferences(&constraints.preferences),
        "item_count": outcome.items,
        "pricing_estimate": pricing(outcome.pricing),
        "token_estimate": tokens(&outcome.tokens),
        "quote_lanes": lane_objects(outcome),
        "funding_preview": funding(outcome.pricing, outcome.reserve, &outcome.account),
        "quote_explanation": explanation(outcome, &deadline),
        "quote_lock": { "quote_id": id, "valid_until": valid_until, "max_price": max_price, "status": "active" },
    })
}

/// The token counts that the prices were computed from, and how certain they are. Our own
/// extension.
fn tokens(tokens: &TokenEstimate) -> Value {
    json!({
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "input_basis": tokens.input_basis.as_str(),
        "output_basis": tokens.output_basis,
        "tokenizers": tokens.tokenizers,
    })
}

fn explanation(outcome: &Outcome, deadline: &str) -> Value {
    let named = |lane: &ConsideredLane| json!({ "provider": lane.provider, "model": lane.model });
    let selected: Vec<_> = outcome.lanes.iter().filter(|lane| lane.is_selected()).collect();
    let others: Vec<_> = outcome.lanes.iter().filter(|lane| !lane.is_selected()).collect();
    let spare: Vec<_> = others.iter().filter(|lane| lane.takes_over).map(|lane| named(lane)).collect();
    let on: Vec<_> = selected.iter().map(|lane| format!("{} on {}", lane.model, lane.provider)).collect();
    let items = match outcome.items {
        1 => "1 item goes".to_owned(),
        several => format!("{several} items go"),
    };
    let summary =
        format!("{items} to {}; {} other lanes were considered, of which {} could take over.", on.join(", "), others.len(), spare.len(),);
    json!({
        "customer_safe": true,
        "summary": summary,
        "lane_mode": if selected.len() > 1 { "multi_lane" } else { "single_lane" },
        "sla_class": { "tier": outcome.constraints.tier, "deadline_at": deadline, "target_seconds": outcome.window.as_secs() },
        "selected_lanes": selected.iter().map(|lane| named(lane)).collect::<Vec<_>>(),
        "fallback_behavior": { "enabled": outcome.constraints.preferences.allow_fallbacks, "providers": spare },
        "rejected_lanes": others.iter().map(|lane| named(lane)).collect::<Vec<_>>(),
    })
}

/// `provider_preferences`, as the daemon understood them.
pub fn preferences(wishes: &ProviderPreferences) -> Value {
    let ProviderPreferences { only, ignore, allow_fallbacks, data_collection, zdr } = wishes;
    json!({ "only": only, "ignore": ignore, "allow_fallbacks": allow_fallbacks, "data_collection": data_collection, "zdr": zdr })
}

/// Whether the account can pay for a batch of just these items. Nothing is reserved for it yet.
fn funding(pricing: Option<Pricing>, reserve: Option<Usd>, account: &Account) -> Value {
    let available = account.available();
    let total = pricing.map(|pricing| money(pricing.total()));
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

/// All lanes of a quote, each with the reasons why the lane is not selected.
pub fn lane_objects(outcome: &Outcome) -> Vec<Value> {
    (1_u32..).zip(&outcome.lanes).map(|(rank, lane)| lane_object(rank, lane)).collect()
}

fn lane_object(rank: u32, lane: &ConsideredLane) -> Value {
    let code = lane.rejections.first().map(Rejection::code);
    let rejection = |reason: &Rejection| json!({ "code": reason.code(), "message": lane.explain(reason) });
    json!({
        "lane_rank": rank,
        "selected": lane.is_selected(),
        "provider": lane.provider,
        "model": lane.model,
        "customer_model": lane.customer_model,
        "resolved_alias": lane.model,
        "provider_model": lane.upstream,
        "model_family": lane.family,
        "operation": lane.operation,
        "context_window": lane.context_window,
        "max_input_tokens": lane.max_input_tokens,
        "max_output_tokens": lane.max_output_tokens,
        "regions": lane.regions,
        "item_count": lane.items.len(),
        "item_sequence_numbers": lane.items,
        "price": lane.price.map(|price| pricing(Some(price))),
        "capacity": { "available_queue_items": lane.room.0, "available_queue_tokens": lane.room.1 },
        "estimated_seconds": lane.seconds,
        "could_take_over": lane.takes_over && !lane.is_selected(),
        "rejection_reason": code,
        "rejection_code": code,
        "rejection_message": lane.rejections.first().map(|reason| lane.explain(reason)),
        "rejections": lane.rejections.iter().map(rejection).collect::<Vec<_>>(),
    })
}
