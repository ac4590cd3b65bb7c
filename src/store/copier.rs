//! A copy of the store into a fresh database while the store is in use: for a compaction, or a
//! backup.
//!
//! A dedicated thread copies the entries in key order, a little at a time and with pauses, and
//! applies every group of writes that the writer hands it meanwhile. An entry may be copied before
//! or after the write that made it arrives; the writes arrive in order, so the last write to each
//! key wins in the end. The copy keeps its own sum, so that it is known to equal the store before
//! it is used.
//!
//! Invariant: the copier changes nothing in the store. A copy that fails or is given up is removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc::WeakSender;
use tokio::time::Instant;

use super::databases::remove;
use super::dir::Folder;
use super::format::SUM_KEY;
use super::op::{Copy, Op};
use super::open_sled::open_sled;
use super::sum::Sum;
use super::tree::Tree;
use super::writes::Writes;
use crate::store::error::StoreError;
use crate::store::verify::LOG;

/// Bytes that are copied between two checks for new writes.
const CHUNK: usize = 256 << 10;
/// Groups of writes that may wait to be copied; beyond this the writer waits.
const WAITING: usize = 4;
/// The longest pause between two chunks. A pause is as long as its chunk took: the copier uses half
/// a core at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Bytes between two flushes, so that sled's buffers do not grow with the copy.
const FLUSH_EVERY: usize = 8 << 20;

/// Messages from the writer to the copier.
pub(super) enum CopierChange {
    /// A group of writes that is durable.
    Group(Writes),
    /// The store has reached the state that the copy must have; the answer is the finished copy.
    Last(Sum, SyncSender<Copy>),
    /// The copy is in use.
    Taken,
}

/// The writer's side of a copier.
#[derive(Debug)]
pub(super) struct Mirror {
    changes: Option<SyncSender<CopierChange>>,
    /// What has changed since the last group.
    pub group: Writes,
    given_up: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What to copy, and where.
pub(super) struct Job {
    pub source: sled::Tree,
    /// The folder in which the copy gets a folder of its own, and the name of that; remains of a
    /// copy that was given up are removed there.
    pub root: Folder,
    pub name: String,
    pub cache_bytes: u64,
    /// The sum of the store as it is now; the copy takes over the store's identity from it.
    pub sum: Sum,
    /// Queue on which the writer learns that everything has been copied.
    pub queue: WeakSender<Op>,
    /// Runs once the copy is in use.
    pub then: Box<dyn FnOnce() + Send>,
}

impl Mirror {
    /// Begins to copy. From now on the writer must hand over every group of writes.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(job: Job) -> Result<Self, StoreError> {
        let (changes, receiver) = sync_channel(WAITING);
        let given_up = Arc::new(AtomicBool::new(false));
        let until = given_up.clone();
        let (root, name, queue) = (job.root.clone(), job.name.clone(), job.queue.clone());
        let work = move || {
            if let Err(reason) = copy(job, &receiver, &until) {
                tracing::warn!(folder = %root.path_of(&name).display(), %reason, "a copy of the store was given up");
                remove(&root, &name);
                // The writer learns of it with its next group, or at once if it is idle.
                if let Some(queue) = queue.upgrade() {
                    let _ = queue.try_send(Op::Copied);
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-copier".into()).spawn(work);
        let thread = thread.map_err(|error| StoreError::Broken(format!("the copier cannot be started: {error}")))?;
        Ok(Self { changes: Some(changes), group: Writes::default(), given_up, thread: Some(thread) })
    }

    /// Hands a group over; waits while too many groups are queued. `false` if the copier has given
    /// up.
    pub fn hand_over(&mut self) -> bool {
        let group = std::mem::take(&mut self.group);
        group.is_empty() || self.send(CopierChange::Group(group))
    }

    /// Waits for the copy of the store as it is now. `None` if the copy was given up.
    pub fn finish(&mut self, sum: Sum) -> Option<Copy> {
        let (answer, finished) = sync_channel(1);
        if !self.send(CopierChange::Last(sum, answer)) {
            return None;
        }
        finished.recv().ok()
    }

    /// Tells the copier that the copy is in use. The writer does not wait for the remaining work.
    pub fn taken(mut self) {
        self.send(CopierChange::Taken);
        self.thread = None;
    }

    fn send(&self, change: CopierChange) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.send(change).is_ok())
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.changes = None;
        self.given_up.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's copier ended with a panic");
        }
    }
}

/// Why a copy was given up.
#[derive(Debug, thiserror::Error)]
enum GivenUp {
    #[error("the store is being closed")]
    Closed,
    #[error("{0}")]
    Failed(#[from] StoreError),
    #[error("it differs from the store: {0} entries, and {1} in the store")]
    Differs(u64, u64),
}

impl From<sled::Error> for GivenUp {
    fn from(error: sled::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn copy(job: Job, changes: &Receiver<CopierChange>, given_up: &AtomicBool) -> Result<(), GivenUp> {
    // Threads that serve requests come first. If the system refuses the lower priority, the pauses
    // remain.
    let _ = rustix::process::setpriority_process(None, 10);
    remove(&job.root, &job.name);
    let folder = job.root.folder(&job.name)?;
    // What happens to the copy does not concern the store.
    let tree = Tree::new(open_sled(&folder, job.cache_bytes)?, Default::default(), Default::default());
    let mut copying = Copying { sum: Sum { writes: 0, entries: 0, bytes: 0, sum: 0, ..job.sum }, tree, unflushed: 0 };
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        let began = Instant::now();
        copying.catch_up(changes)?;
        from = copying.chunk(&job.source, start)?;
        let pause = began.elapsed().min(LONGEST_PAUSE);
        if given_up.load(Ordering::Acquire) {
            return Err(GivenUp::Closed);
        }
        std::thread::sleep(pause);
    }
    let Job { source, root, queue, then, .. } = job;
    drop(source);
    let queue = queue.upgrade().ok_or(GivenUp::Closed)?;
    queue.blocking_send(Op::Copied).map_err(|_| GivenUp::Closed)?;
    drop(queue);
    loop {
        match changes.recv().map_err(|_| GivenUp::Closed)? {
            CopierChange::Group(group) => copying.apply(group)?,
            CopierChange::Last(sum, answer) => {
                let finished = copying.finish(&sum, &root, &folder)?;
                // The writer may be gone by now; then the copy is not taken.
                let _ = answer.send(finished);
            }
            CopierChange::Taken => {
                then();
                return Ok(());
            }
        }
    }
}

/// The copy that is being made.
struct Copying {
    tree: Tree,
    sum: Sum,
    unflushed: usize,
}

impl Copying {
    /// Applies what was written meanwhile.
    fn catch_up(&mut self, changes: &Receiver<CopierChange>) -> Result<(), GivenUp> {
        loop {
            match changes.try_recv() {
                Ok(CopierChange::Group(group)) => self.apply(group)?,
                Ok(CopierChange::Last(..) | CopierChange::Taken) => {}
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(GivenUp::Closed),
            }
        }
    }

    /// Copies one chunk of entries, starting at a key; returns where the next chunk begins.
    fn chunk(&mut self, source: &sled::Tree, from: Vec<u8>) -> Result<Option<Vec<u8>>, GivenUp> {
        let mut writes = Writes::default();
        let mut bytes = 0;
        for entry in source.range(from..) {
            let (key, value) = entry?;
            if bytes >= CHUNK {
                self.apply(writes)?;
                return Ok(Some(key.to_vec()));
            }
            bytes += key.len() + value.len();
            if *key != *SUM_KEY {
                writes.insert(key.to_vec(), value);
            }
        }
        self.apply(writes)?;
        Ok(None)
    }

    fn apply(&mut self, writes: Writes) -> Result<(), GivenUp> {
        self.unflushed += writes.bytes();
        writes.apply(&self.tree, &mut self.sum, None)?;
        if self.unflushed >= FLUSH_EVERY {
            self.tree.flush()?;
            self.unflushed = 0;
        }
        Ok(())
    }

    /// Makes the copy durable, once it is known to equal the store.
    fn finish(&mut self, sum: &Sum, root: &Folder, folder: &Folder) -> Result<Copy, GivenUp> {
        if (self.sum.entries, self.sum.bytes, self.sum.sum) != (sum.entries, sum.bytes, sum.sum) {
            return Err(GivenUp::Differs(self.sum.entries, sum.entries));
        }
        self.tree.sled().insert(SUM_KEY, sum.encode()?)?;
        self.tree.flush()?;
        let log = folder.open(LOG)?;
        log.sync_all().map_err(|error| StoreError::io("flushing", &folder.path_of(LOG), &error))?;
        folder.sync()?;
        root.sync()?;
        Ok(Copy { tree: self.tree.sled(), log })
    }
}
