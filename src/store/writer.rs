//! The one thread that writes: many waiting operations, one flush.
//!
//! Row results gather for the commit interval; metadata does not wait. A group is applied, flushed
//! once, published to readers, and only then acknowledged.
//!
//! Invariants:
//! * the rows of a group and the pages that count them are one atomic sled batch;
//! * nothing is acknowledged or published before the flush; after a failure nothing ever is, and
//!   the daemon is told to stop.

mod copying;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::copies::Copies;
use super::dir::Folder;
use super::live::Lives;
use super::mark::Mark;
use super::op::{Ack, BackupAnswer, Op, Publish, Tx};
use super::results::row_group::RowGroup;
use super::sum::Sum;
use super::tree::Tree;
use super::writes::Writes;
use crate::store::error::StoreError;

/// Limit on operations in one group; bounds the group's memory and how long its acknowledgements
/// wait.
const MAX_GROUP: usize = 8_192;
/// Limit on the bytes of results in one group.
const MAX_GROUP_BYTES: usize = 16 << 20;

/// What the writer does after a group.
enum Then {
    GoOn,
    Copy((Folder, String), SyncSender<BackupAnswer>),
    TakeCopy,
    Stop,
}

/// The writer's side of the channels.
pub(super) struct Writer {
    pub tree: Tree,
    pub copies: Copies,
    pub lives: Lives,
    pub queue: mpsc::Receiver<Op>,
    pub begun: Arc<AtomicU64>,
    pub durable: watch::Sender<u64>,
    pub durable_rows: watch::Sender<u64>,
    pub commits: Arc<AtomicU64>,
    pub broken: CancellationToken,
    /// sled's log.
    pub log: super::dir::DataFile,
    /// The sum over the tree.
    pub sum: Sum,
    /// The mark of what was made durable, outside sled.
    pub mark: Mark,
    /// How long row results may gather before a flush.
    pub interval: Duration,
    #[cfg(test)]
    pub writing: super::quiesce::WhileWriting,
}

impl Writer {
    /// Works until the store is closed or has failed.
    pub fn run(mut self) {
        // After a panic, the daemon must not go on to take work and lose it.
        let alarm = self.broken.clone().drop_guard();
        while let Some(first) = self.queue.blocking_recv() {
            if matches!(first, Op::Row { .. }) && !self.interval.is_zero() {
                std::thread::sleep(self.interval);
            }
            let (group, then) = self.gather(first);
            let stop = matches!(then, Then::Stop);
            if let Err(error) = self.commit(group).and_then(|()| self.go_on(then)) {
                tracing::error!(%error, "the store has failed; nothing more is accepted until a restart");
                return;
            }
            if stop {
                break;
            }
            self.consider_compaction();
        }
        self.copies.mirror = None;
        alarm.disarm();
    }

    fn go_on(&mut self, then: Then) -> Result<(), StoreError> {
        match then {
            Then::GoOn | Then::Stop => Ok(()),
            Then::Copy(place, answer) => {
                self.copy_to(place, answer);
                Ok(())
            }
            Then::TakeCopy => self.take_copy(),
        }
    }

    fn gather(&mut self, first: Op) -> (Vec<Op>, Then) {
        let mut group = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(op) = next {
            match op {
                Op::Stop => return (group, Then::Stop),
                Op::Copied => return (group, Then::TakeCopy),
                Op::Backup { place, answer } => return (group, Then::Copy(place, answer)),
                Op::Row { ref row, .. } => bytes += row.size(),
                Op::Meta(_) => {}
            }
            group.push(op);
            next = if group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES { self.queue.try_recv().ok() } else { None };
        }
        (group, Then::GoOn)
    }

    fn commit(&mut self, group: Vec<Op>) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        let results = group.iter().filter(|op| matches!(op, Op::Row { .. })).count() as u64;
        let mut acks = Vec::new();
        let mut publish = Vec::new();
        let mut rows = RowGroup::default();
        if let Err(error) = self.write(group, &mut rows, &mut publish, &mut acks) {
            self.broken.cancel();
            for ack in acks {
                ack(Err(error.clone()));
            }
            return Err(error);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        let ran = rows.ran;
        rows.publish(&self.lives);
        for publish in publish {
            publish(&self.lives);
        }
        self.durable.send_modify(|durable| *durable += acks.len() as u64);
        self.durable_rows.send_modify(|durable| *durable += ran);
        for ack in acks {
            ack(Ok(()));
        }
        #[cfg(test)]
        self.writing.durable(results);
        Ok(())
    }

    fn write(&mut self, group: Vec<Op>, rows: &mut RowGroup, publish: &mut Vec<Publish>, acks: &mut Vec<Ack>) -> Result<(), StoreError> {
        for op in group {
            match op {
                Op::Row { row, ran } => {
                    rows.ran += u64::from(ran);
                    rows.add(row, &self.lives);
                }
                Op::Meta(op) => {
                    // Counted before the write becomes visible, so that every reader that sees the
                    // write waits for it.
                    self.begun.fetch_add(1, Ordering::SeqCst);
                    let mut tx = Tx { tree: &self.tree, lives: &self.lives, writes: Writes::default(), publish: Vec::new(), failed: false };
                    acks.push(op(&mut tx));
                    if !tx.failed {
                        // Applied at once, so that the next operation of the group sees it.
                        tx.writes.apply(&self.tree, &mut self.sum, self.copies.group())?;
                        publish.append(&mut tx.publish);
                    }
                }
                Op::Backup { .. } | Op::Copied | Op::Stop => {}
            }
        }
        let written = rows.write(&self.tree, &mut self.sum, self.copies.group())?;
        collect_garbage(written);
        self.tree.flush()?;
        // On Linux sled's flush is `sync_file_range`, which survives the process but not the power:
        // it syncs neither the file's size nor the disk's own cache.
        self.log.sync_data().map_err(|error| StoreError::Broken(format!("the log of the store cannot be synced: {error}")))?;
        self.mark.advance(&self.sum)?;
        self.copies.hand_over();
        Ok(())
    }
}

/// Lets sled free the nodes that it has replaced. On its own, sled frees a bounded number per
/// access, which is fewer than many small values replace: replaced nodes would pile up for as long
/// as rows come fast.
pub(super) fn collect_garbage(values: usize) {
    /// Number of values whose garbage one step is certain to collect.
    const VALUES_A_STEP: usize = 16;
    for _ in 0..values.div_ceil(VALUES_A_STEP) {
        crossbeam_epoch::pin().flush();
    }
}
