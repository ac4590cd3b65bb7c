//! Default places taken from the surroundings when no path is set: systemd's directories and the
//! user's.

use std::path::PathBuf;

use super::environment::Strings;
use super::error::Origin;
use super::secret::credential;

/// systemd's state directory (the first of its list), else the user's state directory.
pub(super) fn data_dir(env: &dyn Strings) -> Option<(PathBuf, Origin)> {
    let filled = |name: &str| env.filled(name).ok().flatten();
    let from = |name: &str| Origin::Env(name.to_owned());
    if let Some(list) = filled("STATE_DIRECTORY") {
        return list.split(':').find(|path| !path.is_empty()).map(|path| (PathBuf::from(path), from("STATE_DIRECTORY")));
    }
    // The XDG specification tells programs to ignore a relative path.
    if let Some(home) = filled("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Some((home.join("batchd"), from("XDG_STATE_HOME")));
    }
    filled("HOME").map(|home| (PathBuf::from(home).join(".local/state/batchd"), Origin::Default))
}

/// The service's credential `upstream_api_key`.
pub(super) fn upstream_api_key_file(env: &dyn Strings) -> Option<(PathBuf, Origin)> {
    credential(env, "upstream_api_key")
}

/// The service's credential `api_keys`.
pub(super) fn api_keys_file(env: &dyn Strings) -> Option<(PathBuf, Origin)> {
    credential(env, "api_keys")
}
