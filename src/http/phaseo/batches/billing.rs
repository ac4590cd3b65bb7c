//! What a batch costs, in the shapes of this dialect: `billing` (the union of the two shapes that
//! the dialect has under that name), `pricing_lines` and `usage`. Amounts are exact; amounts that
//! the contract has as JSON numbers are printed from whole nano-dollars.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::{Value, json};

use super::moments::{text, updated};
use crate::domain::batch::details::BatchDetails;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::money::{PriceSheet, Usd};
use crate::domain::org::ledger::{Settlement, with_fee};
use crate::domain::quote::receipt::{LaneReceipt, Receipt};

/// The number of tokens that a price applies to.
const UNIT: u64 = 1_000_000;

/// An amount in nano-dollars, rounded up.
pub fn nanos(amount: Usd) -> u64 {
    amount.0.saturating_mul(Decimal::from(1_000_000_000_u64)).ceil().to_u64().unwrap_or(u64::MAX)
}

/// An amount as a text with nine decimal places.
fn nine(amount: Usd) -> String {
    let mut rounded = amount.0.round_dp(9);
    rounded.rescale(9);
    rounded.to_string()
}

/// An amount as a JSON number.
pub fn number(amount: Usd) -> Value {
    amount.0.normalize().to_string().parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
}

/// `billing`.
pub fn object(batch: &Batch, details: &BatchDetails) -> Value {
    let settlement = details.reservation.as_ref().and_then(|reservation| reservation.settlement);
    let reserved = details.reservation.as_ref().map(|reservation| reservation.amount);
    let quoted = batch.spec.gateway().and_then(|(order, _)| order.estimate);
    let charged = settlement.map(|settled: Settlement| settled.charged);
    let is_charged = charged.map(|charged| !charged.is_zero());
    let state = match (is_charged, &batch.state) {
        (Some(true), _) => "settled",
        (_, BatchState::Failed { .. } | BatchState::Expired { .. } | BatchState::Cancelled { .. }) => "void",
        (_, BatchState::Completed { .. }) => "settled",
        (_, _) if reserved.is_some() => "estimated",
        (_, _) => "pending",
    };
    let reason = reason(batch, is_charged);
    let two = |amount: Option<Usd>| amount.map(|amount| format!("{:.2}", amount.0));
    let provider_cost = settlement.map(|_| batch.progress.cost);
    json!({
        "currency": "usd",
        "billed": settlement.is_some(),
        "charged": is_charged,
        "billable": charged.is_some_and(|charged| !charged.is_zero()),
        "reason": reason,
        "charge_reason": reason,
        "state": state,
        "cost_nanos": charged.map(nanos),
        "cost_usd": charged.map_or(Value::Null, number),
        "total_nanos": charged.map(nanos),
        "finalized_at": settlement.map(|_| text(updated(batch))),
        "estimated_provider_cost": two(quoted.map(|quoted| quoted.provider)),
        "estimated_user_cost": two(quoted.map(|quoted| quoted.total())),
        "settled_provider_cost": two(provider_cost),
        "settled_user_cost": two(charged),
        "estimated_nanos": quoted.map(|quoted| nanos(quoted.total())),
        "reserved_nanos": reserved.map(nanos),
        "reservation_id": batch.spec.gateway().map(|(_, gateway)| format!("batch_hold:{}", gateway.request.in_upper())),
        "reservation_status": reserved.map(|_| status(settlement)),
        "pricing_breakdown": charged.map(|charged| breakdown(batch, charged)),
    })
}

/// The status of the hold.
fn status(settlement: Option<Settlement>) -> &'static str {
    match settlement {
        None => "held",
        Some(settled) if settled.charged.is_zero() => "released",
        Some(_) => "captured",
    }
}

/// Why the batch was charged, or not.
fn reason(batch: &Batch, charged: Option<bool>) -> Option<&'static str> {
    let partial = batch.progress.failed > 0;
    match (charged?, &batch.state) {
        (true, _) if partial => Some("charged_partial_success:captured"),
        (true, _) => Some("charged:captured"),
        (false, BatchState::Failed { .. }) => Some("failed"),
        (false, BatchState::Expired { .. }) => Some("expired"),
        (false, BatchState::Cancelled { .. }) => Some("cancelled"),
        (false, _) => Some("zero_cost:released_released"),
    }
}

fn breakdown(batch: &Batch, charged: Usd) -> Value {
    let progress = &batch.progress;
    json!({
        "total_nanos": nanos(charged),
        "total_usd_str": nine(charged),
        "total_cents": charged.0.saturating_mul(Decimal::ONE_HUNDRED).trunc().to_u64().unwrap_or(u64::MAX),
        "completed_requests": progress.succeeded,
        "failed_requests": progress.failed,
        "total_requests": progress.total,
    })
}

/// `pricing_lines`: the tokens read and written on each lane, at the lane's price and with the fee.
pub fn lines(batch: &Batch, receipt: Option<&Receipt>) -> Vec<Value> {
    let fee = batch.spec.gateway().map_or(Decimal::ZERO, |(order, _)| order.fee);
    receipt.into_iter().flat_map(|receipt| &receipt.lanes).flat_map(|lane| of_lane(batch, lane, fee)).collect()
}

fn of_lane(batch: &Batch, lane: &LaneReceipt, fee: Decimal) -> Vec<Value> {
    let planned = batch.plan.models.iter().flat_map(|model| std::iter::once(&model.lane).chain(&model.alternatives));
    let planned = planned.into_iter().find(|each| each.provider == lane.provider && each.upstream == lane.upstream);
    let price: PriceSheet = planned.map(|planned| planned.price).unwrap_or_default();
    let usage = &lane.usage;
    let cached = usage.cached_tokens.min(usage.input_tokens);
    let meters = [
        ("input_text_tokens", usage.input_tokens - cached, price.input),
        ("cached_read_text_tokens", cached, price.cached_input.or(price.input)),
        ("output_text_tokens", usage.output_tokens, price.output),
    ];
    let line = |(dimension, quantity, price): (&str, u64, Option<Decimal>)| {
        let price = with_fee(Usd(price?), fee);
        let cost = Usd(price.0.saturating_mul(Decimal::from(quantity)) / Decimal::from(UNIT));
        Some(json!({
            "dimension": dimension,
            "provider": lane.provider,
            "model": lane.model,
            "quantity": quantity,
            "billable_units": number(Usd(Decimal::from(quantity) / Decimal::from(UNIT))),
            "unit_size": UNIT,
            "unit_price_usd": nine(price),
            "line_cost_usd": nine(cost),
            "line_nanos": nanos(cost),
            "pricing_plan": "batch",
            "service_tier": "batch",
        }))
    };
    meters.into_iter().filter(|(_, quantity, _)| *quantity > 0).filter_map(line).collect()
}

/// `usage` of a batch that has ended.
pub fn usage(batch: &Batch, details: &BatchDetails) -> Value {
    let usage = &batch.progress.usage;
    let charged = details.reservation.as_ref().and_then(|reservation| reservation.settlement).map(|settled| settled.charged);
    json!({
        "requests": batch.progress.succeeded,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens(),
        "cost_nanos": charged.map(nanos),
        "cost_usd": charged.map_or(Value::Null, number),
        "currency": "USD",
    })
}
