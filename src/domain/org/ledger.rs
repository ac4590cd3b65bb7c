//! What organisations have, and what their batches reserve and are charged.
//!
//! A batch reserves its possible cost when it is created. It is settled once, when it ends: its
//! actual cost is charged and the rest is released. Amounts are whole micro-dollars, rounded up,
//! like BatchRouter's (its terms; observed receipts).
//!
//! Invariants: the amounts of an account are the sums over its batches. For each settled batch, the
//! reserved amount is the charged amount plus the released amount.

use rust_decimal::{Decimal, RoundingStrategy};

use super::quotas::Spending;
use crate::domain::id::OrgId;
use crate::domain::money::Usd;

/// What an organisation may spend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Credits {
    /// The organisation has no spending limit.
    #[default]
    Unlimited,
    /// The credits granted to the organisation so far, in US dollars.
    Prepaid(Usd),
}

/// What an organisation has and has spent, in US dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    pub credits: Credits,
    /// Reserved by batches that have not ended.
    pub reserved: Usd,
    /// Charged for batches that have ended.
    pub charged: Usd,
    /// The part of that of this day and month, and what batches without a reservation cost.
    pub spending: Spending,
}

/// What a batch holds of its organisation's credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    pub org: OrgId,
    /// In whole micro-dollars.
    pub amount: Usd,
    /// The fee on top of the providers' charges, in percent of those charges.
    pub fee: Decimal,
    /// Set when the batch has ended.
    pub settlement: Option<Settlement>,
}

/// The result of settling a reservation, in US dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settlement {
    /// The reserved amount at the end: more than at first if the batch cost more than expected.
    pub reserved: Usd,
    pub charged: Usd,
    pub released: Usd,
    /// The part of the charge that had not been reserved at first.
    pub overrun: Usd,
}

/// The organisation's balance does not cover what a batch may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the balance of {available} USD does not cover {needed} USD")]
pub struct Shortfall {
    pub available: Usd,
    pub needed: Usd,
}

/// An amount in whole micro-dollars, rounded up.
pub fn micros_up(amount: Usd) -> Usd {
    Usd(amount.0.round_dp_with_strategy(6, RoundingStrategy::ToPositiveInfinity))
}

/// An amount in whole micro-dollars, rounded down.
pub fn micros_down(amount: Usd) -> Usd {
    Usd(amount.0.round_dp_with_strategy(6, RoundingStrategy::ToNegativeInfinity))
}

/// An amount in whole nano-dollars, for comparisons: below that, a sum of shares says nothing.
pub fn nanos(amount: Usd) -> Usd {
    Usd(amount.0.round_dp(9))
}

/// The amount that a client pays for a provider's charge; `fee` is a percentage.
pub fn with_fee(cost: Usd, fee: Decimal) -> Usd {
    cost.plus(Usd(cost.0.saturating_mul(fee) / Decimal::ONE_HUNDRED))
}

impl Account {
    /// The amount that may still be spent; `None` if there is no limit. Negative after an overrun
    /// that the balance did not cover.
    pub fn available(&self) -> Option<Usd> {
        match self.credits {
            Credits::Unlimited => None,
            Credits::Prepaid(granted) => Some(Usd(granted.0.saturating_sub(self.reserved.0).saturating_sub(self.charged.0))),
        }
    }

    /// The account with this much more reserved, in whole micro-dollars.
    ///
    /// # Errors
    /// When the available balance is smaller than the amount.
    pub fn reserve(self, amount: Usd) -> Result<Self, Shortfall> {
        match self.available() {
            Some(available) if available < amount => Err(Shortfall { available, needed: amount }),
            Some(_) | None => Ok(Self { reserved: self.reserved.plus(amount), ..self }),
        }
    }

    /// The account after the end of a batch with this reservation, whose providers charge `cost`.
    pub fn settle(self, reservation: &Reservation, cost: Usd) -> (Self, Settlement) {
        let charged = micros_up(with_fee(cost, reservation.fee));
        let reserved = reservation.amount.max(charged);
        let minus = |a: Usd, b: Usd| Usd(a.0.saturating_sub(b.0));
        let settlement = Settlement { reserved, charged, released: minus(reserved, charged), overrun: minus(reserved, reservation.amount) };
        let account = Self { reserved: minus(self.reserved, reservation.amount), charged: self.charged.plus(charged), ..self };
        (account, settlement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usd(nanos: i64) -> Usd {
        Usd(Decimal::new(nanos, 9))
    }

    #[test]
    fn amounts_are_whole_micro_dollars_rounded_up() {
        // As observed: 0.0001735 was reserved and charged as 0.000174.
        assert_eq!(micros_up(usd(173_500)), usd(174_000));
        assert_eq!(micros_up(usd(174_000)), usd(174_000));
        assert_eq!(micros_up(Usd::ZERO), Usd::ZERO);
        assert_eq!(with_fee(usd(1_000_000), Decimal::new(59, 1)), usd(1_059_000));
    }

    proptest! {
        #[test]
        fn the_account_is_the_sum_of_its_batches(
            batches in proptest::collection::vec((0_i64..2_000_000, 0_i64..2_000_000, any::<bool>()), 0..40),
            granted in 0_i64..20_000_000, fee in 0_i64..200,
        ) {
            let mut account = Account { credits: Credits::Prepaid(usd(granted)), ..Account::default() };
            let (mut open, mut charged) = (Usd::ZERO, Usd::ZERO);
            for (estimate, cost, ends) in batches {
                let amount = micros_up(usd(estimate));
                let before = account;
                match account.reserve(amount) {
                    Ok(reserved) => account = reserved,
                    Err(shortfall) => {
                        prop_assert!(shortfall.available < shortfall.needed);
                        prop_assert_eq!(account, before);
                        continue;
                    }
                }
                let reservation = Reservation { org: OrgId::OPERATOR, amount, fee: Decimal::from(fee), settlement: None };
                if ends {
                    let (after, settled) = account.settle(&reservation, usd(cost));
                    prop_assert_eq!(settled.reserved, settled.charged.plus(settled.released));
                    prop_assert_eq!(settled.reserved, amount.plus(settled.overrun));
                    prop_assert!(settled.charged >= usd(cost));
                    (account, charged) = (after, charged.plus(settled.charged));
                } else {
                    open = open.plus(amount);
                }
            }
            prop_assert_eq!((account.reserved, account.charged), (open, charged));
            prop_assert_eq!(account.available(), Some(Usd(usd(granted).0 - open.0 - charged.0)));
        }
    }
}
