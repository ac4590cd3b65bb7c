//! Amounts of money as this dialect shows them: decimal strings, in US dollars.

use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};

use crate::domain::money::Usd;
use crate::domain::quote::Estimate;

/// Digits that amounts are rounded to, lane by lane.
const MOST: u32 = 8;
/// Digits that are shown at least.
const LEAST: u32 = 6;

/// Rounded as lanes are.
pub fn rounded(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(MOST, RoundingStrategy::MidpointAwayFromZero)
}

/// The digits of an amount.
pub fn digits(amount: Decimal) -> String {
    let mut amount = rounded(amount).normalize();
    if amount.is_zero() {
        return "0.00".to_owned();
    }
    amount.rescale(amount.scale().max(LEAST));
    amount.to_string()
}

/// `Money`
pub fn money(amount: Decimal) -> Value {
    json!({ "currency": "usd", "amount": digits(amount) })
}

/// What a lane, or several, charge: `pricing_estimate`, and `price` of a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pricing {
    provider: Decimal,
    fee: Decimal,
}

impl Pricing {
    /// Of one lane; `fee` is a percentage.
    pub fn of(cost: Decimal, fee: Decimal) -> Self {
        let provider = rounded(cost);
        Self { provider, fee: rounded(provider.saturating_mul(fee) / Decimal::ONE_HUNDRED) }
    }

    /// Of what was kept with a quote.
    pub fn of_estimate(estimate: Estimate) -> Self {
        Self { provider: estimate.provider.0, fee: estimate.fee.0 }
    }

    /// The sum: what is shown of several lanes is the sum of what is shown of each.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { provider: self.provider.saturating_add(other.provider), fee: self.fee.saturating_add(other.fee) }
    }

    /// Provider and fee together.
    pub fn total(self) -> Decimal {
        self.provider.saturating_add(self.fee)
    }

    /// What is expected, as it is kept with a quote.
    pub fn estimate(self) -> Estimate {
        Estimate { provider: Usd(self.provider), fee: Usd(self.fee) }
    }

    /// What is shown where nobody knows it.
    pub fn unknown() -> Value {
        json!({ "currency": "usd", "provider_subtotal": null, "batchrouter_fee": null, "total": null })
    }

    /// As it is shown.
    pub fn json(self) -> Value {
        json!({
            "currency": "usd",
            "provider_subtotal": digits(self.provider),
            "batchrouter_fee": digits(self.fee),
            "total": digits(self.total()),
        })
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

    #[test]
    fn the_fee_is_rounded_lane_by_lane() {
        // 5.90 % of a provider's subtotal, as it was observed.
        let fee = Decimal::new(59, 1);
        let lane = Pricing::of("0.001".parse().unwrap(), fee);
        assert_eq!(lane.json()["batchrouter_fee"], "0.000059");
        assert_eq!(lane.json()["total"], "0.001059");
        let small = Pricing::of("0.00000007".parse().unwrap(), fee);
        assert_eq!(small.plus(small).json()["batchrouter_fee"], "0.00");
    }
}
