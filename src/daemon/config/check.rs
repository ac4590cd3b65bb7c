//! Checks that no single type can make: secrets from their sources, and settings that must fit each
//! other.

use std::net::SocketAddr;

use http::uri::Authority;
use tracing_subscriber::EnvFilter;

use super::environment::Strings;
use super::error::{Origin, SettingFault};
use super::load::note_secret;
use super::operator_keys::{check_length, of_file, of_variable};
use super::secret::{add, key, read};
use super::settings::{Settings, setting, unquoted};
use crate::domain::authority;

/// Reads the secrets that the environment and the files hold.
pub(super) fn read_secrets(settings: &mut Settings, env: &dyn Strings, faults: &mut Vec<SettingFault>) {
    let from_env = |secret, faults: &mut Vec<SettingFault>| {
        let name = setting(secret).env();
        match env.filled(&name) {
            Ok(text) => text.map(|text| (text, Origin::Env(name))),
            Err(fault) => {
                faults.push(SettingFault { setting: secret, origin: Origin::Env(name), value: None, reason: fault.to_string() });
                None
            }
        }
    };

    let mut found = None;
    if let Some((text, origin)) = from_env("upstream_api_key", faults) {
        match key(&text) {
            Ok(secret) => (settings.upstream_api_key, found) = (Some(secret), Some(("set".to_owned(), origin))),
            Err(reason) => faults.push(SettingFault { setting: "upstream_api_key", origin, value: None, reason }),
        }
    } else if let Some(path) = &settings.upstream_api_key_file {
        let origin = Origin::File(path.clone());
        match read(path).and_then(|text| key(&text)) {
            Ok(secret) => (settings.upstream_api_key, found) = (Some(secret), Some(("set".to_owned(), origin))),
            Err(reason) => faults.push(fault(settings, "upstream_api_key_file", reason)),
        }
    }
    note_secret(settings, "upstream_api_key", found);

    let mut keys = Vec::new();
    let mut found = None;
    if let Some(path) = &settings.api_keys_file {
        match of_file(path) {
            Ok(more) => {
                add(&mut keys, more);
                found = Some(Origin::File(path.clone()));
            }
            Err(reason) => faults.push(fault(settings, "api_keys_file", reason)),
        }
    }
    if let Some((text, origin)) = from_env("api_keys", faults) {
        match of_variable(&text) {
            Ok(more) => {
                add(&mut keys, more);
                found = Some(origin);
            }
            Err(reason) => faults.push(SettingFault { setting: "api_keys", origin, value: None, reason }),
        }
    }
    let words = format!("{} {}", keys.len(), if keys.len() == 1 { "key" } else { "keys" });
    settings.api_keys = keys;
    note_secret(settings, "api_keys", found.map(|origin| (words, origin)));
}

/// Checks the rules that ranges cannot express.
pub(super) fn check(settings: &Settings, faults: &mut Vec<SettingFault>) {
    let mut refuse = |key, reason: &str| faults.push(fault(settings, key, reason.to_owned()));
    if settings.data_dir.as_os_str().is_empty() {
        refuse("data_dir", "must name a directory; none of STATE_DIRECTORY, XDG_STATE_HOME and HOME names one either");
    }
    if !is_loopback(settings.listen) && settings.api_keys.is_empty() {
        refuse(
            "listen",
            "other machines can reach this address, and without an API key each of them could use the daemon; \
             set the environment variable BATCHD_API_KEYS or the setting `api_keys_file` (one key a line), \
             or listen on a loopback address such as 127.0.0.1:7400",
        );
    }
    if let Err(reason) = check_length(settings.listen, &settings.api_keys) {
        refuse("api_keys", &reason);
    }
    if settings.health_listen.is_some_and(|address| address == settings.listen && address.port() != 0) {
        refuse("health_listen", "must differ from `listen`, where these routes are answered anyway; leave it out, or name another port");
    }
    if settings.upstream.iter().any(|upstream| upstream.trim().is_empty()) {
        refuse("upstream", "must not hold an empty text");
    }
    if !settings.cors_origins.iter().all(|origin| is_origin(origin)) {
        refuse(
            "cors_origins",
            "must hold `*` or origins as browsers send them: scheme, host and port, such as `https://tools.example.com`",
        );
    }
    if settings.public_url.as_deref().is_some_and(|url| url == "*" || !is_origin(url.trim_end_matches('/'))) {
        refuse("public_url", "must be scheme, host and port without anything behind, such as `https://batch.example.com`");
    }
    if settings.api_keys.is_empty() && settings.cors_origins.iter().any(|origin| origin == "*") {
        refuse(
            "cors_origins",
            "`*` lets every page that a browser on this machine opens use the daemon while it asks for no API key; \
             set the environment variable BATCHD_API_KEYS or the setting `api_keys_file`, or list the origins that may call",
        );
    }
    if settings.retry_cap < settings.retry_base {
        let base = settings.value("retry_base").unwrap_or_default();
        refuse("retry_cap", &format!("must not be below `retry_base`, which is {}", unquoted(base)));
    }
    if let Err(reason) = EnvFilter::try_new(&settings.log) {
        refuse(
            "log",
            &format!("must be a level (error, warn, info, debug, trace, off), or levels by module such as `info,batchd=debug`: {reason}"),
        );
    }
}

/// A fault of a setting with its effective value and origin.
fn fault(settings: &Settings, key: &'static str, reason: String) -> SettingFault {
    SettingFault { setting: key, origin: settings.origin(key), value: settings.value(key).map(ToOwned::to_owned), reason }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether the text is `*`, or scheme, host and port with nothing after them.
fn is_origin(text: &str) -> bool {
    let behind_scheme = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text == "*"
        || behind_scheme.is_some_and(|host| {
            host.parse::<Authority>().is_ok_and(|named| !named.as_str().contains('@') && authority::check(&named).is_ok())
        })
}
