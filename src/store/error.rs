//! Errors of the store.

use std::io;

use super::record::error::RecordError;
use crate::domain::id::FileId;
use crate::domain::org::quotas::Exceeded;

/// Why the store could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// sled failed. Nothing that was not acknowledged may be relied upon, and no further write is
    /// accepted; a restart recovers all that was acknowledged.
    #[error("the store has failed and must be restarted: {0}")]
    Broken(String),
    /// One operation failed in an unforeseen way; other operations are not affected.
    #[error("{0}")]
    Unexpected(String),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// A file of the data directory could not be read or written.
    #[error("{action} {path}: {reason}")]
    Io {
        action: &'static str,
        path: String,
        reason: String,
        /// The file does not exist; trying again would not help.
        missing: bool,
    },
    /// The disk is full; nothing was kept of the data being written.
    #[error("{action} {path}: no space left on the disk")]
    DiskFull { action: &'static str, path: String },
    /// Bytes on disk that are damaged.
    #[error(transparent)]
    Damaged(#[from] RecordError),
    /// Damaged content of a file.
    #[error(transparent)]
    Content(#[from] DamagedContent),
    /// The organisation has no room for it in one of its quotas; nothing was kept.
    #[error(transparent)]
    Quota(#[from] Exceeded),
}

/// How a content differs from what was uploaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the content of the file `{file}` is damaged: {reason}")]
pub struct DamagedContent {
    pub file: FileId,
    pub reason: String,
}

/// The damage that a reader reported, if the error is one.
pub(super) fn damage_in(error: &io::Error) -> Option<DamagedContent> {
    error.get_ref()?.downcast_ref::<DamagedContent>().cloned()
}

impl StoreError {
    /// The error for content of a file that could not be read, or is damaged.
    pub fn unreadable(file: FileId, error: &io::Error) -> Self {
        if let Some(damage) = damage_in(error) {
            return Self::Content(damage);
        }
        Self::Io { action: "reading", path: file.to_string(), reason: error.to_string(), missing: false }
    }

    pub(super) fn io(action: &'static str, path: &std::path::Path, error: &io::Error) -> Self {
        let path = path.display().to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { action, path },
            kind => Self::Io { action, path, reason: error.to_string(), missing: kind == io::ErrorKind::NotFound },
        }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Broken(error.to_string())
    }
}
