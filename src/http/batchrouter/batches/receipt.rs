//! `GET /v1/batches/{id}/billing-receipt`: what was quoted, where the items ran, what was charged.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::object::ended;
use super::{find, status_of};
use crate::domain::batch::{Batch, BatchInput, QuotedInput};
use crate::domain::error::Code;
use crate::domain::id::BatchId;
use crate::domain::org::ledger::{Reservation, with_fee};
use crate::domain::quote::KeptQuote;
use crate::domain::quote::receipt::{LaneReceipt, Receipt};
use crate::domain::usage::Usage;
use crate::http::batchrouter::error::Refusal;
use crate::http::batchrouter::money::{Pricing, money, pricing};
use crate::http::layers::caller::Caller;
use crate::http::request::PathId;
use crate::http::response::error::ApiError;
use crate::http::response::time::moment;
use crate::http::state::Api;

/// The most items of a lane whose numbers are listed one by one.
const MOST_NUMBERS: u32 = 5_000;

/// `GET /v1/batches/{batch_id}/billing-receipt`
pub async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<Value>, Refusal> {
    let batch = find(&api, &caller, id).await?;
    match receipt(&api, &batch).await? {
        Some(receipt) => Ok(Json(json!({ "billing_receipt": receipt }))),
        None => {
            let message = format!("the batch is {}; there is a receipt when a batch of items has ended", status_of(&api, &batch));
            Err(ApiError::new(Code::ResultsNotReady, message).into())
        }
    }
}

/// The receipt of a batch; `None` before the batch has ended, and for a batch without a quote.
///
/// # Errors
/// When the store has failed.
pub async fn receipt(api: &Api, batch: &Batch) -> Result<Option<Value>, ApiError> {
    let BatchInput::Quoted(order) = &batch.spec.input else { return Ok(None) };
    let Some(reservation) = api.service.store.reservation(batch.spec.id).await? else { return Ok(None) };
    let Some(settled) = reservation.settlement else { return Ok(None) };
    let Receipt { lanes, unreadable, .. } = api.service.store.receipt(batch.spec.id).await?.unwrap_or_default();
    let _look = api.service.turns.look(batch.spec.org).await;
    let kept = api.service.store.quote(order.quote).await?;
    let now = moment(api.service.clock.now());
    let settled_at = ended(&batch.state).map(moment);
    let quoted = pricing(order.estimate.map(Pricing::of_estimate));
    let usage = lanes.iter().fold(Usage::default(), |mut sum, lane| {
        sum += lane.usage;
        sum
    });
    let model = batch.plan.single_model();
    Ok(Some(json!({
        "batch_id": batch.spec.id.in_hex(),
        "org_id": batch.spec.org.in_hex(),
        "created_at": moment(batch.spec.created_at),
        "updated_at": settled_at,
        "generated_at": now,
        "quote": kept.as_ref().map(|kept| quote(kept, batch, order)),
        "product": { "kind": "model", "workflow_plan": null, "model": model },
        "pricing": { "quoted_price": quoted, "final_settled_price": money(settled.charged.0) },
        "provider_lanes": lanes.iter().map(|lane| provider_lane(lane, order)).collect::<Vec<_>>(),
        "rejected_lanes": kept.map(|kept| rejected(&kept)).transpose()?.unwrap_or_default(),
        "usage": usage_object(&usage),
        "credits": credits(&reservation, settled_at),
        "unreadable_items": unreadable,
        "ledger_counts": { "usage_entries": batch.progress.succeeded, "provider_cost_entries": lanes.len() },
    })))
}

fn quote(kept: &KeptQuote, batch: &Batch, order: &QuotedInput) -> Value {
    json!({
        "quote_id": order.quote.in_hex(),
        "status": "accepted",
        "accepted_at": moment(batch.spec.created_at),
        "valid_until": moment(kept.quote.valid_until),
        "quoted_price": pricing(kept.quote.estimate.map(Pricing::of_estimate)),
        "quoted_items": kept.quote.items,
        "price_protection_policy": order.constraints.protection,
    })
}

fn provider_lane(lane: &LaneReceipt, order: &QuotedInput) -> Value {
    json!({
        "provider": lane.provider,
        "provider_model": lane.upstream,
        "model": lane.model,
        "operation": lane.operation,
        "item_count": lane.items,
        "item_sequence_numbers": lane.rows.as_ref().filter(|_| lane.items <= MOST_NUMBERS).map(|rows| rows.iter().collect::<Vec<_>>()),
        "completed_items": lane.answered,
        "taken_over_items": lane.taken_over,
        "usage": usage_object(&lane.usage),
        "provider_cost": money(lane.cost.0),
        "final_settled_price": money(with_fee(lane.cost, order.fee).0),
    })
}

/// The lanes of the quote that were not selected, each with its reasons.
fn rejected(kept: &KeptQuote) -> Result<Vec<Value>, ApiError> {
    let mut shown: Value = serde_json::from_slice(&kept.quote.shown).map_err(ApiError::internal)?;
    let lanes = match shown["quote_lanes"].take() {
        Value::Array(lanes) => lanes,
        _ => Vec::new(),
    };
    Ok(lanes.into_iter().filter(|lane| lane["selected"] == false).collect())
}

fn credits(reservation: &Reservation, settled_at: Option<String>) -> Value {
    let settled = reservation.settlement.unwrap_or_default();
    let status = if settled.charged.is_zero() { "released" } else { "settled" };
    json!({
        "reserved": money(settled.reserved.0),
        "charged": money(settled.charged.0),
        "released": money(settled.released.0),
        "overrun": money(settled.overrun.0),
        "reservation_status": status,
        "settled_at": settled_at,
    })
}

fn usage_object(usage: &Usage) -> Value {
    json!({ "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "total_tokens": usage.total_tokens() })
}
