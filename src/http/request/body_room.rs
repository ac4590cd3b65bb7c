//! The room for bodies that are held in memory as a whole: a bound on their total size, of which no
//! owner gets more than half.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::domain::batch::priority::Owner;
use crate::http::response::error::ApiError;

/// KiB of bodies that wait for their turn or are worked on.
const HELD: u32 = 128 << 10;
/// KiB of those of one owner. A single body that is larger takes all of it.
const HELD_OF_ONE: u32 = HELD / 2;
/// How long a body waits for room.
const WAIT: Duration = Duration::from_secs(60);

/// The room for bodies that are held as a whole.
#[derive(Debug)]
pub struct BodyRoom {
    all: Arc<Semaphore>,
    /// The shares of owners that have bodies here.
    shares: Mutex<HashMap<Owner, Weak<Semaphore>>>,
}

/// The room of one body, until it is dropped.
#[derive(Debug)]
pub struct HeldRoom {
    _of_all: OwnedSemaphorePermit,
    _of_share: OwnedSemaphorePermit,
}

impl Default for BodyRoom {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(HELD as usize)), shares: Mutex::default() }
    }
}

impl BodyRoom {
    /// Takes room for a body of so many bytes, once there is room. The body has it as long as the
    /// result is kept.
    ///
    /// # Errors
    /// When no room becomes free for a while.
    pub async fn acquire(&self, owner: Owner, bytes: u64) -> Result<HeldRoom, ApiError> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(HELD).saturating_add(1).min(HELD_OF_ONE);
        let share = self.share(owner);
        let held = async {
            // Who waits for the own share keeps nothing from others.
            let of_share = share.acquire_many_owned(kib).await?;
            Ok(HeldRoom { _of_all: self.all.clone().acquire_many_owned(kib).await?, _of_share: of_share })
        };
        let held = timeout(WAIT, held).await;
        let held = held.map_err(|_| ApiError::unavailable("the daemon has no room for another body at the moment; try again later"))?;
        held.map_err(|closed: tokio::sync::AcquireError| ApiError::internal(closed))
    }

    fn share(&self, owner: Owner) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&owner).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(HELD_OF_ONE as usize));
        shares.insert(owner, Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn no_owner_gets_more_than_half_and_others_get_room_at_once() {
        let room = BodyRoom::default();
        let (one, other) = (Owner(1), Owner(2));
        let first = room.acquire(one, 40 * MIB).await.unwrap();
        assert!(timeout(Duration::from_secs(1), room.acquire(one, 40 * MIB)).await.is_err(), "the share is used up");
        let second = timeout(Duration::ZERO, room.acquire(other, 500 * MIB)).await.expect("at once").unwrap();
        assert!(room.acquire(one, 40 * MIB).await.is_err(), "the wait has an end");
        drop((first, second));
        drop(timeout(Duration::ZERO, room.acquire(one, 60 * MIB)).await.expect("at once").unwrap());
        assert_eq!(room.all.available_permits(), HELD as usize);
    }
}
