//! Settings: the operator's command line, environment and configuration file, turned into one
//! checked value.
//!
//! Two types: [`Written`], in which everything is optional, and [`Settings`], which is complete,
//! validated and knows the origin of each part. Only the second circulates. No setting is reloaded
//! while the daemon runs; only the catalog and the operator's keys change at run time.
//!
//! Invariants others rely on: a secret comes from the environment or a file and is never printed;
//! an address that other machines can reach has at least one API key.

mod ambient;
mod check;
mod choices;
mod environment;
mod error;
mod load;
mod manual;
mod operator_keys;
mod percent;
mod quantity;
mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod value;

pub use choices::{AgentRegister, Switch, WebhookEndpoints};
pub use environment::{NotUnicode, ProcessEnvironment, Strings};
pub use error::{ConfigError, Origin, SettingFault};
pub use load::{Effective, Flags};
pub use manual::manual;
pub use quantity::{ByteSize, ByteSizeError, DurationError, DurationText};
pub use secret::{KeyError, resolve_key};
pub use settings::{Setting, Settings, TABLE, Written};
pub use value::LogFormat;
