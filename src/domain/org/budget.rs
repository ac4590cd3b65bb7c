//! What the rows of one batch may cost in all: what is charged so far, what the calls in flight may
//! cost at most, and whether one more call may be made.
//!
//! Pure. Invariant: while each call costs no more than was held for it, the charge for the batch,
//! its fee included, is never above the limit, whatever its calls cost and in whatever order they
//! end.

use rust_decimal::Decimal;

use super::ledger::with_fee;
use crate::domain::money::Usd;

/// The budget of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The most that the client pays, the fee included.
    limit: Usd,
    /// The fee on top of the providers' charges, in percent of those charges.
    fee: Decimal,
    /// Charged by providers, without the fee.
    spent: Usd,
    /// The most that the calls in flight may add to that.
    held: Usd,
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// What the call may cost is held for it.
    Held,
    /// Not while other calls are in flight: they may cost less than is held for them.
    Later,
    /// It may cost more than is left.
    Exceeded,
}

impl Budget {
    /// A budget of which providers have charged `spent` before.
    pub fn new(limit: Usd, fee: Decimal, spent: Usd) -> Self {
        Self { limit, fee, spent, held: Usd::ZERO }
    }

    /// Holds what a call may cost at most, if the budget allows the call.
    pub fn hold(&mut self, most: Usd) -> Admission {
        let held = self.held.plus(most);
        if with_fee(self.spent.plus(held), self.fee) <= self.limit {
            self.held = held;
            Admission::Held
        } else if self.held > Usd::ZERO {
            Admission::Later
        } else {
            Admission::Exceeded
        }
    }

    /// Ends a call for which `most` was held and which cost `cost`.
    pub fn settle(&mut self, most: Usd, cost: Usd) {
        self.held = Usd(self.held.0.saturating_sub(most.0).max(Decimal::ZERO));
        self.spent = self.spent.plus(cost);
    }

    /// The fee on top of the providers' charges, in percent.
    pub const fn fee(&self) -> Decimal {
        self.fee
    }

    /// What is left for calls, the fee included.
    pub fn left(&self) -> Usd {
        Usd(self.limit.0.saturating_sub(with_fee(self.spent.plus(self.held), self.fee).0).max(Decimal::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::org::ledger::micros_up;
    use proptest::prelude::*;

    fn usd(nanos: u32) -> Usd {
        Usd(Decimal::new(nanos.into(), 9))
    }

    #[test]
    fn a_call_waits_for_others_and_is_refused_when_none_is_left() {
        let mut budget = Budget::new(usd(100), Decimal::TEN, usd(10));
        assert_eq!(budget.hold(usd(50)), Admission::Held);
        assert_eq!(budget.hold(usd(31)), Admission::Later);
        assert_eq!(budget.hold(usd(30)), Admission::Held);
        budget.settle(usd(30), usd(30));
        budget.settle(usd(50), usd(1));
        assert_eq!(budget.left(), Usd(Decimal::new(549, 10)));
        assert_eq!(budget.hold(usd(50)), Admission::Exceeded);
        assert_eq!(budget.hold(usd(49)), Admission::Held);
    }

    proptest! {
        #[test]
        fn the_charge_is_never_above_the_limit(
            micros in 0_u32..5_000, fee in 0_u32..300, calls in proptest::collection::vec((0_u32..900_000, 0_u32..1_000, any::<bool>()), 0..60),
        ) {
            let limit = Usd(Decimal::new(micros.into(), 6));
            let fee = Decimal::new(fee.into(), 1);
            let mut budget = Budget::new(limit, fee, Usd::ZERO);
            let (mut in_flight, mut spent) = (Vec::new(), Usd::ZERO);
            for (most, part, ends) in calls {
                if budget.hold(usd(most)) == Admission::Held {
                    in_flight.push((usd(most), usd((u64::from(most) * u64::from(part) / 1_000) as u32)));
                }
                if ends && let Some((most, cost)) = in_flight.pop() {
                    budget.settle(most, cost);
                    spent = spent.plus(cost);
                }
            }
            for (most, cost) in in_flight {
                budget.settle(most, cost);
                spent = spent.plus(cost);
            }
            prop_assert!(micros_up(with_fee(spent, fee)) <= limit);
            prop_assert_eq!(budget.left(), Usd(limit.0 - with_fee(spent, fee).0));
        }
    }
}
