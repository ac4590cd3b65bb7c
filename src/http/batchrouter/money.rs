//! Amounts of money as this dialect shows them: decimal strings, in US dollars.

use serde_json::{Value, json};

pub use crate::http::response::money::{digits, money};
pub use crate::service::quotes::pricing::Pricing;

/// `pricing_estimate`, and `price` of a lane; all amounts are null if the price is unknown.
pub fn pricing(pricing: Option<Pricing>) -> Value {
    json!({
        "currency": "usd",
        "provider_subtotal": pricing.map(|pricing| digits(pricing.provider)),
        "batchrouter_fee": pricing.map(|pricing| digits(pricing.fee)),
        "total": pricing.map(|pricing| digits(pricing.total())),
    })
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    #[test]
    fn the_fee_is_rounded_lane_by_lane() {
        // 5.90 % of a provider's subtotal, as observed.
        let fee = Decimal::new(59, 1);
        let lane = Pricing::of("0.001".parse().unwrap(), fee);
        assert_eq!(pricing(Some(lane))["batchrouter_fee"], "0.000059");
        assert_eq!(pricing(Some(lane))["total"], "0.001059");
        let small = Pricing::of("0.00000007".parse().unwrap(), fee);
        assert_eq!(pricing(Some(small.plus(small)))["batchrouter_fee"], "0.00");
        assert_eq!(pricing(None)["total"], Value::Null);
    }
}
