//! The most that rows may cost, and the amount that is held for a batch of them before any row runs.

use crate::domain::money::Usd;
use crate::domain::org::ledger::{micros_up, with_fee};
use crate::domain::quote::{Estimate, Quote, QuotedLane};
use crate::quote::upper_bound;
use crate::service::ServiceError;
use crate::service::quotes::items::{Bound, ReadItems};

/// What must be known of the cost of rows.
#[derive(Debug, Clone, Copy)]
pub struct Demands {
    /// Each row, or its lane, states a limit of the output. Otherwise one is assumed.
    pub limits: bool,
    /// The organisation cannot owe more than was held, so the full cost of its rows must be known.
    pub prepaid: bool,
}

/// What rows may cost, the fee included.
#[derive(Debug, Clone, Copy)]
pub struct WorstCase {
    /// All of them at most, in whole micro-dollars, with a margin.
    pub all: Usd,
    /// The cheapest of them at most.
    pub least: Usd,
}

/// The most that these rows may cost on the lanes of their quote; `None` if a lane has no established
/// price.
///
/// # Errors
/// When something is not known that must be.
pub fn worst_case(read: &ReadItems, quote: &Quote, demands: Demands) -> Result<Option<WorstCase>, ServiceError> {
    let (mut sum, mut least, mut other) = (Some(Usd::ZERO), None::<Usd>, None);
    for (row, bound) in (0_u32..).zip(&read.bounds) {
        if demands.prepaid && other.is_none() {
            other = bound.uncounted.clone().map(|what| (row, what));
        }
        let lanes = read.groups.get(bound.group).zip(read.operations.get(bound.group));
        let lanes = lanes.and_then(|(group, operation)| quote.group(*operation, &group.models)).map_or(&[][..], |group| &group.lanes);
        let dearest = dearest(lanes, bound, demands.limits).map_err(|Unbounded| ServiceError::Unbounded { row })?;
        sum = sum.zip(dearest).map(|(sum, dearest)| sum.plus(dearest));
        least = [least, dearest].into_iter().flatten().min();
        if sum.is_none() {
            break;
        }
    }
    if let Some((row, what)) = other {
        return Err(ServiceError::Uncounted { row, what });
    }
    if demands.prepaid && sum.is_none() {
        return Err(ServiceError::Unpriced);
    }
    let all = |sum| micros_up(with_fee(upper_bound::with_margin(sum), quote.fee));
    let least = with_fee(least.unwrap_or_default(), quote.fee);
    Ok(sum.map(|sum| WorstCase { all: all(sum), least }))
}

/// The amount to reserve for a batch, in whole micro-dollars: the most that its rows may cost, if that is
/// known, and no more than its client allows.
pub fn reserve(worst: Option<WorstCase>, estimate: Option<Estimate>, allowed: Option<Usd>) -> Usd {
    let expected = estimate.map_or(Usd::ZERO, |estimate| micros_up(estimate.total()));
    upper_bound::within(worst.map_or(Usd::ZERO, |worst| worst.all).max(expected), allowed)
}

/// The output of a row has no bound.
struct Unbounded;

/// The most that a row may cost on one of the lanes that serve rows, or may take them over; `None`
/// if a lane that serves rows has no established price.
fn dearest(lanes: &[QuotedLane], row: &Bound, needs_limit: bool) -> Result<Option<Usd>, Unbounded> {
    let mut dearest = Usd::ZERO;
    for lane in lanes.iter().filter(|lane| lane.items > 0 || (lane.takes_over && lane.price.is_some())) {
        if needs_limit && lane.items > 0 && !upper_bound::is_bounded(row.output, lane.most_output) {
            return Err(Unbounded);
        }
        let usage = upper_bound::of_row(row.body_bytes, row.media, row.output, lane.most_output);
        let Some(price) = lane.price else { return Ok(None) };
        dearest = dearest.max(price.cost(&usage));
    }
    Ok(Some(dearest))
}
