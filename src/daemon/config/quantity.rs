//! Durations and sizes as people write them: `30s`, `16MiB`.
//!
//! Only whole numbers are allowed, and a duration always has a unit, so that no reader has to
//! guess. A printed value parses back to the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A duration with its unit: `ms`, `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(Duration);

/// Units in milliseconds, the largest first.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl DurationText {
    /// Whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The value as the rest of the program handles it.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        print_exact(f, millis, &TIMES)
    }
}

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number with one of the units ms, s, m, h, d, such as `500ms` or `30s`")]
pub struct DurationError;

impl FromStr for DurationText {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let (number, unit) = split(text).ok_or(DurationError)?;
        let (_, millis) = TIMES.into_iter().find(|(name, _)| *name == unit).ok_or(DurationError)?;
        number.checked_mul(millis).map(Self::from_millis).ok_or(DurationError)
    }
}

/// A number of bytes: plain, or with one of the units `B`, `kB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`,
/// `TB`, `TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Units in bytes. Printing takes the first unit that divides the number: units of 1024 come before
/// those of 1000.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// Plain bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Units of 1024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// Units of 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// Units of 1024³ bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        print_exact(f, self.0, &SIZES)
    }
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number of bytes, or one with a unit such as `500MB`, `16MiB` or `1GiB`")]
pub struct ByteSizeError;

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let (number, unit) = split(text).ok_or(ByteSizeError)?;
        let unit = if unit.is_empty() { "B" } else { unit };
        let (_, bytes) = SIZES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or(ByteSizeError)?;
        number.checked_mul(bytes).map(Self).ok_or(ByteSizeError)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QuantityText;
        impl Visitor<'_> for QuantityText {
            type Value = DurationText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes with its unit, such as \"500ms\" or \"30s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(QuantityText)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a size in quotes such as \"16MiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                u64::try_from(number).map(ByteSize).map_err(|_| E::custom(ByteSizeError))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }
        }
        deserializer.deserialize_any(Size)
    }
}

/// The digits and what follows them.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim_start()))
}

/// Prints with the first unit that leaves no remainder; the last unit is 1.
fn print_exact(f: &mut fmt::Formatter<'_>, amount: u64, units: &[(&str, u64)]) -> fmt::Result {
    units.iter().find(|(_, size)| amount.is_multiple_of(*size)).map_or(Ok(()), |(unit, size)| write!(f, "{}{unit}", amount / size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2 h", 7_200_000), ("30d", 2_592_000_000), ("0s", 0)] {
            assert_eq!(text.parse::<DurationText>().unwrap().duration().as_millis(), millis, "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5h", "1h30m", "1S", "99999999999999999999d", "9999999999999999d", "1µs"] {
            assert!(text.parse::<DurationText>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_unless_a_unit_says_otherwise() {
        for (text, bytes) in [("0", 0), ("1024", 1_024), ("16MiB", 16 << 20), ("1 GiB", 1 << 30), ("500MB", 500_000_000), ("2kb", 2_000)] {
            assert_eq!(text.parse::<ByteSize>().unwrap().get(), bytes, "{text}");
        }
        for text in ["", "MiB", "1.5GiB", "-1", "1XB", "99999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn printed_as_a_person_would_write_it() {
        assert_eq!(DurationText::from_secs(90).to_string(), "90s");
        assert_eq!(DurationText::from_secs(300).to_string(), "5m");
        assert_eq!(DurationText::from_millis(1_500).to_string(), "1500ms");
        assert_eq!(ByteSize::mib(1_536).to_string(), "1536MiB");
        assert_eq!(ByteSize::bytes(500_000_000).to_string(), "500MB");
        assert_eq!(ByteSize::bytes(1_025).to_string(), "1025B");
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(amount: u64, millis in 0..u64::MAX / 2) {
            prop_assert_eq!(ByteSize(amount).to_string().parse::<ByteSize>().unwrap(), ByteSize(amount));
            let duration = DurationText::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse::<DurationText>().unwrap(), duration);
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,12}") {
            let _ = (text.parse::<DurationText>(), text.parse::<ByteSize>());
        }
    }
}
