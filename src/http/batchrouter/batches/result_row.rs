//! The result of an item as this dialect shows it: in pages, and as a line of the full results.

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::id::RowKey;
use crate::domain::money::Usd;
use crate::domain::org::ledger::with_fee;
use crate::domain::row::line_ends::escape_from;
use crate::domain::row::output::{CANCELLED, EXPIRED, usage_note};
use crate::domain::row::retry::FailureClass;
use crate::domain::row::{Outcome, Response, RowResult};
use crate::domain::vocabulary::Operation;
use crate::http::batchrouter::money::digits;

/// The code of an error that the same request would meet again.
const REFUSED: &str = FailureClass::Refused { status: 400 }.code();

/// A result row, with the fields that were observed.
#[derive(Serialize)]
struct Row<'a> {
    custom_id: &'a str,
    customer_item_id: &'a str,
    batch_item_id: String,
    /// Counted from 0, in the order of the input.
    sequence_no: u32,
    operation: Operation,
    status: &'static str,
    provider: Option<&'a str>,
    provider_model: Option<&'a str>,
    attempt: usize,
    usage: UsageObject,
    cost: Cost,
    output: Option<&'a RawValue>,
    error: Option<ErrorObject<'a>>,
    completed_at: String,
}

#[derive(Serialize)]
struct UsageObject {
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    /// What was made of numbers that are odd or missing. Our own extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_note: Option<String>,
}

#[derive(Serialize)]
struct Cost {
    provider_cost: Money,
    customer_charge: Money,
    platform_margin: Money,
    pricing_source: &'static str,
    provider_execution_ref: Option<String>,
}

#[derive(Serialize)]
struct Money {
    currency: &'static str,
    amount: String,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    code: &'a str,
    message: &'a str,
    retryable: bool,
    /// The provider's answer, if the provider gave one: its HTTP status and its body. Our own
    /// extension.
    provider_status: Option<u16>,
    provider_response: Option<&'a RawValue>,
}

fn money(amount: Usd) -> Money {
    Money { currency: "usd", amount: digits(amount.0) }
}

/// An id for an item: always the same for the same row.
fn item_id(key: RowKey) -> String {
    format!("item_{:032x}", key.number())
}

/// Appends the result as JSON, without a line break. `fee` is a percentage of the provider's
/// charge.
pub fn write(result: &RowResult, fee: Decimal, out: &mut Vec<u8>) {
    let last = result.attempts.last();
    let (provider, upstream) = match last.map(|attempt| attempt.lane.as_str()) {
        // An answer from the cache.
        Some(lane) if lane.starts_with("cache:") => (Some("cache"), None),
        Some(lane) => lane.split_once('/').map_or((Some(lane), None), |(provider, upstream)| (Some(provider), Some(upstream))),
        None => (None, None),
    };
    let charge = with_fee(result.cost, fee);
    let reference = result.outcome.response().and_then(|response| response.request_id.clone());
    let (usage, usage_note) = (&result.usage, usage_note(result));
    let row = Row {
        custom_id: &result.custom_id,
        customer_item_id: &result.custom_id,
        batch_item_id: item_id(result.key),
        sequence_no: result.key.row.0,
        operation: result.operation.unwrap_or(Operation::Responses),
        status: status(&result.outcome),
        provider,
        provider_model: upstream,
        attempt: result.attempts.len(),
        usage: UsageObject {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            total_tokens: usage.total_tokens(),
            usage_note,
        },
        cost: Cost {
            provider_cost: money(result.cost),
            customer_charge: money(charge),
            platform_margin: money(Usd(charge.0.saturating_sub(result.cost.0))),
            pricing_source: if usage.total_tokens() > 0 { "provider_usage_rate_card" } else { "catalog" },
            provider_execution_ref: reference,
        },
        output: match &result.outcome {
            Outcome::Succeeded(response) => raw(response),
            Outcome::Rejected(_) | Outcome::Failed { .. } | Outcome::Expired { .. } | Outcome::Cancelled { .. } => None,
        },
        error: error(&result.outcome),
        completed_at: format!("{:.6}", result.finished_at),
    };
    let before = out.len();
    // Writing strings, numbers and JSON into a vector cannot fail.
    if serde_json::to_writer(&mut *out, &row).is_err() {
        out.truncate(before);
        out.extend_from_slice(b"null");
    }
    escape_from(before, out);
}

const fn status(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded(_) => "completed",
        Outcome::Rejected(_) | Outcome::Failed { .. } => "failed",
        Outcome::Expired { .. } => "expired",
        Outcome::Cancelled { .. } => "cancelled",
    }
}

/// The provider's body, unchanged.
fn raw(response: &Response) -> Option<&RawValue> {
    serde_json::from_slice(&response.body).ok()
}

fn error<'a>(outcome: &'a Outcome) -> Option<ErrorObject<'a>> {
    let plain = |(code, message), retryable| ErrorObject { code, message, retryable, provider_status: None, provider_response: None };
    let after = |last: &'a Option<Response>, said| ErrorObject {
        provider_status: last.as_ref().map(|response| response.status),
        provider_response: last.as_ref().and_then(raw),
        ..plain(said, true)
    };
    match outcome {
        Outcome::Succeeded(_) => None,
        Outcome::Rejected(response) => Some(ErrorObject {
            provider_status: Some(response.status),
            provider_response: raw(response),
            ..plain(("provider_error", "the provider refused the request; `provider_response` says why"), false)
        }),
        Outcome::Failed { error, last } => {
            Some(ErrorObject { retryable: error.code != REFUSED, ..after(last, (error.code.as_str(), error.message.as_str())) })
        }
        Outcome::Expired { last } => Some(after(last, EXPIRED)),
        Outcome::Cancelled { last } => Some(after(last, CANCELLED)),
    }
}
