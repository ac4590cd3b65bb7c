//! The operations of every type of setting: reading from text, printing as TOML, handing on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::quantity::{ByteSize, DurationText};
use crate::domain::batch::dedup::Dedup;

/// A type in which a setting can be written.
pub trait Value: Clone + PartialOrd {
    /// The type that the rest of the program receives.
    type Checked;
    /// Stands for the value in `--help`.
    const PLACEHOLDER: &'static str;

    /// Reads the value of an environment variable.
    ///
    /// # Errors
    /// The legal values, in words that follow the setting's name.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value as it is written in a configuration file.
    fn toml(&self) -> String;

    /// Converts the written form to the checked form.
    fn checked(self) -> Self::Checked;
}

impl Value for SocketAddr {
    type Checked = Self;
    const PLACEHOLDER: &'static str = "ADDRESS:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "must be an IP address and a port, such as `127.0.0.1:7400` or `[::1]:7400`".to_owned())
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> Self {
        self
    }
}

impl Value for PathBuf {
    type Checked = Self;
    const PLACEHOLDER: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }

    fn toml(&self) -> String {
        quoted(self.display())
    }

    fn checked(self) -> Self {
        self
    }
}

impl Value for String {
    type Checked = Self;
    const PLACEHOLDER: &'static str = "TEXT";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> Self {
        self
    }
}

impl Value for Vec<String> {
    type Checked = Self;
    const PLACEHOLDER: &'static str = "TEXT";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(ToOwned::to_owned).collect())
    }

    fn toml(&self) -> String {
        format!("[{}]", self.iter().map(quoted).collect::<Vec<_>>().join(", "))
    }

    fn checked(self) -> Self {
        self
    }
}

impl Value for u32 {
    type Checked = Self;
    const PLACEHOLDER: &'static str = "N";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "must be a whole number".to_owned())
    }

    fn toml(&self) -> String {
        self.to_string()
    }

    fn checked(self) -> Self {
        self
    }
}

impl Value for DurationText {
    type Checked = Duration;
    const PLACEHOLDER: &'static str = "DURATION";

    fn parse(text: &str) -> Result<Self, String> {
        from_str(text)
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> Duration {
        self.duration()
    }
}

impl Value for ByteSize {
    type Checked = u64;
    const PLACEHOLDER: &'static str = "SIZE";

    fn parse(text: &str) -> Result<Self, String> {
        from_str(text)
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> u64 {
        self.get()
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text, with colours on a terminal.
    #[default]
    Auto,
    /// Text without colours.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl Value for LogFormat {
    type Checked = Self;
    const PLACEHOLDER: &'static str = "FORMAT";

    fn parse(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Text, Self::Json]
            .into_iter()
            .find(|format| format.to_string() == text)
            .ok_or_else(|| "must be `auto`, `text` or `json`".to_owned())
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> Self {
        self
    }
}

impl Value for Dedup {
    type Checked = Self;
    const PLACEHOLDER: &'static str = "WHO";

    fn parse(text: &str) -> Result<Self, String> {
        from_str(text)
    }

    fn toml(&self) -> String {
        quoted(self)
    }

    fn checked(self) -> Self {
        self
    }
}

/// Takes the place of a secret in the configuration file. It refuses any value without repeating
/// the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {}

impl<'de> Deserialize<'de> for Refused {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(
            "a secret does not stand in the configuration file; name a file that holds it, or set the environment variable",
        ))
    }
}

fn from_str<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|fault: T::Err| fault.to_string())
}

pub(super) fn quoted(text: impl fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}
