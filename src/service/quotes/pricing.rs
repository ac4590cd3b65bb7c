//! The charges of lanes, rounded for display: the amount shown for several lanes is the sum of the
//! amounts shown for each.

use rust_decimal::{Decimal, RoundingStrategy};

use crate::domain::money::Usd;
use crate::domain::quote::Estimate;

/// The most decimal digits; amounts are rounded to these lane by lane.
const MAX_DIGITS: u32 = 8;
/// The least decimal digits that are shown.
const MIN_DIGITS: u32 = 6;

/// Rounds an amount as the amount of a lane is rounded.
pub fn rounded(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(MAX_DIGITS, RoundingStrategy::MidpointAwayFromZero)
}

/// The text of an amount in US dollars.
pub fn digits(amount: Decimal) -> String {
    let mut amount = rounded(amount).normalize();
    if amount.is_zero() {
        return "0.00".to_owned();
    }
    amount.rescale(amount.scale().max(MIN_DIGITS));
    amount.to_string()
}

/// The charge of a lane, or of several, in US dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pricing {
    pub provider: Decimal,
    pub fee: Decimal,
}

impl Pricing {
    /// The charge of one lane; `fee` is a percentage.
    pub fn of(cost: Decimal, fee: Decimal) -> Self {
        let provider = rounded(cost);
        Self { provider, fee: rounded(provider.saturating_mul(fee) / Decimal::ONE_HUNDRED) }
    }

    /// The charge that was kept with a quote.
    pub fn of_estimate(estimate: Estimate) -> Self {
        Self { provider: estimate.provider.0, fee: estimate.fee.0 }
    }

    /// The sum of both charges.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { provider: self.provider.saturating_add(other.provider), fee: self.fee.saturating_add(other.fee) }
    }

    /// Provider and fee together.
    pub fn total(self) -> Decimal {
        self.provider.saturating_add(self.fee)
    }

    /// The expected charge, in the form that is kept with a quote.
    pub fn estimate(self) -> Estimate {
        Estimate { provider: Usd(self.provider), fee: Usd(self.fee) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_six_to_eight_digits() {
        let shown = ["0", "1.25", "0.0014", "0.001059", "0.00173491", "0.000000004", "0.000000005", "12"];
        let shown = shown.map(|amount| digits(amount.parse().unwrap()));
        assert_eq!(shown, ["0.00", "1.250000", "0.001400", "0.001059", "0.00173491", "0.00", "0.00000001", "12.000000"]);
    }
}
