//! The expected cost of a batch's items before the batch is made from its quote, and whether its
//! client allows that cost.
//!
//! Not here: the expected cost once the items of a file are counted. The executor computes that.

use rust_decimal::Decimal;

use crate::domain::money::{PriceSheet, Usd};
use crate::domain::org::ledger::{micros_up, nanos, with_fee};
use crate::domain::quote::{Estimate, Quote, QuotedLane};
use crate::domain::usage::Usage;
use crate::domain::vocabulary::Operation;
use crate::quote::tokens::Tokenizer;
use crate::quote::{Group, upper_bound};
use crate::service::quotes::items::ReadItems;
use crate::service::quotes::worst_case::WorstCase;
use crate::service::{IssueCode, IssuePath, ServiceError};

/// Refuses a batch that is expected to cost more than its client allows. The quote may have been
/// made from a few items, while the limit applies to all of them.
///
/// # Errors
/// When the batch is expected to cost more, or its cost is unknown, or none of its items could run
/// because any of them may cost more.
pub fn within(most: Usd, estimate: Option<Estimate>, worst: Option<WorstCase>) -> Result<(), ServiceError> {
    let message = match estimate.map(Estimate::total) {
        Some(total) if nanos(total) <= most => match worst.filter(|worst| micros_up(worst.least) > most) {
            None => return Ok(()),
            Some(worst) => upper_bound::nothing_fits(worst.least, most),
        },
        Some(total) => format!("all items together cost about {} USD, more than {most} USD", micros_up(total)),
        None => format!("the cost of the items is unknown, and they may cost {most} USD at most"),
    };
    Err(ServiceError::issue(IssueCode::PriceCeiling, IssuePath::Field("max_price"), message))
}

/// The expected cost of these very items; `None` if it is unknown.
pub fn of_items(read: &ReadItems, count: u32, quote: &Quote) -> Option<Estimate> {
    scaled(quote, count).map(|scaled| larger(scaled, priced(read, quote), quote.fee))
}

/// The expected cost of this many items, if they are like the quoted ones.
pub fn scaled(quote: &Quote, items: u32) -> Option<Estimate> {
    let estimate = quote.estimate?;
    let by = |amount: Usd| Usd(amount.0.saturating_mul(Decimal::from(items)) / Decimal::from(quote.items.max(1)));
    Some(Estimate { provider: by(estimate.provider), fee: by(estimate.fee) })
}

/// The cost of these very items on the lanes that serve them, with each lane's number of items
/// taken from the quote.
fn priced(read: &ReadItems, quote: &Quote) -> Usd {
    let of_group = |(group, operation): (&Group, &Operation)| {
        let lanes = quote.group(*operation, &group.models).map_or(&[][..], |quoted| &quoted.lanes);
        let lanes: Vec<_> = lanes.iter().filter(|lane| lane.items > 0).filter_map(|lane| Some((lane, lane.price?))).collect();
        let shares: u64 = lanes.iter().map(|(lane, _)| u64::from(lane.items)).sum();
        let of_lane = |(lane, price): &(&QuotedLane, PriceSheet)| {
            let tokenizer = Tokenizer::of(&lane.model);
            let items = group.items.iter().filter_map(|place| read.items.get(*place as usize));
            let costs = items.map(|item| {
                let (input_tokens, output_tokens) = (item.input_tokens(tokenizer), item.likely_output(lane.usual_output));
                price.cost(&Usage { input_tokens, output_tokens, ..Usage::default() })
            });
            Usd(costs.fold(Usd::ZERO, Usd::plus).0.saturating_mul(lane.items.into()))
        };
        Usd(lanes.iter().map(of_lane).fold(Usd::ZERO, Usd::plus).0 / Decimal::from(shares.max(1)))
    };
    read.groups.iter().zip(&read.operations).map(of_group).fold(Usd::ZERO, Usd::plus)
}

/// The estimate, or the counted cost of the items if that is higher. A sample that has little to do
/// with the batch must not determine the reservation.
fn larger(estimate: Estimate, counted: Usd, fee: Decimal) -> Estimate {
    match nanos(counted) > nanos(estimate.provider) {
        true => Estimate { provider: counted, fee: Usd(with_fee(counted, fee).0.saturating_sub(counted.0)) },
        false => estimate,
    }
}
