//! Removal of contents, postponed while a backup copies them.

use std::sync::{Arc, Mutex, MutexGuard};

use super::dir::{Folder, content_name};
use crate::store::error::StoreError;

/// Holds removals that wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Removals(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Backups that are copying at the moment.
    backups: usize,
    contents: Vec<(Folder, u128)>,
}

/// Postpones all removals for as long as this value lives.
#[derive(Debug)]
pub(super) struct Kept(Removals);

impl Removals {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Postpones removals from now on.
    pub fn hold(&self) -> Kept {
        self.lock().backups += 1;
        Kept(self.clone())
    }

    /// Removes content from a folder, or queues the removal. Not durable before the folder is
    /// synced. Blocks.
    ///
    /// # Errors
    /// When the content does not exist, or the disk fails.
    pub fn remove(&self, folder: &Folder, id: u128) -> Result<(), StoreError> {
        let mut waiting = self.lock();
        if waiting.backups > 0 {
            waiting.contents.push((folder.clone(), id));
            return Ok(());
        }
        drop(waiting);
        folder.remove(content_name(id))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.backups -= 1;
        if waiting.backups > 0 {
            return;
        }
        for (folder, id) in std::mem::take(&mut waiting.contents) {
            if let Err(error) = folder.remove(content_name(id)) {
                tracing::warn!(%error, "content that was deleted during a backup could not be removed");
            }
        }
    }
}
