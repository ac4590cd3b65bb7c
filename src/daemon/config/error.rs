//! Where a setting came from, and what is wrong with it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where the value of a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The setting was not set.
    Default,
    /// The configuration file at this path.
    File(PathBuf),
    /// The environment variable of this name.
    Env(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingFault {
    /// Its key in the configuration file.
    pub setting: &'static str,
    pub origin: Origin,
    /// The value as it was written, without passwords; absent for secrets.
    pub value: Option<String>,
    /// What is wrong and what would be legal.
    pub reason: String,
}

impl fmt::Display for SettingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, origin, value, reason } = self;
        match value {
            Some(value) => write!(f, "{setting} = {value} ({origin}): {reason}"),
            None => write!(f, "{setting} ({origin}): {reason}"),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Bad TOML, an unknown key or a value of the wrong type. Line and column count from 1.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    /// Every setting that is at fault.
    #[error("{}", lines(.0))]
    Faults(Vec<SettingFault>),
}

fn lines(faults: &[SettingFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
