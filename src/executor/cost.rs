//! What the items of a batch are expected to cost once all of them are counted: what is reserved for them,
//! and whether they stay below their client's ceiling.
//!
//! A quote may have been made of a few items; here it is held against all of them.

use crate::domain::batch::QuotedOrder;
use crate::domain::ledger::{micros_up, with_fee};
use crate::domain::money::Usd;
use crate::domain::plan::PlannedModel;
use crate::domain::problem::{Problem, ProblemCode};
use crate::domain::quote::Quote;
use crate::domain::usage::Usage;

/// Bytes of a body that make a token, at most: what is reserved for what is read is never far too little.
const BYTES_PER_TOKEN: u64 = 4;
/// Decimal places of US dollars beyond which a sum of shares says nothing.
const PLACES: u32 = 9;

/// What is known of the rows of a planned model besides their count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// What one of them was quoted on the planned lane, the fee included; `None` if nobody knows.
    pub each: Option<Usd>,
    /// The same on each of the alternatives, in their order.
    pub elsewhere: Vec<Option<Usd>>,
    /// Bytes of their bodies; of those that have images or files in them, none.
    pub read: u64,
}

impl Tally {
    /// So many rows at what one of them costs.
    fn times(each: Usd, rows: u32) -> Usd {
        Usd(each.0.saturating_mul(rows.into()))
    }
}

/// What is to be reserved for all items, in whole micro-dollars: what they were quoted, and no less than
/// what reading them costs.
pub(super) fn reserve(order: &QuotedOrder, models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let reading = models.iter().zip(tallies).map(|(model, tally)| {
        let usage = Usage { input_tokens: tally.read / BYTES_PER_TOKEN, ..Usage::default() };
        model.lane.price.cost(&usage)
    });
    let reading = with_fee(reading.fold(Usd::ZERO, Usd::plus), order.fee);
    let rows = models.iter().fold(0_u32, |sum, model| sum.saturating_add(model.rows));
    let average = order.each.map_or(Usd::ZERO, |each| Tally::times(each, rows));
    micros_up(average.max(quoted(models, tallies)).max(reading))
}

/// What all items were quoted, each on the lane that was planned for it.
fn quoted(models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let costs = models.iter().zip(tallies).filter_map(|(model, tally)| Some(Tally::times(tally.each?, model.rows)));
    costs.fold(Usd::ZERO, Usd::plus)
}

/// Holds all items against the ceiling of their client, and forgets the alternatives with which they could
/// exceed it. Items as many as were quoted were held against it by the quote.
///
/// # Errors
/// When they are expected to cost more.
pub(super) fn keep_below_ceiling(
    order: &QuotedOrder,
    quote: &Quote,
    models: &mut [PlannedModel],
    tallies: &[Tally],
) -> Result<(), Problem> {
    let rows = models.iter().fold(0_u32, |sum, model| sum.saturating_add(model.rows));
    let Some(most) = order.demands.max_price.filter(|_| rows != quote.items) else { return Ok(()) };
    let fits = |total: Usd| total.0.round_dp(PLACES) <= most.0;
    let total = quoted(models, tallies);
    if !fits(total) {
        let message = format!("all {rows} items together are expected to cost {} USD, more than {most} USD", micros_up(total));
        return Err(Problem { code: ProblemCode::PriceCeiling, message, line: None, param: Some("max_price".to_owned()) });
    }
    for (model, tally) in models.iter_mut().zip(tallies) {
        let here = Tally::times(tally.each.unwrap_or_default(), model.rows);
        let stays_below = |each: &Option<Usd>| {
            each.is_some_and(|each| fits(Usd(total.0.saturating_sub(here.0).saturating_add(Tally::times(each, model.rows).0))))
        };
        let mut costs = tally.elsewhere.iter();
        model.alternatives.retain(|_| costs.next().is_some_and(stays_below));
    }
    Ok(())
}
