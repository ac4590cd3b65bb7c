//! Places among the open files, for uploads and downloads: of all places, no owner gets more than
//! half. Whoever finds none waits.

use crate::descriptors::{Descriptors, FilePlace};
use crate::domain::batch::priority::Owner;

use super::room::{Held, SharedRoom};

/// The places.
#[derive(Debug)]
pub struct FilePlaces {
    descriptors: Descriptors,
    /// A KiB stands for a place.
    shares: SharedRoom,
}

/// The use of one place, until it is dropped.
#[derive(Debug)]
pub struct OpenFile {
    _place: FilePlace,
    _of_share: Option<Held>,
}

impl FilePlaces {
    /// Shares out the places that there are for files.
    pub fn new(descriptors: Descriptors) -> Self {
        let most = u32::try_from(descriptors.share().files).unwrap_or(u32::MAX >> 3);
        Self { descriptors, shares: SharedRoom::new(most, most.div_ceil(2)) }
    }

    /// A place for a file that stays open while its client sends or reads it; waits for one.
    pub async fn take(&self, owner: Owner) -> OpenFile {
        // The shares are never closed.
        let of_share = self.shares.acquire(owner, 1).await.ok();
        OpenFile { _place: self.descriptors.file().await, _of_share: of_share }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_owner_gets_more_than_half() {
        let descriptors = Descriptors::new(256, 10);
        let places = FilePlaces::new(descriptors.clone());
        let most = descriptors.share().files;
        let mut taken = Vec::new();
        for _ in 0..most / 2 {
            taken.push(places.take(Owner(1)).await);
        }
        assert!(timeout(Duration::from_secs(60), places.take(Owner(1))).await.is_err(), "the share is used up");
        for _ in 0..most / 2 {
            taken.push(timeout(Duration::ZERO, places.take(Owner(2))).await.expect("at once"));
        }
        assert_eq!(descriptors.files_open(), most);
        drop(taken);
        assert_eq!(descriptors.files_open(), 0);
    }
}
