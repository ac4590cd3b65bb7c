//! The result of one row: its outcome and its attempts.

pub mod audio;
pub mod batchrouter;
pub mod line_ends;
pub mod lines;
pub mod openai;
pub mod output;
pub mod output_limits;
pub mod prefix;
pub mod priority;
pub mod retry;
pub mod shape;

use bytes::Bytes;

use super::id::RowKey;
use super::money::Usd;
use super::time::Timestamp;
use super::usage::Usage;
use super::vocabulary::Operation;

/// The provider's answer, as it is passed on to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status, 100 to 599.
    pub status: u16,
    /// The provider's own request id, if it sent one.
    pub request_id: Option<String>,
    /// One JSON value on one line. A provider's JSON is kept byte for byte, except that raw line
    /// breaks between tokens become spaces (a JSONL line cannot hold them); a body that is not
    /// JSON is kept as a JSON string. Built by [`self::output::embeddable`]. Where it is stored or
    /// written as a line, the characters of [`self::line_ends`] are escaped.
    pub body: Bytes,
}

/// The reason why a row has no usable answer, in the error file's `error` object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// A stable code: `batch_expired`, `batch_cancelled`, or one of
    /// [`self::retry::FailureClass::code`].
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

/// How a row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx answer with a JSON object; it goes to the output file.
    Succeeded(Response),
    /// The provider's answer was final but not a success: it goes to the error file unchanged.
    Rejected(Response),
    /// No final answer; `last` is the last response that any attempt saw.
    Failed { error: RowError, last: Option<Response> },
    /// The deadline passed before the row was done; `last` is as for a failure.
    Expired { last: Option<Response> },
    /// The batch was cancelled before the row was done; `last` is as for a failure.
    Cancelled { last: Option<Response> },
}

impl Outcome {
    /// The last response that the row got, whatever it is worth.
    pub const fn response(&self) -> Option<&Response> {
        match self {
            Self::Succeeded(response) | Self::Rejected(response) => Some(response),
            Self::Failed { last, .. } | Self::Expired { last } | Self::Cancelled { last } => last.as_ref(),
        }
    }

    /// `true` if the row belongs in the output file, `false` if in the error file.
    pub fn is_success(&self) -> bool {
        match self {
            Self::Succeeded(_) => true,
            Self::Rejected(_) | Self::Failed { .. } | Self::Expired { .. } | Self::Cancelled { .. } => false,
        }
    }

    /// How the row counts in its batch.
    pub fn end(&self) -> RowEnd {
        match self {
            Self::Succeeded(_) => RowEnd::Succeeded,
            Self::Rejected(_) | Self::Failed { .. } | Self::Expired { .. } => RowEnd::Failed,
            Self::Cancelled { .. } => RowEnd::Cancelled,
        }
    }
}

/// How a finished row counts in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowEnd {
    Succeeded,
    Failed,
    /// The batch was cancelled before the row had a result. The row also counts as failed.
    Cancelled,
}

/// One upstream call made for a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The lane that served it: `provider/upstream-model`.
    pub lane: String,
    /// When the call began.
    pub started_at: Timestamp,
    /// The duration of the call, in milliseconds.
    pub latency_ms: u32,
    /// The HTTP status, if a response began.
    pub status: Option<u16>,
    /// The code of the failure class; `None` for a success.
    pub failure: Option<String>,
}

/// The one result of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowResult {
    pub key: RowKey,
    pub custom_id: String,
    /// The operation of an item; `None` for a row of an OpenAI batch.
    pub operation: Option<Operation>,
    pub outcome: Outcome,
    pub usage: Usage,
    pub cost: Usd,
    /// In the order of the calls; empty if the row never ran.
    pub attempts: Vec<Attempt>,
    pub finished_at: Timestamp,
}
