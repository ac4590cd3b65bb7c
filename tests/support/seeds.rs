//! A catalog folder that belongs to one test.

use std::path::PathBuf;

use tempfile::TempDir;

use super::daemon::{Daemon, temp_dir};

/// The folder; it is removed when dropped.
pub struct Seeds(TempDir);

impl Seeds {
    pub fn new() -> Self {
        Self(temp_dir())
    }

    /// The path of a seed.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a seed, such as `models/m.toml`.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder can be made");
        std::fs::write(path, text).expect("the seed can be written");
    }

    /// Replaces a part of a seed.
    pub fn change(&self, name: &str, from: &str, to: &str) {
        let seed = std::fs::read_to_string(self.at(name)).expect("the seed");
        self.write(name, seed.replace(from, to));
    }

    /// Starts a daemon that uses this catalog.
    pub fn daemon(&self, args: &[&str]) -> Daemon {
        Daemon::with(&[&["--catalog-dir", self.0.path().to_str().expect("a plain path")], args].concat())
    }

    /// Starts the same daemon with two attempts a row on each lane, in quick succession.
    pub fn hasty_daemon(&self, args: &[&str]) -> Daemon {
        self.daemon(&[&["--retry-base", "5ms", "--retry-cap", "20ms", "--max-attempts", "2"], args].concat())
    }
}
