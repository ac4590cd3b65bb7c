//! The room for bodies that are held in memory as a whole: a bound on their total size, of which no
//! owner gets more than half.

use std::time::Duration;

use tokio::time::timeout;

use crate::domain::batch::priority::Owner;
use crate::http::response::error::ApiError;
use crate::http::shares::room::{Held, SharedRoom};

/// KiB of bodies that wait for their turn or are worked on.
const HELD: u32 = 128 << 10;
/// KiB of those of one owner. A single body that is larger takes all of it.
const HELD_OF_ONE: u32 = HELD / 2;
/// How long a body waits for room.
const WAIT: Duration = Duration::from_secs(60);

/// The room for bodies that are held as a whole.
#[derive(Debug)]
pub struct BodyRoom(SharedRoom);

/// The room of one body, until it is dropped.
pub type HeldRoom = Held;

impl Default for BodyRoom {
    fn default() -> Self {
        Self(SharedRoom::new(HELD, HELD_OF_ONE))
    }
}

impl BodyRoom {
    /// Takes room for a body of so many bytes, once there is room. The body has it as long as the
    /// result is kept.
    ///
    /// # Errors
    /// When no room becomes free for a while.
    pub async fn acquire(&self, owner: Owner, bytes: u64) -> Result<HeldRoom, ApiError> {
        let held = timeout(WAIT, self.0.acquire(owner, bytes)).await;
        let held = held.map_err(|_| ApiError::unavailable("the daemon has no room for another body at the moment; try again later"))?;
        held.map_err(ApiError::internal)
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
        assert_eq!(room.0.free(), HELD as usize);
    }
}
