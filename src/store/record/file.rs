//! Files on disk, version 2.

use serde::{Deserialize, Serialize};

use super::{Record, decode_old, moment, timestamp};
use crate::domain::file::{File, FileSource, Purpose, ResultPart};
use crate::domain::id::{BatchId, FileId, OrgId};
use crate::store::record::error::RecordError;

/// Version 2 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    file: FileRecord1,
    mime: Option<String>,
    org: u128,
}

/// Version 1, which is a part of version 2: all files are the operator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord1 {
    id: u128,
    bytes: u64,
    created_at: i64,
    expires_at: Option<i64>,
    filename: String,
    purpose: String,
    source: SourceRecord,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum SourceRecord {
    Uploaded { sha256: [u8; 32] },
    Output { batch: u128 },
    Errors { batch: u128 },
}

impl Record for FileRecord {
    const VERSION: u8 = 2;
    const NAME: &'static str = "file";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => Ok(Self { file: decode_old::<Self, _>(body)?, mime: None, org: OrgId::OPERATOR.as_u128() }),
            _ => Err(RecordError::unknown::<Self>(version)),
        }
    }
}

impl From<&File> for FileRecord {
    fn from(file: &File) -> Self {
        let source = match &file.source {
            FileSource::Uploaded { sha256 } => SourceRecord::Uploaded { sha256: *sha256 },
            // A view over all rows has no file of its own; only output and error files are ever
            // stored.
            FileSource::View { batch, part: ResultPart::Output | ResultPart::All } => SourceRecord::Output { batch: batch.as_u128() },
            FileSource::View { batch, part: ResultPart::Errors } => SourceRecord::Errors { batch: batch.as_u128() },
        };
        let record = FileRecord1 {
            id: file.id.as_u128(),
            bytes: file.bytes,
            created_at: moment(file.created_at),
            expires_at: file.expires_at.map(moment),
            filename: file.filename.clone(),
            purpose: file.purpose.as_str().to_owned(),
            source,
        };
        Self { file: record, mime: file.mime.clone(), org: file.org.as_u128() }
    }
}

impl TryFrom<FileRecord> for File {
    type Error = RecordError;

    fn try_from(record: FileRecord) -> Result<Self, RecordError> {
        let FileRecord { file: record, mime, org } = record;
        let source = match record.source {
            SourceRecord::Uploaded { sha256 } => FileSource::Uploaded { sha256 },
            SourceRecord::Output { batch } => FileSource::View { batch: BatchId::from_u128(batch), part: ResultPart::Output },
            SourceRecord::Errors { batch } => FileSource::View { batch: BatchId::from_u128(batch), part: ResultPart::Errors },
        };
        Ok(Self {
            id: FileId::from_u128(record.id),
            bytes: record.bytes,
            created_at: timestamp::<FileRecord>(record.created_at)?,
            expires_at: record.expires_at.map(timestamp::<FileRecord>).transpose()?,
            filename: record.filename,
            purpose: Purpose::parse(&record.purpose)
                .ok_or_else(|| RecordError::damaged::<FileRecord>(format!("unknown purpose `{}`", record.purpose)))?,
            mime,
            org: OrgId::from_u128(org),
            source,
        })
    }
}
