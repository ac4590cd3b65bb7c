//! Contents that are to be removed, but not while a backup copies them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where removals wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Removals(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Backups that copy at the moment.
    backups: usize,
    paths: Vec<PathBuf>,
}

/// Nothing is removed for as long as this lives.
#[derive(Debug)]
pub(super) struct Kept(Removals);

impl Removals {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets removals wait from now on.
    pub fn hold(&self) -> Kept {
        self.lock().backups += 1;
        Kept(self.clone())
    }

    /// Whether this one waits; if not, the caller removes it.
    pub fn is_to_wait(&self, path: &Path) -> bool {
        let mut waiting = self.lock();
        if waiting.backups > 0 {
            waiting.paths.push(path.to_owned());
        }
        waiting.backups > 0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.backups -= 1;
        if waiting.backups > 0 {
            return;
        }
        for path in std::mem::take(&mut waiting.paths) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "content that was deleted during a backup could not be removed");
            }
        }
    }
}
