//! A catalog folder of a test's own.

use std::path::PathBuf;

use tempfile::TempDir;

use super::daemon::{Daemon, temp_dir};

/// The folder; it goes away when dropped.
pub struct Seeds(TempDir);

impl Seeds {
    pub fn new() -> Self {
        Self(temp_dir())
    }

    /// Where a seed is.
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

    /// A daemon that goes by it.
    pub fn daemon(&self, args: &[&str]) -> Daemon {
        Daemon::with(&[&["--catalog-dir", self.0.path().to_str().expect("a plain path")], args].concat())
    }

    /// The same with two attempts a row on each lane, soon after each other.
    pub fn hasty_daemon(&self, args: &[&str]) -> Daemon {
        self.daemon(&[&["--retry-base", "5ms", "--retry-cap", "20ms", "--max-attempts", "2"], args].concat())
    }
}
