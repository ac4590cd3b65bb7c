//! Batches on disk: state, control, problems, idempotency keys. The client's order is in
//! [`super::spec`].

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::page::{pack_usage, unpack_usage};
use super::{Record, decode_old, moment, timestamp};
use crate::domain::batch::priority::{Control, Priority};
use crate::domain::batch::problem::{Problem, ProblemCode};
use crate::domain::batch::{BatchState, Ending, Progress, ResultFiles};
use crate::domain::id::FileId;
use crate::domain::money::Usd;
use crate::domain::time::Timestamp;
use crate::store::record::error::RecordError;

/// Version 2 of a batch's state. While rows run, the pages hold the progress; once the batch has
/// ended the progress is here, so that reading an old batch touches no page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    first: StateRecord1,
    /// The rows that were cancelled, among those that failed.
    cancelled: u32,
}

/// Version 1, which did not distinguish cancelled rows from failed ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StateRecord1 {
    state: StateTag,
    final_progress: Option<ProgressRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum StateTag {
    Validating,
    Failed { at: i64 },
    InProgress { since: i64 },
    Finalizing { in_progress_at: Option<i64>, since: i64, expired: bool },
    Cancelling { in_progress_at: Option<i64>, since: i64 },
    Completed(EndRecord),
    Expired(EndRecord),
    Cancelled(EndRecord),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct EndRecord {
    in_progress_at: Option<i64>,
    ending_at: i64,
    at: i64,
    output: Option<u128>,
    errors: Option<u128>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProgressRecord {
    total: u32,
    succeeded: u32,
    failed: u32,
    output_bytes: u64,
    error_bytes: u64,
    usage: [u64; 5],
    cost: [u8; 16],
}

impl Record for StateRecord {
    const VERSION: u8 = 2;
    const NAME: &'static str = "batch state";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => Ok(Self { first: decode_old::<Self, _>(body)?, cancelled: 0 }),
            other => Err(RecordError::unknown::<Self>(other)),
        }
    }
}

impl EndRecord {
    fn pack(in_progress_at: Option<Timestamp>, ending: Timestamp, at: Timestamp, files: ResultFiles) -> Self {
        Self {
            in_progress_at: in_progress_at.map(moment),
            ending_at: moment(ending),
            at: moment(at),
            output: files.output.map(FileId::as_u128),
            errors: files.errors.map(FileId::as_u128),
        }
    }

    fn files(&self) -> ResultFiles {
        ResultFiles { output: self.output.map(FileId::from_u128), errors: self.errors.map(FileId::from_u128) }
    }
}

impl StateRecord {
    /// Makes the record of `state`; `progress` is kept only once the batch has ended.
    pub fn pack(state: &BatchState, progress: &Progress) -> Self {
        let tag = match *state {
            BatchState::Validating => StateTag::Validating,
            BatchState::Failed { at } => StateTag::Failed { at: moment(at) },
            BatchState::InProgress { since } => StateTag::InProgress { since: moment(since) },
            BatchState::Finalizing { in_progress_at, since, ending } => StateTag::Finalizing {
                in_progress_at: in_progress_at.map(moment),
                since: moment(since),
                expired: match ending {
                    Ending::Completed => false,
                    Ending::Expired => true,
                },
            },
            BatchState::Cancelling { in_progress_at, since } => {
                StateTag::Cancelling { in_progress_at: in_progress_at.map(moment), since: moment(since) }
            }
            BatchState::Completed { in_progress_at, finalizing_at, at, files } => {
                StateTag::Completed(EndRecord::pack(in_progress_at, finalizing_at, at, files))
            }
            BatchState::Expired { in_progress_at, finalizing_at, at, files } => {
                StateTag::Expired(EndRecord::pack(in_progress_at, finalizing_at, at, files))
            }
            BatchState::Cancelled { in_progress_at, cancelling_at, at, files } => {
                StateTag::Cancelled(EndRecord::pack(in_progress_at, cancelling_at, at, files))
            }
        };
        let final_progress = state.is_terminal().then(|| ProgressRecord::from(progress));
        Self { first: StateRecord1 { state: tag, final_progress }, cancelled: progress.cancelled }
    }

    /// Returns the state, and the progress if the batch has ended.
    ///
    /// # Errors
    /// When a moment is out of range.
    pub fn unpack(self) -> Result<(BatchState, Option<Progress>), RecordError> {
        let time = timestamp::<Self>;
        let Self { first, cancelled } = self;
        let state = match first.state {
            StateTag::Validating => BatchState::Validating,
            StateTag::Failed { at } => BatchState::Failed { at: time(at)? },
            StateTag::InProgress { since } => BatchState::InProgress { since: time(since)? },
            StateTag::Finalizing { in_progress_at, since, expired } => BatchState::Finalizing {
                in_progress_at: in_progress_at.map(time).transpose()?,
                since: time(since)?,
                ending: if expired { Ending::Expired } else { Ending::Completed },
            },
            StateTag::Cancelling { in_progress_at, since } => {
                BatchState::Cancelling { in_progress_at: in_progress_at.map(time).transpose()?, since: time(since)? }
            }
            StateTag::Completed(end) => BatchState::Completed {
                in_progress_at: end.in_progress_at.map(time).transpose()?,
                finalizing_at: time(end.ending_at)?,
                at: time(end.at)?,
                files: end.files(),
            },
            StateTag::Expired(end) => BatchState::Expired {
                in_progress_at: end.in_progress_at.map(time).transpose()?,
                finalizing_at: time(end.ending_at)?,
                at: time(end.at)?,
                files: end.files(),
            },
            StateTag::Cancelled(end) => BatchState::Cancelled {
                in_progress_at: end.in_progress_at.map(time).transpose()?,
                cancelling_at: time(end.ending_at)?,
                at: time(end.at)?,
                files: end.files(),
            },
        };
        Ok((state, first.final_progress.map(|record| Progress { cancelled, ..record.into() })))
    }
}

impl From<&Progress> for ProgressRecord {
    fn from(progress: &Progress) -> Self {
        // The number of cancelled rows has a field of its own.
        let Progress { total, succeeded, failed, cancelled: _, output_bytes, error_bytes, usage, cost } = progress;
        Self {
            total: *total,
            succeeded: *succeeded,
            failed: *failed,
            output_bytes: *output_bytes,
            error_bytes: *error_bytes,
            usage: pack_usage(usage),
            cost: cost.0.serialize(),
        }
    }
}

impl From<ProgressRecord> for Progress {
    fn from(record: ProgressRecord) -> Self {
        Self {
            total: record.total,
            succeeded: record.succeeded,
            failed: record.failed,
            cancelled: 0,
            output_bytes: record.output_bytes,
            error_bytes: record.error_bytes,
            usage: unpack_usage(record.usage),
            cost: Usd(Decimal::deserialize(record.cost)),
        }
    }
}

/// Version 1 of a batch's changeable settings. Absent while all of them have their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRecord {
    priority: u8,
    paused: bool,
}

impl Record for ControlRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "batch control";
}

impl From<Control> for ControlRecord {
    fn from(control: Control) -> Self {
        Self { priority: control.priority.code(), paused: control.paused }
    }
}

impl TryFrom<ControlRecord> for Control {
    type Error = RecordError;

    fn try_from(record: ControlRecord) -> Result<Self, RecordError> {
        let priority = Priority::from_code(record.priority).ok_or_else(|| RecordError::damaged::<ControlRecord>("unknown priority"))?;
        Ok(Self { priority, paused: record.paused })
    }
}

/// Version 1 of what validation found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemsRecord(Vec<ProblemRecord>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProblemRecord {
    code: String,
    message: String,
    line: Option<u64>,
    param: Option<String>,
}

impl Record for ProblemsRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "batch problems";
}

impl From<&[Problem]> for ProblemsRecord {
    fn from(problems: &[Problem]) -> Self {
        let records = problems.iter().map(|problem| ProblemRecord {
            code: problem.code.as_str().to_owned(),
            message: problem.message.clone(),
            line: problem.line,
            param: problem.param.clone(),
        });
        Self(records.collect())
    }
}

impl ProblemsRecord {
    /// The problems.
    ///
    /// # Errors
    /// When a code is not one of ours.
    pub fn unpack(self) -> Result<Vec<Problem>, RecordError> {
        let problems = self.0.into_iter().map(|record| {
            let code = ProblemCode::parse(&record.code)
                .ok_or_else(|| RecordError::damaged::<Self>(format!("unknown problem code `{}`", record.code)))?;
            Ok(Problem { code, message: record.message, line: record.line, param: record.param })
        });
        problems.collect()
    }
}

/// Version 2 of a used idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// SHA-256 of the request that used it.
    pub request: [u8; 32],
    /// The batch that the key made; `None` once that batch was deleted.
    pub batch: Option<u128>,
}

/// Version 1, from when batches were never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IdempotencyRecord1 {
    request: [u8; 32],
    batch: u128,
}

impl Record for IdempotencyRecord {
    const VERSION: u8 = 2;
    const NAME: &'static str = "idempotency key";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => {
                let IdempotencyRecord1 { request, batch } = decode_old::<Self, _>(body)?;
                Ok(Self { request, batch: Some(batch) })
            }
            other => Err(RecordError::unknown::<Self>(other)),
        }
    }
}
