//! Opening sled with the settings that its faults call for.

use std::time::Duration;

use super::dir::{Folder, Report};
use super::sum::TREE;
use crate::store::error::StoreError;

/// Opens the database in a folder, which may be empty.
pub(super) fn open_sled(folder: &Folder, cache_bytes: u64) -> Result<sled::Tree, StoreError> {
    let config = sled::Config::new().path(folder.path()).cache_capacity(cache_bytes).flush_every_ms(None).mode(sled::Mode::HighThroughput);
    let db = match open_once_it_is_free(&config) {
        Err(sled::Error::Io(error)) => return Err(StoreError::io("opening the store in", folder.path(), &error)),
        other => other?,
    };
    folder.vet(Report::Quiet)?;
    Ok(db.open_tree(TREE)?)
}

/// Opens sled, and retries while sled's lock is still held. sled's threads release the lock a
/// moment after the last handle is gone. Our own lock proves that no other process has the
/// directory, so the current holder is about to release it.
fn open_once_it_is_free(config: &sled::Config) -> sled::Result<sled::Db> {
    const RETRY_DELAY: Duration = Duration::from_millis(10);
    const TRIES: u32 = 200;
    for _ in 1..TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => std::thread::sleep(RETRY_DELAY),
            other => return other,
        }
    }
    config.open()
}
