//! The copy of the store that is being made, if any, and what it is for: a compaction or a backup.

use std::sync::mpsc::SyncSender;

use tokio::sync::mpsc::WeakSender;

use super::compaction::Compaction;
use super::copier::{Job, Mirror};
use super::dir::Folder;
use super::op::{BackupAnswer, Op};
use super::writes::Writes;

/// Copies of the store that are being made: one at most.
#[derive(Debug)]
pub(super) struct Copies {
    pub mirror: Option<Mirror>,
    /// Where the answer goes, if the copy is for a backup.
    pub wanted: Option<SyncSender<BackupAnswer>>,
    pub compaction: Compaction,
    pub queue: WeakSender<Op>,
    pub root: Folder,
    /// Which database is the current one.
    pub generation: u64,
    pub cache_bytes: u64,
}

impl Copies {
    /// The group in which changes are noted that a copy needs, too.
    pub fn group(&mut self) -> Option<&mut Writes> {
        self.mirror.as_mut().map(|mirror| &mut mirror.group)
    }

    /// Hands the durable changes over to the copier.
    pub fn hand_over(&mut self) {
        if self.mirror.as_mut().is_some_and(|mirror| !mirror.hand_over()) {
            self.give_up();
        }
    }

    pub fn give_up(&mut self) {
        self.mirror = None;
        if self.wanted.take().is_none() {
            self.compaction.ended(None);
        }
    }

    pub fn start(&mut self, job: Job) {
        match Mirror::start(job) {
            Ok(mirror) => self.mirror = Some(mirror),
            Err(error) => {
                tracing::warn!(%error, "the store cannot be copied now");
                self.give_up();
            }
        }
    }
}
