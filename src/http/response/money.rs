//! Amounts of money: decimal strings, in US dollars.

use rust_decimal::Decimal;
use serde_json::{Value, json};

pub use crate::service::quotes::pricing::digits;

/// `Money`, as in BatchRouter's dialect and in the operator's routes.
pub fn money(amount: Decimal) -> Value {
    json!({ "currency": "usd", "amount": digits(amount) })
}
