//! A batch as this dialect shows it.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::domain::batch::{Batch, BatchInput, BatchState, Ending, QuotedInput};
use crate::domain::quote::constraints::Constraints;
use crate::domain::time::Timestamp;
use crate::executor::Stage;
use crate::http::batchrouter::money::{Pricing, pricing};
use crate::http::batchrouter::quotes::object::preferences;
use crate::http::response::signed_links::Base;
use crate::http::response::time::moment;
use crate::store::Seal;

/// What the batch object needs besides the batch.
pub struct Around<'a> {
    pub stage: Stage,
    pub base: &'a Base,
    pub seal: &'a Seal,
    pub now: Timestamp,
}

/// BatchRouter's word for the status of a batch (BatchRouter's guide to results). Each word is a
/// stage of ours: `pending`, `queued` and `routing` before the batch is validated, `dispatched`
/// until the first of its results is durable, then `processing`, and `completing` while the
/// remaining results are written.
pub fn status(batch: &Batch, stage: Stage) -> &'static str {
    if let Some(end) = batch.end() {
        return end.word();
    }
    match batch.state {
        BatchState::Validating => match stage {
            Stage::Pending => "pending",
            Stage::Queued => "queued",
            Stage::Routing => "routing",
        },
        BatchState::InProgress { .. } if batch.progress.unfinished() == batch.progress.total => "dispatched",
        BatchState::InProgress { .. } => "processing",
        BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => "completing",
        BatchState::Completed { .. } | BatchState::Failed { .. } | BatchState::Expired { .. } | BatchState::Cancelled { .. } => {
            "completing"
        }
    }
}

/// The batch object, without the key `batch` that repeats it.
pub fn object(batch: &Batch, around: &Around<'_>) -> Map<String, Value> {
    let spec = &batch.spec;
    let quoted = match &spec.input {
        BatchInput::Quoted(order) => Some(order.as_ref()),
        BatchInput::Unquoted { .. } => None,
    };
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| _ = shown.insert(name.to_owned(), value);
    let deadline = moment(spec.deadline());
    put("id", json!(spec.id.in_hex()));
    put("object", json!("batch"));
    put("org_id", json!(spec.org.in_hex()));
    put("quote_id", json!(quoted.map(|order| order.quote.in_hex())));
    put("status", json!(status(batch, around.stage)));
    put("item_count", json!(items(batch, quoted)));
    put("counts", counts(batch, quoted));
    put("created_at", json!(moment(spec.created_at)));
    put("updated_at", json!(moment(updated(batch))));
    put("completed_at", json!(ended(&batch.state).map(moment)));
    put("sla_deadline", json!(deadline));
    put("deadline_at", json!(deadline));
    put("metadata", metadata(batch, quoted));
    constraints(quoted, &mut put);
    put("pricing_estimate", pricing(quoted.and_then(|order| order.estimate).map(Pricing::of_estimate)));
    files(batch, around, &mut put);
    put("errors", errors(batch));
    put("webhook", json!(quoted.and_then(|order| order.webhook.as_ref()).map(|webhook| json!({ "url": webhook.url }))));
    shown
}

fn constraints(quoted: Option<&QuotedInput>, put: &mut impl FnMut(&str, Value)) {
    let default = Constraints::default();
    let constraints = quoted.map_or(&default, |order| &order.constraints);
    put("routing_mode", json!(constraints.mode));
    put("sla_tier", json!(constraints.tier));
    put("privacy_tier", json!(constraints.privacy_tier));
    put("allowed_regions", json!(constraints.regions));
    put("required_tools", json!(constraints.tools));
    put("provider_preferences", preferences(&constraints.preferences));
    put("price_protection_policy", json!(constraints.protection));
}

/// The number of items of the batch: the counted number, or else the number that the client stated.
fn items(batch: &Batch, quoted: Option<&QuotedInput>) -> Option<u32> {
    Some(batch.progress.total).filter(|total| *total > 0).or_else(|| quoted.and_then(|order| order.items))
}

fn counts(batch: &Batch, quoted: Option<&QuotedInput>) -> Value {
    let progress = &batch.progress;
    let total = items(batch, quoted).unwrap_or(0);
    let open = total.saturating_sub(progress.succeeded).saturating_sub(progress.failed);
    let failed = progress.failed.saturating_sub(progress.cancelled);
    let (mut cancelled, mut pending, mut running) = (progress.cancelled, 0, 0);
    match batch.state {
        BatchState::Validating | BatchState::Failed { .. } => pending = open,
        BatchState::InProgress { .. } | BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => running = open,
        BatchState::Cancelled { .. } => cancelled += open,
        BatchState::Completed { .. } | BatchState::Expired { .. } => {}
    }
    json!({
        "total": total, "pending": pending, "running": running, "completed": progress.succeeded,
        "failed": failed, "canceled": cancelled, "cancelled": cancelled,
    })
}

/// When a batch ended.
pub fn ended(state: &BatchState) -> Option<Timestamp> {
    match state {
        BatchState::Failed { at }
        | BatchState::Completed { at, .. }
        | BatchState::Expired { at, .. }
        | BatchState::Cancelled { at, .. } => Some(*at),
        BatchState::Validating | BatchState::InProgress { .. } | BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => None,
    }
}

/// When a batch entered its present state.
fn updated(batch: &Batch) -> Timestamp {
    match &batch.state {
        BatchState::Validating => batch.spec.created_at,
        BatchState::InProgress { since } | BatchState::Cancelling { since, .. } => *since,
        BatchState::Finalizing { since, ending: Ending::Completed | Ending::Expired, .. } => *since,
        ended_state => ended(ended_state).unwrap_or(batch.spec.created_at),
    }
}

fn metadata(batch: &Batch, quoted: Option<&QuotedInput>) -> Value {
    let pairs = batch.spec.metadata.pairs();
    match quoted.and_then(|order| order.metadata.as_deref()) {
        // The create has already read this text as an object.
        Some(text) => {
            serde_json::from_str::<Box<RawValue>>(text).ok().and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
        }
        None if pairs.is_empty() => Value::Null,
        None => Value::Object(pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect()),
    }
}

fn files(batch: &Batch, around: &Around<'_>, put: &mut impl FnMut(&str, Value)) {
    let files = batch.state.files();
    let link = |file: Option<crate::domain::id::FileId>| file.map(|file| around.base.link(around.seal, file, around.now).url);
    put("input_file_id", json!(batch.spec.input_file.in_hex()));
    put("output_file_id", json!(files.output.map(crate::domain::id::FileId::in_hex)));
    put("error_file_id", json!(files.errors.map(crate::domain::id::FileId::in_hex)));
    put("output_file_url", json!(link(files.output)));
    put("error_file_url", json!(link(files.errors)));
}

/// The problems of the input, line by line.
fn errors(batch: &Batch) -> Value {
    if batch.problems.is_empty() {
        return Value::Null;
    }
    let issue = |problem: &crate::domain::batch::problem::Problem| {
        let place = [problem.line.map(|line| format!("line {line}")), problem.param.clone()];
        json!({ "code": problem.code.as_str(), "path": place.into_iter().flatten().collect::<Vec<_>>().join(": "), "message": problem.message })
    };
    json!(batch.problems.iter().map(issue).collect::<Vec<_>>())
}
