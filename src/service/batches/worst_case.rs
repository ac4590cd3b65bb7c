//! The amount that is held for a batch before any row runs: the most that its rows may cost.

use crate::domain::money::Usd;
use crate::domain::org::ledger::{micros_up, with_fee};
use crate::domain::quote::{Quote, QuotedLane};
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

/// The most that these rows may cost on the lanes of their quote, in whole micro-dollars; `None` if
/// a lane has no established price.
///
/// # Errors
/// When something is not known that must be.
pub fn worst_case(read: &ReadItems, quote: &Quote, demands: Demands) -> Result<Option<Usd>, ServiceError> {
    let (mut sum, mut other) = (Some(Usd::ZERO), None);
    for (row, bound) in (0_u32..).zip(&read.bounds) {
        if demands.prepaid && other.is_none() {
            other = bound.uncounted.clone().map(|what| (row, what));
        }
        let lanes = read.groups.get(bound.group).zip(read.operations.get(bound.group));
        let lanes = lanes.and_then(|(group, operation)| quote.group(*operation, &group.models)).map_or(&[][..], |group| &group.lanes);
        let dearest = dearest(lanes, bound, demands.limits).map_err(|Unbounded| ServiceError::Unbounded { row })?;
        sum = sum.zip(dearest).map(|(sum, dearest)| sum.plus(dearest));
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
    Ok(sum.map(|sum| micros_up(with_fee(upper_bound::with_margin(sum), quote.fee))))
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
