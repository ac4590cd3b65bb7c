//! Settings whose value is one of a few words, and amounts of money.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::value::{Value, quoted};
use crate::domain::money::Usd;
use crate::domain::row::priority::RowPriority;
use crate::domain::webhook::target_policy::Targets;

/// Defines a setting whose value is one of a few words.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident $placeholder:literal { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("must be one of {}", [$(concat!("`", $word, "`")),+].join(", "))),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl Value for $name {
            type Checked = Self;
            const PLACEHOLDER: &'static str = $placeholder;

            fn parse(text: &str) -> Result<Self, String> {
                text.parse()
            }

            fn toml(&self) -> String {
                quoted(self)
            }

            fn checked(self) -> Self {
                self
            }
        }
    };
}

choices! {
    /// Whether any caller may register an organisation.
    AgentRegister "WHETHER" {
        /// On if only this machine can reach the daemon.
        Auto = "auto",
        On = "on",
        Off = "off",
    }
}

choices! {
    /// Which servers may be called that clients name.
    ClientTargets "WHICH" {
        /// Public servers, and those on this machine if only this machine can reach the daemon.
        Auto = "auto",
        Public = "public",
        Any = "any",
    }
}

choices! {
    /// What a Phaseo batch may name as its receiver.
    WebhookEndpoints "WHICH" {
        /// A URL of the batch's own, or a managed endpoint.
        Any = "any",
        Managed = "managed",
    }
}

choices! {
    /// Whether something is done.
    Switch "WHETHER" {
        On = "on",
        Off = "off",
    }
}

impl ClientTargets {
    /// The rule for a daemon that only its own machine can reach, or for one that others can reach, too.
    pub fn rule(self, local_only: bool) -> Targets {
        match self {
            Self::Auto if local_only => Targets::PublicAndLoopback,
            Self::Auto | Self::Public => Targets::Public,
            Self::Any => Targets::Any,
        }
    }
}

/// What becomes of the priority of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PriorityText(RowPriority);

impl fmt::Display for PriorityText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for PriorityText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl FromStr for PriorityText {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(str::to_owned)
    }
}

impl Value for PriorityText {
    type Checked = RowPriority;
    const PLACEHOLDER: &'static str = "HOW";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> RowPriority {
        self.0
    }
}

/// An amount of US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dollars(Decimal);

impl Dollars {
    /// Whole dollars.
    pub fn whole(dollars: u32) -> Self {
        Self(dollars.into())
    }
}

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.normalize(), f)
    }
}

impl FromStr for Dollars {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let amount = text.parse::<Decimal>().ok().filter(|amount| !amount.is_sign_negative() && amount.normalize().scale() <= 6);
        amount
            .map(Self)
            .ok_or_else(|| "must be an amount of US dollars with at most six digits behind the point, such as `25.00`".to_owned())
    }
}

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Value for Dollars {
    type Checked = Usd;
    const PLACEHOLDER: &'static str = "USD";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> Usd {
        Usd(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_amounts_are_what_they_must_be() {
        assert_eq!("auto".parse(), Ok(AgentRegister::Auto));
        assert_eq!(ClientTargets::parse("none").unwrap_err(), "must be one of `auto`, `public`, `any`");
        assert_eq!(Dollars::parse("25.00").unwrap().to_string(), "25");
        for bad in ["", "-1", "0.0000001", "$5", "five"] {
            assert!(Dollars::parse(bad).is_err(), "{bad}");
        }
    }
}
