//! How far the store was durable, recorded outside sled: a start that finds less than this has lost
//! data.
//!
//! A small file, `mark`, with two slots that are written in turn, so that one slot is whole at any
//! moment. The mark is written after each group of writes that was made durable, and synced at
//! least once a second. So it never promises more than is durable. After `kill -9` it is exact;
//! after a loss of power it lags by a second at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::dir::{DataFile, Folder, MARK, MARK_NEW};
use super::sum::Sum;
use crate::store::error::StoreError;

/// Slots lie in blocks of their own, so that a torn write damages one of them.
const SLOT_DISTANCE: u64 = 4096;
const SLOT: usize = 64;
const MAGIC: &[u8; 8] = b"batchd-m";
/// The longest time by which the mark may lag after a loss of power.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    /// Which store the slot is about.
    pub store: u128,
    /// Which of the store's databases is the current one.
    pub generation: u64,
    /// Number of writes that were durable.
    pub writes: u64,
}

impl Reached {
    fn encode(&self) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..24].copy_from_slice(&self.store.to_be_bytes());
        slot[24..32].copy_from_slice(&self.generation.to_be_bytes());
        slot[32..40].copy_from_slice(&self.writes.to_be_bytes());
        let crc = crc32fast::hash(&slot[..SLOT - 4]);
        slot[SLOT - 4..].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    fn decode(slot: &[u8; SLOT]) -> Option<Self> {
        let crc = u32::from_be_bytes(slot[SLOT - 4..].try_into().ok()?);
        let is_whole = slot.starts_with(MAGIC) && crc32fast::hash(&slot[..SLOT - 4]) == crc;
        let number = |at: usize| Some(u64::from_be_bytes(slot[at..at + 8].try_into().ok()?));
        is_whole.then_some(Self { store: u128::from_be_bytes(slot[8..24].try_into().ok()?), generation: number(24)?, writes: number(32)? })
    }
}

/// Reads the mark of a data directory; `None` if there is no mark. The inner `None` is a mark
/// neither of whose slots is whole.
pub(super) fn read(root: &Folder) -> Result<Option<Option<Reached>>, StoreError> {
    if root.kind_of(MARK)?.is_none() {
        return Ok(None);
    }
    let file = root.open(MARK)?;
    let mut newest: Option<Reached> = None;
    for at in [0, SLOT_DISTANCE] {
        let mut slot = [0; SLOT];
        match file.read_exact_at(&mut slot, at) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(StoreError::io("reading", &root.path_of(MARK), &error)),
        }
        newest = newest.into_iter().chain(Reached::decode(&slot)).max_by_key(|reached| (reached.generation, reached.writes));
    }
    Ok(Some(newest))
}

/// The mark of an open store.
#[derive(Debug)]
pub(super) struct Mark {
    file: Arc<DataFile>,
    generation: u64,
    /// Which slot is written next.
    turn: bool,
    is_synced: Arc<AtomicBool>,
    /// Syncs until the mark is dropped.
    _syncing: Syncing,
}

impl Mark {
    /// Writes the mark of a store as it is now, durably, and keeps the mark up to date from then
    /// on.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn start(root: &Folder, generation: u64, sum: &Sum) -> Result<Self, StoreError> {
        let slot = Reached { store: sum.store, generation, writes: sum.writes }.encode();
        let failed = |error: std::io::Error| StoreError::io("writing", &root.path_of(MARK), &error);
        // Written under another name first: an empty mark never exists.
        if root.kind_of(MARK_NEW)?.is_some() {
            root.remove(MARK_NEW)?;
        }
        let file = root.create(MARK_NEW)?;
        for at in [0, SLOT_DISTANCE] {
            file.write_all_at(&slot, at).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        root.rename(MARK_NEW, root, MARK)?;
        root.sync()?;
        let file = Arc::new(file);
        let is_synced = Arc::new(AtomicBool::new(true));
        let syncing = Syncing::start(file.clone(), is_synced.clone()).map_err(failed)?;
        Ok(Self { file, generation, turn: false, is_synced, _syncing: syncing })
    }

    /// Notes that the writes up to `sum` are durable.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn advance(&mut self, sum: &Sum) -> Result<(), StoreError> {
        let slot = Reached { store: sum.store, generation: self.generation, writes: sum.writes }.encode();
        let at = if self.turn { SLOT_DISTANCE } else { 0 };
        self.file.write_all_at(&slot, at).map_err(unwritten)?;
        self.turn = !self.turn;
        self.is_synced.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes another database the current one, durably: from now on a start opens that database.
    ///
    /// # Errors
    /// When the disk fails; then it is unknown which of the two databases a start opens, and both
    /// are whole.
    pub fn switch(&mut self, generation: u64, sum: &Sum) -> Result<(), StoreError> {
        self.generation = generation;
        // Writes both slots, so that damage to one slot does not lead back to a database that is
        // gone.
        for _ in 0..2 {
            self.advance(sum)?;
            self.file.sync_data().map_err(unwritten)?;
        }
        Ok(())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Err(error) = self.file.sync_data() {
            tracing::error!(%error, "the mark of the store cannot be synced");
        }
    }
}

fn unwritten(error: std::io::Error) -> StoreError {
    StoreError::Broken(format!("the mark of the store cannot be written: {error}"))
}

/// A thread that syncs the mark.
#[derive(Debug)]
struct Syncing {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Syncing {
    fn start(file: Arc<DataFile>, is_synced: Arc<AtomicBool>) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let until = ended.clone();
        let sync = move || {
            while !until.load(Ordering::Acquire) {
                std::thread::park_timeout(SYNC_INTERVAL);
                if !is_synced.swap(true, Ordering::AcqRel)
                    && let Err(error) = file.sync_data()
                {
                    // The mark still never promises too much, and the next write of the store meets
                    // the same disk.
                    tracing::error!(%error, "the mark of the store cannot be synced");
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-mark".into()).spawn(sync)?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_damaged_slot_is_borne_and_two_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let locked = crate::store::dir::Locked::take(dir.path()).unwrap();
        let root = locked.root();
        assert_eq!(read(root).unwrap(), None);
        let mut sum = Sum::fresh();
        let mut mark = Mark::start(root, 3, &sum).unwrap();
        for _ in 0..5 {
            sum.writes += 1;
            mark.advance(&sum).unwrap();
        }
        drop(mark);
        let reached = Reached { store: sum.store, generation: 3, writes: sum.writes };
        assert_eq!(read(root).unwrap(), Some(Some(reached)));
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(dir.path().join(MARK)).unwrap();
        file.write_all_at(b"x", 33).unwrap();
        assert_eq!(read(root).unwrap(), Some(Some(Reached { writes: sum.writes - 1, ..reached })));
        file.write_all_at(b"x", SLOT_DISTANCE + 33).unwrap();
        assert_eq!(read(root).unwrap(), Some(None));
        file.set_len(10).unwrap();
        assert_eq!(read(root).unwrap(), Some(None));
    }
}
