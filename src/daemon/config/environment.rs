//! The process environment behind a trait, so that tests feed a map instead of changing it.

use std::collections::HashMap;

/// Where environment variables are read from.
pub trait Strings: Sync {
    /// The value of a variable; `None` when it is not set.
    ///
    /// # Errors
    /// When its value is not Unicode.
    fn get(&self, name: &str) -> Result<Option<String>, NotUnicode>;

    /// Like `get`, but an empty value counts as not set, as environment files and containers mean
    /// it.
    ///
    /// # Errors
    /// When its value is not Unicode.
    fn filled(&self, name: &str) -> Result<Option<String>, NotUnicode> {
        Ok(self.get(name)?.filter(|value| !value.is_empty()))
    }
}

/// A variable whose bytes are not Unicode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not valid UTF-8")]
pub struct NotUnicode;

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Strings for ProcessEnvironment {
    fn get(&self, name: &str) -> Result<Option<String>, NotUnicode> {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
        match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(NotUnicode),
        }
    }
}

impl Strings for HashMap<&str, &str> {
    fn get(&self, name: &str) -> Result<Option<String>, NotUnicode> {
        Ok(HashMap::get(self, name).map(ToString::to_string))
    }
}
