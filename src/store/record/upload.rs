//! Multi-part uploads on disk, version 2; parts, version 1.

use serde::{Deserialize, Serialize};

use super::{Record, decode_old, moment, timestamp};
use crate::domain::file::upload::{Upload, UploadPart, UploadState};
use crate::domain::file::{ExpiresAfter, Purpose};
use crate::domain::id::{FileId, OrgId, PartId, UploadId};
use crate::store::record::error::RecordError;

/// Version 2 of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    upload: UploadRecord1,
    org: u128,
}

/// Version 1, which is a part of version 2: all uploads are the operator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UploadRecord1 {
    id: u128,
    created_at: i64,
    expires_at: i64,
    filename: String,
    bytes: u64,
    mime_type: String,
    purpose: String,
    file_expires_after: Option<u32>,
    state: StateRecord,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum StateRecord {
    Pending,
    Completed { file: u128 },
    Cancelled,
    Expired,
}

impl Record for UploadRecord {
    const VERSION: u8 = 2;
    const NAME: &'static str = "upload";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => Ok(Self { upload: decode_old::<Self, _>(body)?, org: OrgId::OPERATOR.as_u128() }),
            _ => Err(RecordError::unknown::<Self>(version)),
        }
    }
}

impl From<&Upload> for UploadRecord {
    fn from(upload: &Upload) -> Self {
        let org = upload.org.as_u128();
        let upload = UploadRecord1 {
            id: upload.id.as_u128(),
            created_at: moment(upload.created_at),
            expires_at: moment(upload.expires_at),
            filename: upload.filename.clone(),
            bytes: upload.bytes,
            mime_type: upload.mime_type.clone(),
            purpose: upload.purpose.as_str().to_owned(),
            file_expires_after: upload.file_expires_after.map(ExpiresAfter::seconds),
            state: match upload.state {
                UploadState::Pending => StateRecord::Pending,
                UploadState::Completed { file } => StateRecord::Completed { file: file.as_u128() },
                UploadState::Cancelled => StateRecord::Cancelled,
                UploadState::Expired => StateRecord::Expired,
            },
        };
        Self { upload, org }
    }
}

impl TryFrom<UploadRecord> for Upload {
    type Error = RecordError;

    fn try_from(record: UploadRecord) -> Result<Self, RecordError> {
        let UploadRecord { upload: record, org } = record;
        Ok(Self {
            org: OrgId::from_u128(org),
            id: UploadId::from_u128(record.id),
            created_at: timestamp::<UploadRecord>(record.created_at)?,
            expires_at: timestamp::<UploadRecord>(record.expires_at)?,
            filename: record.filename,
            bytes: record.bytes,
            mime_type: record.mime_type,
            purpose: Purpose::parse(&record.purpose)
                .ok_or_else(|| RecordError::damaged::<UploadRecord>(format!("unknown purpose `{}`", record.purpose)))?,
            file_expires_after: record.file_expires_after.and_then(|seconds| ExpiresAfter::from_seconds(seconds.into())),
            state: match record.state {
                StateRecord::Pending => UploadState::Pending,
                StateRecord::Completed { file } => UploadState::Completed { file: FileId::from_u128(file) },
                StateRecord::Cancelled => UploadState::Cancelled,
                StateRecord::Expired => UploadState::Expired,
            },
        })
    }
}

/// Version 1 of an upload's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    id: u128,
    upload: u128,
    created_at: i64,
    bytes: u64,
}

impl Record for PartRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "upload part";
}

impl From<&UploadPart> for PartRecord {
    fn from(part: &UploadPart) -> Self {
        Self { id: part.id.as_u128(), upload: part.upload.as_u128(), created_at: moment(part.created_at), bytes: part.bytes }
    }
}

impl TryFrom<PartRecord> for UploadPart {
    type Error = RecordError;

    fn try_from(record: PartRecord) -> Result<Self, RecordError> {
        Ok(Self {
            id: PartId::from_u128(record.id),
            upload: UploadId::from_u128(record.upload),
            created_at: timestamp::<PartRecord>(record.created_at)?,
            bytes: record.bytes,
        })
    }
}
