//! Memory for the files that travel with rows.
//!
//! Invariant: files take no more than the room has, in total and for one organisation; a file larger
//! than that comes alone. The room that a row needs which found none is kept free of rows that came
//! after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::id::{OrgId, RowKey};

/// How long room is kept for a row that does not come back.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The room; copies share it.
#[derive(Debug, Clone)]
pub struct FileRoom(Arc<Mutex<Room>>);

/// The room that files in memory take, and the row that is next in line.
#[derive(Debug)]
struct Room {
    /// Bytes of all files at one time.
    at_once: u64,
    /// Bytes of the files of one organisation at one time.
    of_one_org: u64,
    /// Bytes in use, by organisation.
    taken: HashMap<OrgId, u64>,
    /// The row that has waited longest, the bytes that it needs, and when it last asked.
    first: Option<(RowKey, u64, Instant)>,
}

impl FileRoom {
    /// An empty room for so many bytes, in total and for one organisation.
    pub fn new(at_once: u64, of_one_org: u64) -> Self {
        Self(Arc::new(Mutex::new(Room { at_once, of_one_org, taken: HashMap::new(), first: None })))
    }

    /// Takes room for a row; `None` if there is none at present.
    pub fn take(&self, row: RowKey, org: OrgId, bytes: u64) -> Option<FileSlot> {
        let is_in = self.lock().take(row, org, bytes, Instant::now());
        is_in.then(|| FileSlot { room: self.clone(), org, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Takes room for a row, if there is enough besides what is kept for another row.
    fn take(&mut self, row: RowKey, org: OrgId, bytes: u64, now: Instant) -> bool {
        let all: u64 = self.taken.values().sum();
        let own = self.taken.get(&org).copied().unwrap_or(0);
        // A row that waits for room of its own organisation keeps no room from others.
        if own > 0 && own.saturating_add(bytes) > self.of_one_org {
            return false;
        }
        let first = self.first.filter(|(first, _, seen)| *first != row && now.saturating_duration_since(*seen) < KEPT_FOR);
        let kept = first.map_or(0, |(_, needs, _)| needs);
        if all > 0 && all.saturating_add(bytes).saturating_add(kept) > self.at_once {
            if first.is_none() {
                self.first = Some((row, bytes, now));
            }
            return false;
        }
        if first.is_none() {
            self.first = None;
        }
        *self.taken.entry(org).or_default() += bytes;
        true
    }

    fn give_back(&mut self, org: OrgId, bytes: u64) {
        if let Some(taken) = self.taken.get_mut(&org) {
            *taken = taken.saturating_sub(bytes);
            if *taken == 0 {
                self.taken.remove(&org);
            }
        }
    }
}

/// Room that a row holds until this is dropped.
#[derive(Debug)]
pub struct FileSlot {
    room: FileRoom,
    org: OrgId,
    bytes: u64,
}

impl FileSlot {
    /// Gives back what is beyond so many bytes.
    pub fn shrink_to(&mut self, bytes: u64) {
        let rest = self.bytes.saturating_sub(bytes);
        self.room.lock().give_back(self.org, rest);
        self.bytes -= rest;
    }
}

impl Drop for FileSlot {
    fn drop(&mut self) {
        self.room.lock().give_back(self.org, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{BatchId, RowIndex};

    const MIB: u64 = 1 << 20;

    fn row(number: u32) -> RowKey {
        RowKey { batch: BatchId::from_u128(1), row: RowIndex(number) }
    }

    #[test]
    fn a_large_file_comes_before_small_ones_that_came_later_and_nobody_has_all_the_room() {
        let (one, two, three) = (OrgId::from_u128(1), OrgId::from_u128(2), OrgId::from_u128(3));
        let now = Instant::now();
        let room = FileRoom::new(32 * MIB, 20 * MIB);
        let mut room = room.lock();
        assert!((0..20).all(|number| room.take(row(number), one, MIB, now)));
        assert!(!room.take(row(20), one, MIB, now), "an organisation has its bound");
        assert!(!room.take(row(30), two, 20 * MIB, now), "no room: it is the first to come");
        assert!(!room.take(row(40), three, MIB, now), "and what it needs is kept free");
        for _ in 0..8 {
            room.give_back(one, MIB);
        }
        assert!(!room.take(row(40), three, MIB, now));
        assert!(room.take(row(30), two, 20 * MIB, now), "its turn");
        assert!(!room.take(row(41), three, MIB, now), "all is taken");
        room.give_back(one, MIB);
        assert!(!room.take(row(40), three, MIB, now + KEPT_FOR / 2), "the row before it has not come back yet");
        assert!(room.take(row(40), three, MIB, now + KEPT_FOR), "and did not for too long");
    }

    #[test]
    fn room_comes_back_when_a_place_shrinks_or_is_dropped() {
        let (room, org) = (FileRoom::new(4 * MIB, 4 * MIB), OrgId::from_u128(1));
        let mut slot = room.take(row(1), org, 4 * MIB).unwrap();
        assert!(room.take(row(2), org, MIB).is_none());
        slot.shrink_to(3 * MIB);
        drop(room.take(row(2), org, MIB).unwrap());
        drop(slot);
        assert!(room.lock().taken.is_empty());
    }
}
