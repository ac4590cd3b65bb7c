//! A percentage as people write it. It is an exact decimal, because it is charged.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::de::{Deserialize, Deserializer, Error as _};

use super::value::{Value, quoted};

/// Digits after the decimal point.
const DIGITS: u32 = 4;

/// A percentage of at least 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(Decimal);

impl Percent {
    /// Whole percent.
    pub fn whole(percent: u32) -> Self {
        Self(percent.into())
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.normalize(), f)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.parse::<Decimal>().ok().filter(|percent| !percent.is_sign_negative() && percent.normalize().scale() <= DIGITS);
        percent.map(Self).ok_or_else(|| format!("must be a number of percent with at most {DIGITS} digits behind the point, such as `5.9`"))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Value for Percent {
    type Checked = Decimal;
    const PLACEHOLDER: &'static str = "PERCENT";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> Decimal {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact() {
        for (text, shown) in [("5.9", "5.9"), ("0", "0"), ("11.80", "11.8"), ("100.0001", "100.0001")] {
            assert_eq!(text.parse::<Percent>().unwrap().to_string(), shown);
        }
        for bad in ["", "5,9", "-1", "0.00001", "5%", "five"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }
}
