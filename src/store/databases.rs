//! Databases of a data directory that are not the current one: unfinished copies, and the database
//! that a copy has replaced.

use std::io::Write;

use rustix::fs::FileType;

use super::dir::{Folder, database, generation as generation_of};
use crate::store::error::StoreError;

/// Removes what is left of an unused database.
pub(super) fn remove(root: &Folder, name: &str) {
    if let Err(error) = root.remove_tree(name) {
        tracing::warn!(folder = %root.path_of(name).display(), %error, "an unused copy of the store cannot be removed");
    }
}

/// Removes a database that is no longer the current one. Readers that still use it can go on.
pub(super) fn retire(root: &Folder, generation: u64) {
    let name = database(generation);
    remove(root, &name);
    if generation == 0
        && let Err(error) = leave_note(root, &name)
    {
        tracing::warn!(%error, "no note could be left where the store was");
    }
}

/// The note left where the first database was, so that an older batchd does not begin a new
/// database there.
const NOTE: &str = "The store has moved to a folder beside this file; `mark` says to which. Older versions of batchd cannot open it.\n";

fn leave_note(root: &Folder, name: &str) -> Result<(), StoreError> {
    let written = root.create(name)?.write_all(NOTE.as_bytes());
    written.map_err(|error| StoreError::io("writing", &root.path_of(name), &error))
}

/// Removes databases that a kill left behind: unfinished copies, and a database that a copy has
/// replaced.
pub(super) fn remove_others(root: &Folder, current: u64) -> Result<(), StoreError> {
    for entry in root.entries()? {
        let other = generation_of(&entry.name).filter(|other| *other != current);
        if let Some(other) = other.filter(|_| entry.kind == FileType::Directory) {
            tracing::info!(folder = %root.path_of(&entry.name).display(), "removing a database of the store that is not in use");
            retire(root, other);
        }
    }
    Ok(())
}
