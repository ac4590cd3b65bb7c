//! Amounts of money, read from the digits that the client wrote.
//!
//! `serde_json` keeps a number that is not whole as a float, and no float holds money here: the
//! digits are read from the body again.

use std::collections::HashMap;

use rust_decimal::Decimal;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Object;
use crate::http::response::error::ApiError;

/// The largest amount in US dollars; the catalog accepts no larger price either.
const MAX_DOLLARS: u32 = 1_000_000;

impl Object {
    /// Reads an amount of US dollars, if present: a JSON number, or the same digits as a string.
    ///
    /// # Errors
    /// When the value is something else, negative, absurdly large, or has more digits than can be
    /// kept.
    pub fn dollars(&self, field: &str) -> Result<Option<Decimal>, ApiError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let amount = match value {
            Value::String(text) => exact(text),
            Value::Number(_) => self.digits(field).and_then(exact),
            other => return Err(self.wrong(field, "an amount of US dollars, as a string or a number", other)),
        };
        amount.filter(|amount| *amount <= Decimal::from(MAX_DOLLARS)).map(|amount| Some(amount.normalize())).ok_or_else(|| {
            let (name, found) = (self.name(field), value.to_string().chars().take(60).collect::<String>());
            ApiError::invalid(
                &name,
                format!("`{name}` must be an amount of US dollars from 0 to {MAX_DOLLARS}, such as \"0.15\"; found {found}"),
            )
        })
    }

    /// Returns a field's digits as written in the body. If a name occurs twice, the last one
    /// counts, as it did when the body was parsed.
    fn digits(&self, field: &str) -> Option<&str> {
        let mut text = std::str::from_utf8(&self.body).ok()?;
        for name in self.path.iter().map(String::as_str).chain([field]) {
            let fields: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            text = fields.get(name)?.get();
        }
        Some(text)
    }
}

/// The value of a JSON number that is at least 0, if it can be kept to its last digit.
fn exact(text: &str) -> Option<Decimal> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let bytes = digits.as_bytes();
    let plain = bytes.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    if !plain || !bytes.first()?.is_ascii_digit() || !bytes.last()?.is_ascii_digit() {
        return None;
    }
    let mut amount = Decimal::from_str_exact(digits).ok()?.normalize();
    let scale = i64::from(amount.scale()) - i64::from(exponent);
    if amount.is_zero() {
        return Some(amount);
    }
    amount.set_scale(u32::try_from(scale.max(0)).ok()?).ok()?;
    let zeros = u32::try_from((-scale).max(0)).ok()?;
    amount.checked_mul(Decimal::try_from_i128_with_scale(10_i128.checked_pow(zeros)?, 0).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_way_to_write_a_number_is_read_to_its_last_digit() {
        for (text, expected) in [
            ("0", "0"),
            ("0.1", "0.1"),
            ("00.10", "0.1"),
            ("1e-7", "0.0000001"),
            ("2.5E+3", "2500"),
            ("0e999", "0"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("0.1234567890123456789012345678", "0.1234567890123456789012345678"),
        ] {
            assert_eq!(exact(text).unwrap().normalize().to_string(), expected, "{text}");
        }
        for text in ["", "-1", "+1", ".5", "5.", "1_0", " 1", "1.2.3", "1e", "e1", "1e-29", "1e99999999999", "1e40", "NaN", "0x1"] {
            assert_eq!(exact(text), None, "{text}");
        }
        assert_eq!(exact("0.12345678901234567890123456789"), None, "29 decimals");
    }

    proptest! {
        #[test]
        fn no_text_is_a_negative_amount_or_a_panic(text in "[-+0-9.eE_ ]{0,40}") {
            if let Some(amount) = exact(&text) {
                prop_assert!(amount >= Decimal::ZERO);
            }
        }
    }
}
