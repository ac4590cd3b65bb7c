//! What the items of a batch are expected to cost once all of them are counted: what is reserved for them,
//! and whether they stay below their client's ceiling.
//!
//! A quote may have been made of a few items; here it is held against all of them.

use rust_decimal::Decimal;

use crate::domain::batch::QuotedOrder;
use crate::domain::ledger::{micros_up, nanos, with_fee};
use crate::domain::money::Usd;
use crate::domain::plan::PlannedModel;
use crate::domain::problem::{Problem, ProblemCode};
use crate::domain::usage::Usage;

/// Bytes of a body that make a token, at most: what is expected of reading it is never far too much.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes of a body that are not read by the model: names of members, options.
const ENVELOPE: usize = 512;
/// Bytes of an encoded image or file that make a token, about; what it really makes depends on its kind.
const CODED_BYTES_PER_TEXT_BYTE: usize = 16;
/// What stands before the content of a data URL.
const CODED: &[u8] = b";base64,";

/// What is known of the rows of a planned model besides their count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// What one of them was quoted on the planned lane, the fee included; `None` if nobody knows.
    pub each: Option<Usd>,
    /// The same on each of the alternatives, in their order.
    pub elsewhere: Vec<Option<Usd>>,
    /// Bytes of their bodies, as [`text_bytes`] counts them.
    pub read: u64,
}

impl Tally {
    /// So many rows at what one of them costs.
    fn times(each: Usd, rows: u32) -> Usd {
        Usd(each.0.saturating_mul(rows.into()))
    }
}

/// Bytes of a body that are text to be read, encoded images and files counted as far less than they have.
pub(super) fn text_bytes(body: &str) -> u64 {
    let body = body.as_bytes();
    let coded: usize = memchr::memmem::find_iter(body, CODED)
        .map(|at| body[at + CODED.len()..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte)).count())
        .sum();
    (body.len().saturating_sub(coded).saturating_sub(ENVELOPE) + coded / CODED_BYTES_PER_TEXT_BYTE) as u64
}

/// What is to be reserved for all items, in whole micro-dollars.
pub(super) fn reserve(order: &QuotedOrder, models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let rows = models.iter().fold(0_u32, |sum, model| sum.saturating_add(model.rows));
    let average = order.each.map_or(Usd::ZERO, |each| Tally::times(each, rows));
    micros_up(average.max(expected(order, models, tallies)))
}

/// What all items are expected to cost: what they were quoted, and no less than what reading them costs.
fn expected(order: &QuotedOrder, models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let reading = models.iter().zip(tallies).map(|(model, tally)| {
        let usage = Usage { input_tokens: tally.read / BYTES_PER_TOKEN, ..Usage::default() };
        model.lane.price.cost(&usage)
    });
    quoted(models, tallies).max(with_fee(reading.fold(Usd::ZERO, Usd::plus), order.fee))
}

/// What all items were quoted, each on the lane that was planned for it.
fn quoted(models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let costs = models.iter().zip(tallies).filter_map(|(model, tally)| Some(Tally::times(tally.each?, model.rows)));
    costs.fold(Usd::ZERO, Usd::plus)
}

/// Holds all items against the ceiling of their client, and forgets alternatives with which they could exceed
/// it: with all that stay, each row may end on the dearest of its lanes.
///
/// # Errors
/// When they are expected to cost more.
pub(super) fn keep_below_ceiling(order: &QuotedOrder, models: &mut [PlannedModel], tallies: &[Tally]) -> Result<(), Problem> {
    let Some(most) = order.demands.max_price else { return Ok(()) };
    let mut worst = expected(order, models, tallies);
    if nanos(worst) > most {
        let rows: u64 = models.iter().map(|model| u64::from(model.rows)).sum();
        let message = format!("all {rows} items together are expected to cost {} USD, more than {most} USD", micros_up(worst));
        return Err(Problem { code: ProblemCode::PriceCeiling, message, line: None, param: Some("max_price".to_owned()) });
    }
    for (model, tally) in models.iter_mut().zip(tallies) {
        let mut dearest = tally.each.unwrap_or_default();
        let mut costs = tally.elsewhere.iter();
        model.alternatives.retain(|_| {
            let Some(Some(each)) = costs.next() else { return false };
            let more = Usd(each.0.saturating_sub(dearest.0).max(Decimal::ZERO));
            let then = worst.plus(Tally::times(more, model.rows));
            let stays = nanos(then) <= most;
            if stays {
                (worst, dearest) = (then, dearest.max(*each));
            }
            stays
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::QuoteId;
    use crate::domain::item::Defaults;
    use crate::domain::money::PriceSheet;
    use crate::domain::plan::PlannedLane;
    use crate::domain::routing::Constraints;
    use crate::domain::time::Timestamp;

    fn usd(cents: i64) -> Usd {
        Usd(Decimal::new(cents, 2))
    }

    /// A model of fifty rows, its alternatives, and what an item costs here and on each of those.
    fn model(each: i64, elsewhere: &[i64]) -> (PlannedModel, Tally) {
        let lane = |provider: &str| PlannedLane {
            model: "m".into(),
            provider: provider.into(),
            upstream: "m".into(),
            price: PriceSheet { input: Some(Decimal::ONE), ..PriceSheet::default() },
        };
        let alternatives = elsewhere.iter().map(|each| lane(&each.to_string())).collect();
        let tally = Tally { each: Some(usd(each)), elsewhere: elsewhere.iter().map(|each| Some(usd(*each))).collect(), read: 0 };
        (PlannedModel { requested: "m".into(), lane: lane("own"), rows: 50, alternatives, quoted: None }, tally)
    }

    fn order(most: i64) -> QuotedOrder {
        QuotedOrder {
            quote: QuoteId::from_u128(1),
            deadline: Timestamp::UNIX_EPOCH,
            defaults: Defaults { operation: None, models: Vec::new() },
            demands: Constraints { max_price: Some(usd(most)), ..Constraints::default() },
            fee: Decimal::ZERO,
            estimate: None,
            each: None,
            reserve: Usd::ZERO,
            items: None,
            metadata: None,
            webhook: None,
        }
    }

    #[test]
    fn all_items_wherever_they_end_stay_below_the_ceiling() {
        let stay = |most: i64| {
            let (mut models, tallies): (Vec<_>, Vec<_>) = [model(1, &[2, 1, 3]), model(1, &[2])].into_iter().unzip();
            keep_below_ceiling(&order(most), &mut models, &tallies).map_err(|problem| problem.code)?;
            Ok::<_, ProblemCode>(
                models.iter().map(|m| m.alternatives.iter().map(|l| l.provider.clone()).collect()).collect::<Vec<Vec<_>>>(),
            )
        };
        // A hundred rows at a cent; each model that goes to two cents is fifty more, to three a hundred.
        assert_eq!(stay(99), Err(ProblemCode::PriceCeiling));
        assert_eq!(stay(100), Ok(vec![vec!["1".to_owned()], vec![]]));
        assert_eq!(stay(150), Ok(vec![vec!["2".to_owned(), "1".to_owned()], vec![]]));
        assert_eq!(stay(200), Ok(vec![vec!["2".to_owned(), "1".to_owned(), "3".to_owned()], vec![]]));
        assert_eq!(stay(250), Ok(vec![vec!["2".to_owned(), "1".to_owned(), "3".to_owned()], vec!["2".to_owned()]]));
        // Rows that are much longer than those of the quote cost what reading them does: a dollar a million.
        let (mut model, mut tally) = model(1, &[]);
        tally.read = 4 * 3_000_000;
        assert_eq!(reserve(&order(299), std::slice::from_ref(&model), std::slice::from_ref(&tally)), usd(300));
        assert!(keep_below_ceiling(&order(299), std::slice::from_mut(&mut model), &[tally]).is_err());
    }

    #[test]
    fn what_is_encoded_counts_for_little_and_text_about_it_in_full() {
        let text = "x".repeat(10_000);
        assert_eq!(text_bytes(&text), 10_000 - ENVELOPE as u64);
        assert_eq!(text_bytes("{}"), 0);
        let talk = format!("{text} \"file\" \"image\" ;base64, is a word");
        assert!(text_bytes(&talk) > 9_500);
        let image = format!("{text}data:image/png;base64,{}\"", "A".repeat(16_000));
        assert!((10_500..10_600).contains(&text_bytes(&image)), "{}", text_bytes(&image));
    }
}
