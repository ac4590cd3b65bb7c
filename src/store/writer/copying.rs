//! What the writer does for copies of the store: it begins them, and moves to one that is whole or
//! hands it to its backup.

use std::sync::mpsc::SyncSender;

use super::Writer;
use crate::store::copier::Job;
use crate::store::databases::retire;
use crate::store::dir::{Folder, database};
use crate::store::error::StoreError;
use crate::store::op::BackupAnswer;

impl Writer {
    /// Begins a compaction if one is due.
    pub(super) fn consider_compaction(&mut self) {
        if self.copies.mirror.is_some() || !self.copies.compaction.is_due(&self.log, &self.sum) {
            return;
        }
        self.copies.compaction.began(&self.sum);
        let (root, old) = (self.copies.root.clone(), self.copies.generation);
        self.start_copy(root.clone(), database(old + 1), move || retire(&root, old));
    }

    fn start_copy(&mut self, root: Folder, name: String, then: impl FnOnce() + Send + 'static) {
        let (cache_bytes, queue) = (self.copies.cache_bytes, self.copies.queue.clone());
        let job = Job { source: self.tree.sled(), root, name, cache_bytes, sum: self.sum, queue, then: Box::new(then) };
        self.copies.start(job);
    }

    /// Begins a copy for a backup, unless another copy is being made.
    pub(super) fn copy_to(&mut self, (root, name): (Folder, String), answer: SyncSender<BackupAnswer>) {
        if self.copies.mirror.is_some() {
            // The backup may no longer wait for an answer.
            let _ = answer.send(None);
            return;
        }
        self.copies.wanted = Some(answer);
        self.start_copy(root, name, || {});
    }

    /// Moves to the copy if it is whole, or hands it to the backup that wanted it. Everything that
    /// was written before is durable in both databases.
    ///
    /// # Errors
    /// When it is unknown which of the two databases a start would open.
    pub(super) fn take_copy(&mut self) -> Result<(), StoreError> {
        let Some(mut mirror) = self.copies.mirror.take() else { return Ok(()) };
        let Some(copy) = mirror.finish(self.sum) else {
            self.copies.give_up();
            return Ok(());
        };
        if let Some(wanted) = self.copies.wanted.take() {
            let _ = wanted.send(Some((copy, self.sum)));
            mirror.taken();
            return Ok(());
        }
        self.mark.switch(self.copies.generation + 1, &self.sum)?;
        self.copies.generation += 1;
        self.copies.compaction.ended(copy.log.bytes().ok());
        self.tree.replace(copy.tree);
        self.log = copy.log;
        mirror.taken();
        Ok(())
    }
}
