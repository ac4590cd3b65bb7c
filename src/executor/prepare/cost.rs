//! The expected cost of a batch's items once all of them are counted: the amount to reserve for
//! them, and whether they stay below their client's ceiling.
//!
//! A quote may have been made from a few items; here it is checked against all of them.

use rust_decimal::Decimal;

use crate::domain::batch::QuotedInput;
use crate::domain::batch::plan::PlannedModel;
use crate::domain::batch::problem::{Problem, ProblemCode};
use crate::domain::money::Usd;
use crate::domain::org::ledger::{micros_up, nanos, with_fee};
use crate::domain::usage::Usage;
use crate::quote::measured::Measured;
use crate::quote::upper_bound;

/// What is known about the rows of a planned model besides their count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The quoted cost of one row on the planned lane, the fee included; `None` if unknown.
    pub each: Option<Usd>,
    /// The quoted cost of one row on each of the alternatives, in their order.
    pub elsewhere: Vec<Option<Usd>>,
    /// Average output tokens of an answer on the planned lane, if enough were observed.
    pub usual_output: Option<u64>,
    /// The most output tokens that the planned lane writes, if known.
    pub most_output: Option<u64>,
    /// The same of each of the alternatives, in their order.
    pub most_elsewhere: Vec<Option<u64>>,
    /// Take the most that rows may cost for their expected cost.
    pub at_most: bool,
    /// Tokens that the rows are expected to read, and to write.
    pub read: u64,
    pub written: u64,
    /// The most that the rows may cost, each on its dearest lane, without the fee.
    pub most: Usd,
    /// The most that the cheapest of them may cost on the planned lane; `None` without rows.
    pub least: Option<Usd>,
}

impl Tally {
    /// Adds one row of this model.
    pub fn add(&mut self, row: &Measured, model: &PlannedModel) {
        let most = row.most(self.most_output);
        let cost = model.lane.price.cost(&most);
        let elsewhere = model.alternatives.iter().zip(&self.most_elsewhere).map(|(lane, most)| lane.price.cost(&row.most(*most)));
        self.most = self.most.plus(elsewhere.fold(cost, Usd::max));
        self.least = Some(self.least.map_or(cost, |least| least.min(cost)));
        let likely = || Usage { input_tokens: row.read, output_tokens: row.output.likely(self.usual_output), ..Usage::default() };
        let is_bound = self.at_most && upper_bound::is_bounded(row.output, self.most_output);
        let usage = if is_bound { most } else { likely() };
        self.read = self.read.saturating_add(usage.input_tokens);
        self.written = self.written.saturating_add(usage.output_tokens);
    }

    /// The cost of so many rows at the cost of one.
    fn times(each: Usd, rows: u32) -> Usd {
        Usd(each.0.saturating_mul(rows.into()))
    }
}

/// The amount to reserve for all items, in whole micro-dollars: the most that they may cost, and no
/// more than their client allows.
pub fn reserve(order: &QuotedInput, models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let rows = models.iter().fold(0_u32, |sum, model| sum.saturating_add(model.rows));
    let average = order.each.map_or(Usd::ZERO, |each| Tally::times(each, rows));
    let most = tallies.iter().map(|tally| tally.most).fold(Usd::ZERO, Usd::plus);
    let most = with_fee(upper_bound::with_margin(most), order.fee);
    upper_bound::within(micros_up(average.max(expected(order, models, tallies)).max(most)), order.constraints.max_price)
}

/// The expected cost of all items: what they were quoted, and no less than the cost by their own
/// size.
fn expected(order: &QuotedInput, models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let own = models.iter().zip(tallies).map(|(model, tally)| {
        let usage = Usage { input_tokens: tally.read, output_tokens: tally.written, ..Usage::default() };
        model.lane.price.cost(&usage)
    });
    let own = own.fold(Usd::ZERO, Usd::plus);
    let own = if order.holds_the_most() { upper_bound::with_margin(own) } else { own };
    quoted(models, tallies).max(with_fee(own, order.fee))
}

/// The quoted cost of all items, each on the lane that was planned for it.
fn quoted(models: &[PlannedModel], tallies: &[Tally]) -> Usd {
    let costs = models.iter().zip(tallies).filter_map(|(model, tally)| Some(Tally::times(tally.each?, model.rows)));
    costs.fold(Usd::ZERO, Usd::plus)
}

/// Checks all items against their client's ceiling, and drops alternatives that could exceed it:
/// with every alternative that stays, each row may end on its most expensive lane.
///
/// # Errors
/// When the items are expected to cost more than the ceiling.
pub fn keep_below_ceiling(order: &QuotedInput, models: &mut [PlannedModel], tallies: &[Tally]) -> Result<(), Problem> {
    let Some(most) = order.constraints.max_price else { return Ok(()) };
    let mut worst = expected(order, models, tallies);
    if nanos(worst) > most {
        let rows: u64 = models.iter().map(|model| u64::from(model.rows)).sum();
        let message = format!("all {rows} items together are expected to cost {} USD, more than {most} USD", micros_up(worst));
        return Err(Problem { code: ProblemCode::PriceCeiling, message, line: None, param: Some("max_price".to_owned()) });
    }
    let least = tallies.iter().filter_map(|tally| tally.least).min().map(|least| with_fee(least, order.fee));
    if let Some(least) = least.filter(|least| micros_up(*least) > most) {
        let message = upper_bound::nothing_fits(least, most);
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
    use crate::domain::batch::plan::PlannedLane;
    use crate::domain::id::QuoteId;
    use crate::domain::money::PriceSheet;
    use crate::domain::quote::constraints::Constraints;
    use crate::domain::row::batchrouter::Defaults;
    use crate::domain::time::Timestamp;
    use crate::quote::Output;

    fn usd(cents: i64) -> Usd {
        Usd(Decimal::new(cents, 2))
    }

    /// A model of fifty rows with its alternatives, and the cost of an item here and on each
    /// alternative.
    fn model(each: i64, elsewhere: &[i64]) -> (PlannedModel, Tally) {
        let lane = |provider: &str| PlannedLane {
            model: "m".into(),
            provider: provider.into(),
            upstream: "m".into(),
            price: PriceSheet { input: Some(Decimal::ONE), output: Some(Decimal::TWO), ..PriceSheet::default() },
        };
        let alternatives = elsewhere.iter().map(|each| lane(&each.to_string())).collect();
        let elsewhere = elsewhere.iter().map(|each| Some(usd(*each))).collect();
        let tally = Tally { each: Some(usd(each)), elsewhere, ..Tally::default() };
        (PlannedModel { requested: "m".into(), endpoint: None, lane: lane("own"), rows: 50, alternatives, quoted: None }, tally)
    }

    fn order(most: i64) -> QuotedInput {
        QuotedInput {
            quote: QuoteId::from_u128(1),
            deadline: Timestamp::UNIX_EPOCH,
            defaults: Defaults { operation: None, models: Vec::new() },
            constraints: Constraints { max_price: Some(usd(most)), ..Constraints::default() },
            fee: Decimal::ZERO,
            estimate: None,
            each: None,
            reserve: Usd::ZERO,
            items: None,
            metadata: None,
            webhook: None,
            gateway: None,
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
        // A hundred rows at a cent. Each model that moves to two cents adds fifty cents, to three a
        // hundred.
        assert_eq!(stay(99), Err(ProblemCode::PriceCeiling));
        assert_eq!(stay(100), Ok(vec![vec!["1".to_owned()], vec![]]));
        assert_eq!(stay(150), Ok(vec![vec!["2".to_owned(), "1".to_owned()], vec![]]));
        assert_eq!(stay(200), Ok(vec![vec!["2".to_owned(), "1".to_owned(), "3".to_owned()], vec![]]));
        assert_eq!(stay(250), Ok(vec![vec!["2".to_owned(), "1".to_owned(), "3".to_owned()], vec!["2".to_owned()]]));
        // Rows much longer than the quoted ones cost what reading them costs: a dollar per million
        // tokens.
        let (mut model, mut tally) = model(1, &[]);
        tally.read = 1_000_000;
        tally.written = 1_000_000;
        assert_eq!(reserve(&order(400), std::slice::from_ref(&model), std::slice::from_ref(&tally)), usd(300));
        assert!(keep_below_ceiling(&order(299), std::slice::from_mut(&mut model), &[tally]).is_err());
    }

    #[test]
    fn the_usual_answer_is_expected_and_the_longest_is_reserved() {
        let output = Output { tokens: 32_000, answers: 2, limit: Some(16_000) };
        let row = Measured { read: 2_000, output, body_bytes: 9_984, media: 0 };
        let (mut model, mut tally) = model(1, &[]);
        tally.usual_output = Some(40);
        tally.add(&row, &model);
        assert_eq!((tally.read, tally.written), (2_000, 80));
        model.rows = 1;
        // A dollar for a million tokens that are read, two for those that are written; a tenth more.
        let most = Usd(Decimal::new(10_000 + 64_000, 6).saturating_mul(Decimal::new(11, 1)));
        let reserved = |most: i64| reserve(&order(most), std::slice::from_ref(&model), std::slice::from_ref(&tally));
        assert_eq!(reserved(100), most);
        assert_eq!(reserved(5), usd(5), "no more than the client allows");
        let refused = keep_below_ceiling(&order(5), std::slice::from_mut(&mut model.clone()), std::slice::from_ref(&tally)).unwrap_err();
        assert!(refused.message.starts_with("a single item may cost 0.074 USD, more than 0.05 USD for all"), "{}", refused.message);
    }
}
