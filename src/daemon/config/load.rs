//! Resolves the effective settings: command line, then environment, then file, then default.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::check;
use super::environment::Strings;
use super::error::{ConfigError, Origin, SettingFault};
use super::settings::{Setting, Settings, Written, merge, setting, unquoted};
use super::value::Value;
use crate::domain::authority::without_passwords;

/// Names the configuration file when no flag does.
const CONFIG_VARIABLE: &str = "BATCHD_CONFIG";

/// The part of a command line that settings are made from.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct Flags {
    /// The configuration file (TOML) [env: BATCHD_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub written: Written,
}

/// The effective value of one setting.
#[derive(Debug, Clone)]
pub struct Effective {
    pub setting: &'static Setting,
    /// As TOML, without passwords; `None` when the setting is absent. For a secret: the number of
    /// secrets, in words.
    pub value: Option<String>,
    /// Whether the value had a password.
    pub is_redacted: bool,
    pub origin: Origin,
}

impl Settings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// When the configuration file cannot be read or parsed; otherwise with every setting that is
    /// at fault.
    pub fn load(flags: &Flags, env: &dyn Strings) -> Result<Self, ConfigError> {
        let path = config_path(flags, env)?;
        let file = path.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let mut sources = Sources { path: path.as_deref(), env, faults: Vec::new(), effective: Vec::new() };
        let mut settings = merge(flags.written.clone(), file, &mut sources);
        let mut faults = sources.faults;
        check::read_secrets(&mut settings, env, &mut faults);
        check::check(&settings, &mut faults);
        if faults.is_empty() { Ok(settings) } else { Err(ConfigError::Faults(faults)) }
    }

    /// Whether only programs on this machine can call, as far as the settings show: a daemon with
    /// keys or a public URL stands behind something that lets others in.
    pub fn is_local_only(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback() && self.api_keys.is_empty() && self.public_url.is_none()
    }

    /// The effective value of each setting, in the order of the manual.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }

    /// The effective value of the setting with that key, as TOML.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.effective.iter().find(|effective| effective.setting.key == key)?.value.as_deref()
    }

    /// Where the setting with that key came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.effective.iter().find(|effective| effective.setting.key == key).map_or(Origin::Default, |effective| effective.origin.clone())
    }
}

/// All sources that may name one setting, the strongest first; the environment stands between the
/// first two.
pub(super) struct Candidates<T> {
    pub flag: Option<T>,
    pub file: Option<T>,
    pub ambient: Option<(T, Origin)>,
    pub default: Option<T>,
    pub range: Option<(T, T)>,
}

/// The sources that settings are merged from, and the result of the merge.
pub(super) struct Sources<'a> {
    pub path: Option<&'a Path>,
    pub env: &'a dyn Strings,
    pub faults: Vec<SettingFault>,
    pub effective: Vec<Effective>,
}

impl Sources<'_> {
    /// Decides one setting, checks its range and notes its origin.
    pub(super) fn settle<T: Value>(&mut self, setting: &'static Setting, candidates: Candidates<T>) -> Option<T> {
        let Candidates { flag, file, ambient, default, range } = candidates;
        let picked = match flag {
            Some(flag) => Some((flag, Origin::Flag)),
            None => self.in_environment(setting).or_else(|| file.map(|file| (file, self.file_origin()))).or(ambient),
        };
        let (value, origin) = match picked {
            Some((value, origin)) => (Some(value), origin),
            None => (default, Origin::Default),
        };
        if let (Some(value), Some((low, high))) = (&value, &range)
            && !(low..=high).contains(&value)
        {
            let reason = format!("must be from {} to {}", unquoted(&low.toml()), unquoted(&high.toml()));
            self.faults.push(SettingFault { setting: setting.key, origin: origin.clone(), value: Some(value.toml()), reason });
        }
        let written = value.as_ref().map(Value::toml);
        let shown = written.as_deref().map(without_passwords);
        let is_redacted = shown.as_deref() != written.as_deref();
        self.effective.push(Effective { setting, value: shown.map(Cow::into_owned), is_redacted, origin });
        value
    }

    fn in_environment<T: Value>(&mut self, setting: &'static Setting) -> Option<(T, Origin)> {
        let origin = Origin::Env(setting.env());
        let (value, reason) = match self.env.filled(&setting.env()) {
            Ok(None) => return None,
            Ok(Some(text)) => match T::parse(&text) {
                Ok(value) => return Some((value, origin)),
                Err(reason) => (Some(without_passwords(&text).into_owned()), reason),
            },
            Err(fault) => (None, fault.to_string()),
        };
        self.faults.push(SettingFault { setting: setting.key, origin, value, reason });
        None
    }

    fn file_origin(&self) -> Origin {
        self.path.map_or(Origin::Default, |path| Origin::File(path.to_owned()))
    }
}

fn config_path(flags: &Flags, env: &dyn Strings) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(path) = &flags.config {
        return Ok(Some(path.clone()));
    }
    let named = env.filled(CONFIG_VARIABLE).map_err(|fault| {
        let origin = Origin::Env(CONFIG_VARIABLE.to_owned());
        ConfigError::Faults(vec![SettingFault { setting: "config", origin, value: None, reason: fault.to_string() }])
    })?;
    Ok(named.map(PathBuf::from))
}

fn read_file(path: &Path) -> Result<Written, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse_file(path, &text)
}

/// Reports only the place and the fault. The parser's own message repeats the faulty line, which
/// may hold a secret that was put into the wrong file.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Written, ConfigError> {
    toml::from_str(text).map_err(|fault| {
        let before = text.get(..fault.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: fault.message().to_owned(),
        }
    })
}

/// Notes the effective value of a secret without showing it.
pub(super) fn note_secret(settings: &mut Settings, key: &'static str, found: Option<(String, Origin)>) {
    let (value, origin) = found.map_or((None, Origin::Default), |(words, origin)| (Some(words), origin));
    settings.effective.push(Effective { setting: setting(key), value, is_redacted: false, origin });
}
