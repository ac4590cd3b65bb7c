//! What is held for a batch before anything runs: the most that its rows may cost.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::domain::money::Usd;
use crate::domain::org::ledger::{micros_up, with_fee};
use crate::domain::quote::{Quote, QuotedLane};
use crate::domain::row::batchrouter::{Defaults, parse_item};
use crate::domain::row::openai::MODEL_BREAK;
use crate::domain::vocabulary::Operation;
use crate::http::phaseo::error::Refusal;
use crate::quote::upper_bound;
use crate::quote::{Content, Output};

/// Members whose price is another one than that of the tokens of a text, and is not counted here (its server's
/// list, without those that are).
const UNCOUNTED: [&str; 9] =
    ["audio", "cache_control", "cachecontrol", "input_audio", "input_video", "modalities", "video", "video_url", "web_search_options"];
/// Members that hold schemas, whose names mean nothing.
const SCHEMAS: [&str; 3] = ["parameters", "input_schema", "schema"];

/// The first thing in what a row asks whose price is not counted, for a message.
fn uncounted(members: &Map<String, Value>) -> Option<String> {
    members.iter().find_map(|(name, value)| match name.as_str() {
        _ if value.is_null() => None,
        "modalities" if *value == serde_json::json!(["text"]) => None,
        "tools" => {
            let mut kinds = value.as_array().into_iter().flatten().filter_map(|tool| tool.get("type")?.as_str());
            kinds.find(|kind| !matches!(*kind, "function" | "custom")).map(|kind| format!("`tools` of the type `{kind}`"))
        }
        name if SCHEMAS.contains(&name) => None,
        name if UNCOUNTED.contains(&name) => Some(format!("`{name}`")),
        _ => uncounted_in(value),
    })
}

fn uncounted_in(value: &Value) -> Option<String> {
    match value {
        Value::Object(members) => uncounted(members),
        Value::Array(values) => values.iter().find_map(uncounted_in),
        _ => None,
    }
}

/// The most that these rows may cost on the lanes of their quote, in whole micro-dollars; `None` if a lane has
/// no established price.
///
/// # Errors
/// When nothing bounds what a row may write. A workspace that `prepays` cannot owe more than was held: what its
/// rows cost must be known, all of it.
pub fn most(rows: &[&RawValue], quote: &Quote, prepays: bool) -> Result<Option<Usd>, Refusal> {
    let defaults = Defaults::default();
    let (mut sum, mut other) = (Some(Usd::ZERO), None);
    for (place, raw) in rows.iter().enumerate() {
        // They were read for the quote before.
        let Ok(row) = parse_item(raw.get().as_bytes(), &defaults) else { continue };
        let operation = row.operation.unwrap_or(Operation::Responses);
        let names: Vec<_> = row.model.split(MODEL_BREAK).collect();
        let input = serde_json::from_str::<Map<String, Value>>(row.body).unwrap_or_default();
        if prepays && other.is_none() {
            other = uncounted(&input).map(|what| (place, what));
        }
        let Ok(content) = Content::read(row.endpoint, &input) else { continue };
        let lanes = quote.group(operation, &names).map_or(&[][..], |group| &group.lanes);
        let dearest = dearest(lanes, row.body.len(), content.output()).map_err(|Unbounded| {
            let message = format!("row {place} does not say how much may be written; give it `max_output_tokens` or `max_tokens`");
            Refusal::invalid("batch_max_output_tokens_required", message)
        })?;
        sum = sum.zip(dearest).map(|(sum, dearest)| sum.plus(dearest));
        if sum.is_none() {
            break;
        }
    }
    if let Some((row, what)) = other {
        let message = format!("the workspace prepays, and row {row} has {what}, whose price is not counted");
        return Err(Refusal::invalid("batch_unbounded_cost_dimension_not_supported", message));
    }
    if prepays && sum.is_none() {
        let message = "the workspace prepays, and nobody knows what these rows cost: a provider of their model states no prices";
        return Err(Refusal::invalid("batch_reservation_price_card_missing", message));
    }
    Ok(sum.map(|sum| micros_up(with_fee(upper_bound::with_margin(sum), quote.fee))))
}

/// Nothing bounds what a row may write.
struct Unbounded;

/// The most that a row may cost on one of the lanes that serve rows; `None` if one has no established price.
fn dearest(lanes: &[QuotedLane], body_bytes: usize, output: Output) -> Result<Option<Usd>, Unbounded> {
    let mut dearest = Usd::ZERO;
    for lane in lanes.iter().filter(|lane| lane.items > 0) {
        let usage = upper_bound::of_row(body_bytes, output, lane.most_output).ok_or(Unbounded)?;
        let Some(price) = lane.price else { return Ok(None) };
        dearest = dearest.max(price.cost(&usage));
    }
    Ok(Some(dearest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_a_price_of_its_own_is_found_wherever_it_is() {
        let text = json!({"type": "text", "text": "audio", "cache_control": {"type": "ephemeral"}});
        for (body, found) in [
            (json!({"system": [text]}), Some("`cache_control`")),
            (json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}), Some("`input_audio`")),
            (json!({"modalities": ["text", "audio"]}), Some("`modalities`")),
            (json!({"tools": [{"type": "function"}, {"type": "web_search"}]}), Some("`tools` of the type `web_search`")),
            (json!({"modalities": ["text"], "audio": null, "tools": [{"name": "x", "input_schema": {"audio": {}}}]}), None),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}), None),
        ] {
            assert_eq!(uncounted_in(&body).as_deref(), found, "{body}");
        }
    }
}
