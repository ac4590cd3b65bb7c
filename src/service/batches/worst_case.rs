//! The amount that is held for a batch before any row runs: the most that its rows may cost.

use crate::domain::money::Usd;
use crate::domain::org::ledger::{micros_up, with_fee};
use crate::domain::quote::{Quote, QuotedLane};
use crate::quote::{Output, upper_bound};
use crate::service::ServiceError;
use crate::service::quotes::items::ReadItems;

/// The most that these rows may cost on the lanes of their quote, in whole micro-dollars; `None` if
/// a lane has no established price.
///
/// # Errors
/// When the output of a row has no bound. An organisation that `prepays` cannot owe more than was
/// held, so the full cost of its rows must be known.
pub fn worst_case(read: &ReadItems, quote: &Quote, prepays: bool) -> Result<Option<Usd>, ServiceError> {
    let (mut sum, mut other) = (Some(Usd::ZERO), None);
    for (row, bound) in (0_u32..).zip(&read.bounds) {
        if prepays && other.is_none() {
            other = bound.uncounted.clone().map(|what| (row, what));
        }
        let lanes = read.groups.get(bound.group).zip(read.operations.get(bound.group));
        let lanes = lanes.and_then(|(group, operation)| quote.group(*operation, &group.models)).map_or(&[][..], |group| &group.lanes);
        let dearest = dearest(lanes, bound.body_bytes, bound.output).map_err(|Unbounded| ServiceError::Unbounded { row })?;
        sum = sum.zip(dearest).map(|(sum, dearest)| sum.plus(dearest));
        if sum.is_none() {
            break;
        }
    }
    if let Some((row, what)) = other {
        return Err(ServiceError::Uncounted { row, what });
    }
    if prepays && sum.is_none() {
        return Err(ServiceError::Unpriced);
    }
    Ok(sum.map(|sum| micros_up(with_fee(upper_bound::with_margin(sum), quote.fee))))
}

/// The output of a row has no bound.
struct Unbounded;

/// The most that a row may cost on one of the lanes that serve rows; `None` if a lane has no
/// established price.
fn dearest(lanes: &[QuotedLane], body_bytes: usize, output: Output) -> Result<Option<Usd>, Unbounded> {
    let mut dearest = Usd::ZERO;
    for lane in lanes.iter().filter(|lane| lane.items > 0) {
        let usage = upper_bound::of_row(body_bytes, output, lane.most_output).ok_or(Unbounded)?;
        let Some(price) = lane.price else { return Ok(None) };
        dearest = dearest.max(price.cost(&usage));
    }
    Ok(Some(dearest))
}
