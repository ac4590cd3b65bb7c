//! Memory that owners share: a bound on all of it, and one on the part of each owner.
//!
//! Knows nothing of what is held. Room is counted in KiB, and is free again when its holder drops
//! it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::domain::batch::priority::Owner;

/// Memory of which each owner may have a share.
#[derive(Debug)]
pub struct SharedRoom {
    all: Arc<Semaphore>,
    /// KiB of all owners, and of one.
    most: u32,
    share: u32,
    /// The shares of owners that have room here.
    shares: Mutex<HashMap<Owner, Weak<Semaphore>>>,
}

/// Room that is taken, until it is dropped.
#[derive(Debug)]
pub struct Held {
    of_all: OwnedSemaphorePermit,
    of_share: OwnedSemaphorePermit,
}

impl SharedRoom {
    /// Room of so many KiB, of which one owner may have `share`.
    pub fn new(all: u32, share: u32) -> Self {
        Self { all: Arc::new(Semaphore::new(all as usize)), most: all, share: share.min(all), shares: Mutex::default() }
    }

    /// Takes room for so many bytes, once there is room. What is larger than a share takes all of
    /// the share.
    ///
    /// # Errors
    /// Never: the room is not closed.
    pub async fn acquire(&self, owner: Owner, bytes: u64) -> Result<Held, AcquireError> {
        let kib = self.kib(bytes);
        // Who waits for the own share keeps nothing from others.
        let of_share = self.share_of(owner).acquire_many_owned(kib).await?;
        Ok(Held { of_all: self.all.clone().acquire_many_owned(kib).await?, of_share })
    }

    /// Takes room for so many bytes if there is room at once.
    pub fn try_acquire(&self, owner: Owner, bytes: u64) -> Option<Held> {
        let kib = self.kib(bytes);
        let of_share = self.share_of(owner).try_acquire_many_owned(kib).ok()?;
        Some(Held { of_all: self.all.clone().try_acquire_many_owned(kib).ok()?, of_share })
    }

    /// The same if half of the owner's share, and of all the room, stays free.
    pub fn spare(&self, owner: Owner, bytes: u64) -> Option<Held> {
        let (kib, share) = (self.kib(bytes) as usize, self.share_of(owner));
        let stays = |free: usize, of: u32| free.saturating_sub(kib) >= of as usize / 2;
        let spares = stays(share.available_permits(), self.share) && stays(self.all.available_permits(), self.most);
        spares.then(|| self.try_acquire(owner, bytes)).flatten()
    }

    /// KiB that nobody has.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.all.available_permits()
    }

    fn kib(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(self.share).clamp(1, self.share)
    }

    fn share_of(&self, owner: Owner) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&owner).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.share as usize));
        shares.insert(owner, Arc::downgrade(&share));
        share
    }
}

impl Held {
    /// Gives back what is more than so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        for permit in [&mut self.of_all, &mut self.of_share] {
            let more = permit.num_permits().saturating_sub(bytes.div_ceil(1 << 10).max(1));
            drop(permit.split(more));
        }
    }
}
