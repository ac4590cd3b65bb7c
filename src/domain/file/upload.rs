//! Multi-part uploads (OpenAI's `Upload` and `UploadPart`): a client sends parts, then completes
//! them to one file.

use std::time::Duration;

use super::{ExpiresAfter, Purpose};
use crate::domain::id::{FileId, OrgId, PartId, UploadId};
use crate::domain::time::Timestamp;

/// How long an upload stays open, per OpenAI's document.
pub const LIFETIME: Duration = Duration::from_secs(3_600);

/// The most parts of one upload. With parts of 64 MiB, this is far above the largest upload.
pub const MAX_PARTS: usize = 10_000;

/// The state of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadState {
    Pending,
    Completed {
        file: FileId,
    },
    Cancelled,
    /// The upload's hour passed before the client completed it.
    Expired,
}

/// An upload as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub id: UploadId,
    /// The organisation that owns the upload. No other organisation can see it.
    pub org: OrgId,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub filename: String,
    /// The size in bytes that the client announced.
    pub bytes: u64,
    pub mime_type: String,
    pub purpose: Purpose,
    pub file_expires_after: Option<ExpiresAfter>,
    pub state: UploadState,
}

/// One part of an upload. Its bytes are on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadPart {
    pub id: PartId,
    pub upload: UploadId,
    pub created_at: Timestamp,
    pub bytes: u64,
}
