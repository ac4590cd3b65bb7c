//! What is held for a batch before anything runs: the most that its rows may cost.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::domain::item::{Defaults, parse_item};
use crate::domain::ledger::{micros_up, with_fee};
use crate::domain::money::{PriceSheet, Usd};
use crate::domain::quote::Quote;
use crate::domain::request::MODEL_BREAK;
use crate::domain::words::Operation;
use crate::http::phaseo::refusal::Refusal;
use crate::route::bound;
use crate::route::quote::Content;

/// The most that these rows may cost on the lanes of their quote, in whole micro-dollars; `None` if a lane has
/// no established price.
///
/// # Errors
/// When nothing bounds what a row may write.
pub fn most(rows: &[&RawValue], quote: &Quote) -> Result<Option<Usd>, Refusal> {
    let defaults = Defaults::default();
    let mut sum = Usd::ZERO;
    for (place, raw) in rows.iter().enumerate() {
        // They were read for the quote before.
        let Ok(row) = parse_item(raw.get().as_bytes(), &defaults) else { continue };
        let operation = row.operation.unwrap_or(Operation::Responses);
        let names: Vec<_> = row.model.split(MODEL_BREAK).collect();
        let input = serde_json::from_str::<Map<String, Value>>(row.body).unwrap_or_default();
        let Ok(content) = Content::read(row.endpoint, &input) else { continue };
        let lanes = quote.group(operation, &names).map_or(&[][..], |group| &group.lanes);
        let mut dearest: Option<Usd> = None;
        for lane in lanes.iter().filter(|lane| lane.items > 0) {
            let Some(usage) = bound::of_row(row.body.len(), content.output(), lane.most_output) else {
                let message = format!("row {place} does not say how much may be written; give it `max_output_tokens` or `max_tokens`");
                return Err(Refusal::invalid("batch_max_output_tokens_required", message));
            };
            let Some(price) = lane.price else { return Ok(None) };
            dearest = dearest.max(Some(PriceSheet::cost(&price, &usage)));
        }
        sum = sum.plus(dearest.unwrap_or_default());
    }
    Ok(Some(micros_up(with_fee(bound::with_margin(sum), quote.fee))))
}
