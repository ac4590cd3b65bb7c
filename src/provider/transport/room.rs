//! The memory for answers of all calls together.
//!
//! Each answer has a limit of its own, but a crowd of answers at that limit would take more memory
//! than the machine has: servers may send all but the last byte, and wait. An answer takes room as
//! it grows, and gives it back when its bytes are dropped. Where there is none left, answers wait
//! without being read on; only the one that waits longest goes on all the same, so that each comes to
//! its end.
//!
//! Invariant: answers take no more memory than the room, one answer at its own limit, and
//! [`FREE`] bytes for each call.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Bytes of an answer that take no room: most answers are smaller.
pub const FREE: u64 = 32 << 10;
/// Room is taken in steps of at least this many bytes.
const UNIT: u64 = 4 << 10;

/// The room for all answers. Clones share it.
#[derive(Debug, Clone)]
pub struct AnswerRoom {
    room: Arc<Semaphore>,
    /// Whose holder goes on without room.
    last: Arc<Mutex<()>>,
}

impl AnswerRoom {
    /// Room for this many bytes.
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(units)), last: Arc::default() }
    }

    /// The room of one answer; none yet.
    pub fn hold(&self) -> HeldRoom {
        HeldRoom { of: self.clone(), units: 0, taken: Vec::new(), last: None }
    }
}

/// The room that one answer takes.
#[derive(Debug)]
pub struct HeldRoom {
    of: AnswerRoom,
    /// What the answer takes, whether or not there was room for it.
    units: u32,
    taken: Vec<OwnedSemaphorePermit>,
    last: Option<OwnedMutexGuard<()>>,
}

impl HeldRoom {
    /// Waits until the answer may have this many bytes in memory.
    pub async fn grow(&mut self, bytes: u64) {
        let wanted = u32::try_from(bytes.saturating_sub(FREE).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let Some(more) = wanted.checked_sub(self.units).filter(|more| *more > 0 && self.last.is_none()) else { return };
        // Twice as much each time, so that a large answer does not ask often.
        let generous = more.max(self.units);
        if let Ok(permit) = self.of.room.clone().try_acquire_many_owned(generous) {
            self.units += generous;
            return self.taken.push(permit);
        }
        tokio::select! {
            biased;
            permit = self.of.room.clone().acquire_many_owned(more) => {
                self.units += more;
                // The room is never closed.
                self.taken.extend(permit.ok());
            }
            last = self.of.last.clone().lock_owned() => self.last = Some(last),
        }
    }

    /// The bytes of a whole answer, which give the room back when they are dropped.
    pub fn keep(self, bytes: Bytes) -> Bytes {
        if self.taken.is_empty() && self.last.is_none() {
            return bytes;
        }
        Bytes::from_owner(Kept { bytes, _room: self })
    }
}

struct Kept {
    bytes: Bytes,
    _room: HeldRoom,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Whether the answer may grow at once.
    async fn grows(held: &mut HeldRoom, bytes: u64) -> bool {
        timeout(Duration::from_millis(1), held.grow(bytes)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_wait_for_room_and_one_goes_on_without() {
        let room = AnswerRoom::new(1 << 20);
        let mut small = room.hold();
        let (mut first, mut second, mut third) = (room.hold(), room.hold(), room.hold());
        assert!(grows(&mut first, FREE + (1 << 20)).await);
        assert!(grows(&mut small, FREE).await, "no room is needed");
        assert!(grows(&mut second, 40 << 20).await, "one answer goes on without room");
        assert!(!grows(&mut third, FREE + 1).await);
        // What waits goes on when the one that needs no room has ended, and when there is room.
        drop(second);
        assert!(grows(&mut third, FREE + 1).await);
        drop(third);
        let kept = first.keep(Bytes::from_static(b"answer"));
        let mut fourth = room.hold();
        let (mut fifth, part) = (room.hold(), kept.slice(1..3));
        assert!(grows(&mut fourth, 40 << 20).await);
        drop(kept);
        assert!(!grows(&mut fifth, FREE + 1).await, "a part of the bytes keeps all of them");
        drop(part);
        assert!(grows(&mut fifth, FREE + (1 << 20)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn every_answer_comes_to_its_end_however_little_room_there_is() {
        let room = AnswerRoom::new(256 << 10);
        let one = |size: u64| {
            let mut held = room.hold();
            async move {
                for step in 1..=100 {
                    held.grow(size * step / 100).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                drop(held.keep(Bytes::from_static(b"x")));
            }
        };
        let all = futures_util::future::join_all((1..60).map(|n| one(n * 40_000)));
        timeout(Duration::from_secs(60), all).await.expect("no answer waits for ever");
        assert_eq!(room.room.available_permits() as u64, (256 << 10) / UNIT);
    }
}
