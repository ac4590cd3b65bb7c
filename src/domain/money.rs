//! US dollars as exact decimals, and the price of a usage. No float holds money anywhere.

use std::fmt;

use rust_decimal::Decimal;

use super::usage::Usage;

/// An amount of US dollars, exact to 28 digits. It is rounded only for display.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usd(pub Decimal);

impl Usd {
    /// No money.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// The sum, held at the largest amount instead of overflowing.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `true` for an amount of exactly zero.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for Usd {
    /// Plain decimal digits without a currency sign, trailing zeros removed: `0.0125`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.normalize(), f)
    }
}

/// What one offering charges. A part that is `None` is not charged for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PriceSheet {
    /// US dollars per 1,000,000 input tokens.
    pub input: Option<Decimal>,
    /// US dollars per 1,000,000 input tokens served from the provider's prompt cache; `input` when
    /// absent.
    pub cached_input: Option<Decimal>,
    /// US dollars per 1,000,000 output tokens.
    pub output: Option<Decimal>,
    /// US dollars per request that succeeded.
    pub request: Option<Decimal>,
    /// US dollars per generated image.
    pub image: Option<Decimal>,
}

/// The highest prices that a client accepts for a batch. A part that is `None` has no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaxPrice {
    /// US dollars per 1,000,000 input tokens.
    pub input: Option<Decimal>,
    /// US dollars per 1,000,000 output tokens.
    pub output: Option<Decimal>,
    /// US dollars per request.
    pub request: Option<Decimal>,
}

impl MaxPrice {
    /// Whether an offering's prices are within the bounds. An offering that states no price charges
    /// nothing that we know of.
    pub fn allows(&self, price: &PriceSheet) -> bool {
        let within = |most: Option<Decimal>, price: Option<Decimal>| most.is_none_or(|most| price.unwrap_or_default() <= most);
        within(self.input, price.input) && within(self.output, price.output) && within(self.request, price.request)
    }
}

impl PriceSheet {
    /// Whether no part of the sheet is dearer than the same part of `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        let parts = |sheet: &Self| {
            [sheet.input, sheet.cached_input.or(sheet.input), sheet.output, sheet.request, sheet.image].map(Option::unwrap_or_default)
        };
        parts(self).iter().zip(parts(other)).all(|(own, most)| *own <= most)
    }

    /// The price of one successful request with this usage.
    pub fn cost(&self, usage: &Usage) -> Usd {
        let per_million =
            |price: Option<Decimal>, tokens: u64| price.unwrap_or_default().saturating_mul(Decimal::from(tokens)) * Decimal::new(1, 6);
        let cached = usage.cached_tokens.min(usage.input_tokens);
        let tokens = per_million(self.input, usage.input_tokens - cached)
            .saturating_add(per_million(self.cached_input.or(self.input), cached))
            .saturating_add(per_million(self.output, usage.output_tokens));
        let images = self.image.unwrap_or_default().saturating_mul(Decimal::from(usage.images));
        Usd(tokens.saturating_add(images).saturating_add(self.request.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_exact_below_a_billionth_of_a_dollar() {
        let sheet = PriceSheet { input: Some(Decimal::new(125, 4)), output: Some(Decimal::new(4, 1)), ..PriceSheet::default() };
        let usage = Usage { input_tokens: 1, output_tokens: 3, ..Usage::default() };
        // 1 x 0.0125 / 10^6 + 3 x 0.4 / 10^6
        assert_eq!(sheet.cost(&usage).to_string(), "0.0000012125");
    }

    #[test]
    fn cached_tokens_are_a_part_of_the_input_and_have_their_own_price() {
        let sheet = PriceSheet { input: Some(Decimal::from(2)), cached_input: Some(Decimal::ONE), ..PriceSheet::default() };
        let usage = Usage { input_tokens: 1_000_000, cached_tokens: 400_000, ..Usage::default() };
        assert_eq!(sheet.cost(&usage).to_string(), "1.6");
        let lying = Usage { input_tokens: 10, cached_tokens: 400_000, ..Usage::default() };
        assert_eq!(sheet.cost(&lying).to_string(), "0.00001");
    }

    #[test]
    fn absurd_usage_saturates_instead_of_panicking() {
        let sheet = PriceSheet { input: Some(Decimal::MAX), output: Some(Decimal::MAX), ..PriceSheet::default() };
        let usage = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        assert!(sheet.cost(&usage) > Usd::ZERO);
        assert!(Usd(Decimal::MAX).plus(Usd(Decimal::MAX)) == Usd(Decimal::MAX));
    }
}
