//! The lanes for items, as chosen by their quote.
//!
//! Nothing is decided anew: a batch goes where its quote said, at the quoted prices, and what was
//! not quoted does not run.

use rust_decimal::Decimal;

use super::cost::Tally;
use crate::catalog::Snapshot;
use crate::domain::batch::plan::{MAX_ALTERNATIVES, PlannedLane, PlannedModel, QuotedShare};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::money::Usd;
use crate::domain::quote::{Quote, QuotedGroup, QuotedLane};
use crate::domain::row::openai::{MODEL_BREAK, RowFault};
use crate::domain::vocabulary::Operation;

/// The planned models of items that name these models: one for each lane selected by the quote.
///
/// # Errors
/// When the quote has no lanes for them.
pub fn planned(quote: &Quote, requested: &str, operation: Operation, catalog: &Snapshot) -> Result<Vec<(PlannedModel, Tally)>, RowFault> {
    let asked: Vec<_> = requested.split(MODEL_BREAK).collect();
    let group = quote.group(operation, &asked).or_else(|| quote.group(operation, &canonical(requested, catalog)));
    let Some(group) = group else {
        let shown = requested.replace(MODEL_BREAK, "`, `");
        let message = format!("the quote has no lane for `{shown}` with the operation `{operation}`; quote a sample of every kind of item");
        return Err(RowFault::new(ProblemCode::NotQuoted, Some("model"), message));
    };
    let each = average(group);
    let planned = group.lanes.iter().filter(|lane| lane.items > 0).map(|lane| {
        let others = others(group, lane);
        let share = QuotedShare {
            operation,
            weight: lane.items,
            most_input: lane.most_input,
            most_output: lane.most_output,
            text_only: lane.text_only,
            endpoints: catalog.offering(&lane.provider, &lane.upstream).into_iter().flat_map(|known| &known.endpoints).copied().collect(),
        };
        let model = PlannedModel {
            requested: requested.to_owned(),
            endpoint: None,
            lane: to_plan(lane),
            rows: 0,
            alternatives: others.iter().map(|other| to_plan(other)).collect(),
            quoted: Some(share),
        };
        let elsewhere = others.iter().map(|other| other.each).collect();
        let most_elsewhere = others.iter().map(|other| catalog.most_output(&other.provider, &other.upstream)).collect();
        let (usual_output, most_output) = (lane.usual_output, lane.most_output);
        (model, Tally { each, elsewhere, usual_output, most_output, most_elsewhere, ..Tally::default() })
    });
    Ok(planned.collect())
}

/// The average quoted cost of an item in a group, over all lanes: the quote does not fix how a
/// batch is divided among them.
fn average(group: &QuotedGroup) -> Option<Usd> {
    let serving = || group.lanes.iter().filter(|lane| lane.items > 0);
    let costs = serving().map(|lane| Some(lane.each?.0.saturating_mul(lane.items.into()))).sum::<Option<Decimal>>()?;
    let items: u64 = serving().map(|lane| u64::from(lane.items)).sum();
    Some(Usd(costs / Decimal::from(items.max(1))))
}

/// The canonical names of models that an item names, each once.
fn canonical<'a>(requested: &'a str, catalog: &'a Snapshot) -> Vec<&'a str> {
    let mut models = Vec::new();
    for name in requested.split(MODEL_BREAK) {
        let model = catalog.model(name).map_or(name, |known| &known.id);
        if !models.contains(&model) {
            models.push(model);
        }
    }
    models
}

fn to_plan(lane: &QuotedLane) -> PlannedLane {
    PlannedLane {
        model: lane.model.clone(),
        provider: lane.provider.clone(),
        upstream: lane.upstream.clone(),
        price: lane.price.unwrap_or_default(),
    }
}

/// The other lanes for the items of a lane: those that the quote allowed to take over, in the
/// quote's order.
fn others<'a>(group: &'a QuotedGroup, planned: &QuotedLane) -> Vec<&'a QuotedLane> {
    let other = |lane: &&QuotedLane| (&lane.provider, &lane.upstream) != (&planned.provider, &planned.upstream);
    group.lanes.iter().filter(other).filter(|lane| lane.takes_over).take(MAX_ALTERNATIVES).collect()
}
