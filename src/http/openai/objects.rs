//! The objects of OpenAI's document, rendered from `domain` values. No other code decides their
//! form.
//!
//! Every field of a schema is always present; a field that does not apply is null, as in the hosted
//! API. Everything that batchd adds to a batch is in one separate object, so that a typed client
//! skips it.

use serde::Serialize;
use serde::ser::Serializer;

use crate::domain::batch::problem::Problem;
use crate::domain::batch::waiting::Waiting;
use crate::domain::batch::{Batch, BatchInput, BatchSpec, BatchState};
use crate::domain::endpoint::Endpoint;
use crate::domain::file::File;
use crate::domain::file::upload::{Upload, UploadPart, UploadState};
use crate::domain::id::FileId;
use crate::domain::time::{Timestamp, until};
use crate::domain::usage::Usage;
use crate::domain::vocabulary::Operation;
use crate::store::Listing;

#[cfg(test)]
mod tests;

/// A page of objects.
#[derive(Debug, Serialize)]
pub struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> List<T> {
    /// Renders a page; `render` gives each item's id and object.
    pub fn of<Item>(listing: Listing<Item>, render: impl Fn(&Item) -> (String, T)) -> Self {
        let (ids, data): (Vec<_>, Vec<_>) = listing.items.iter().map(render).unzip();
        Self { object: "list", data, first_id: ids.first().cloned(), last_id: ids.last().cloned(), has_more: listing.has_more }
    }
}

/// `OpenAIFile`
#[derive(Debug, Serialize)]
pub struct FileObject {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: i64,
    expires_at: Option<i64>,
    filename: String,
    purpose: &'static str,
    status: &'static str,
    status_details: Option<String>,
}

impl From<&File> for FileObject {
    fn from(file: &File) -> Self {
        Self {
            id: file.id.to_string(),
            object: "file",
            bytes: file.bytes,
            created_at: file.created_at.as_second(),
            expires_at: file.expires_at.map(Timestamp::as_second),
            filename: file.filename.clone(),
            purpose: file.purpose.as_str(),
            status: "processed",
            status_details: None,
        }
    }
}

/// `DeleteFileResponse`, and the same form for a batch, for which OpenAI has none.
#[derive(Debug, Serialize)]
pub struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

impl Deleted {
    /// The object that confirms the deletion of a file.
    pub fn file(id: FileId) -> Self {
        Self { id: id.to_string(), object: "file", deleted: true }
    }

    /// The object that confirms the deletion of a batch, with the id in the form of its dialect.
    pub fn batch(id: String) -> Self {
        Self { id, object: "batch", deleted: true }
    }
}

/// `Upload`
#[derive(Debug, Serialize)]
pub struct UploadObject {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: i64,
    expires_at: i64,
    filename: String,
    purpose: &'static str,
    status: &'static str,
    file: Option<FileObject>,
}

impl UploadObject {
    /// Renders an upload and, once it is completed, the file that it became.
    pub fn new(upload: &Upload, file: Option<&File>) -> Self {
        Self {
            id: upload.id.to_string(),
            object: "upload",
            bytes: upload.bytes,
            created_at: upload.created_at.as_second(),
            expires_at: upload.expires_at.as_second(),
            filename: upload.filename.clone(),
            purpose: upload.purpose.as_str(),
            status: match upload.state {
                UploadState::Pending => "pending",
                UploadState::Completed { .. } => "completed",
                UploadState::Cancelled => "cancelled",
                UploadState::Expired => "expired",
            },
            file: file.map(FileObject::from),
        }
    }
}

/// `UploadPart`
#[derive(Debug, Serialize)]
pub struct PartObject {
    id: String,
    object: &'static str,
    created_at: i64,
    upload_id: String,
}

impl From<&UploadPart> for PartObject {
    fn from(part: &UploadPart) -> Self {
        Self { id: part.id.to_string(), object: "upload.part", created_at: part.created_at.as_second(), upload_id: part.upload.to_string() }
    }
}

/// `Batch`
#[derive(Debug, Serialize)]
pub struct BatchObject {
    id: String,
    object: &'static str,
    endpoint: &'static str,
    model: Option<String>,
    errors: Option<Errors>,
    input_file_id: String,
    completion_window: String,
    status: &'static str,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    #[serde(flatten)]
    moments: Moments,
    expires_at: i64,
    request_counts: Counts,
    usage: Option<UsageObject>,
    metadata: Option<Pairs>,
    batchd: Extension,
}

#[derive(Debug, Serialize)]
struct Errors {
    object: &'static str,
    data: Vec<BatchError>,
}

#[derive(Debug, Serialize)]
struct BatchError {
    code: &'static str,
    message: String,
    param: Option<String>,
    line: Option<u64>,
}

/// The times at which a batch entered the states that it has been in.
#[derive(Debug, Default, Serialize)]
struct Moments {
    in_progress_at: Option<i64>,
    finalizing_at: Option<i64>,
    completed_at: Option<i64>,
    failed_at: Option<i64>,
    expired_at: Option<i64>,
    cancelling_at: Option<i64>,
    cancelled_at: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Counts {
    total: u32,
    completed: u32,
    failed: u32,
}

#[derive(Debug, Serialize)]
struct UsageObject {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Debug, Serialize)]
struct InputDetails {
    cached_tokens: u64,
}

#[derive(Debug, Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

/// The fields that OpenAI's document does not have.
#[derive(Debug, Serialize)]
struct Extension {
    /// What the rows so far cost, in US dollars.
    cost_usd: String,
    retry_of: Option<String>,
    priority: &'static str,
    paused: bool,
    on_invalid_rows: &'static str,
    /// Why rows wait at the moment; empty if none does.
    waiting: Vec<WaitingObject>,
    /// What is likely to make rows fail, though it did not keep the batch from running.
    warnings: Vec<String>,
}

/// Why rows of a batch wait.
#[derive(Debug, Serialize)]
pub struct WaitingObject {
    lane: Option<String>,
    reason: &'static str,
    since: Option<i64>,
    rows: u64,
    provider_said: Option<String>,
}

impl From<&Waiting> for WaitingObject {
    fn from(waiting: &Waiting) -> Self {
        Self {
            lane: waiting.lane.as_deref().map(str::to_owned),
            reason: waiting.reason.code(),
            since: waiting.since.map(Timestamp::as_second),
            rows: waiting.rows,
            provider_said: waiting.said.as_deref().map(str::to_owned),
        }
    }
}

/// Metadata as an object.
#[derive(Debug)]
struct Pairs(Vec<(String, String)>);

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl BatchObject {
    /// Renders a batch, and why its rows wait at the moment.
    pub fn new(batch: &Batch, waiting: &[Waiting]) -> Self {
        let (spec, progress, files) = (&batch.spec, &batch.progress, batch.state.files());
        let pairs = spec.metadata.pairs();
        Self {
            id: spec.id.to_string(),
            object: "batch",
            endpoint: endpoint(&spec.input),
            model: batch.plan.single_model().map(String::from),
            errors: errors(&batch.problems),
            input_file_id: spec.input_file.to_string(),
            completion_window: window(spec),
            status: batch.state.as_str(),
            output_file_id: files.output.map(|id| id.to_string()),
            error_file_id: files.errors.map(|id| id.to_string()),
            created_at: spec.created_at.as_second(),
            moments: moments(&batch.state),
            expires_at: spec.deadline().as_second(),
            request_counts: Counts { total: progress.total, completed: progress.succeeded, failed: progress.failed },
            usage: (progress.total > 0).then(|| usage(&progress.usage)),
            metadata: (!pairs.is_empty()).then(|| Pairs(pairs.to_vec())),
            batchd: Extension {
                cost_usd: progress.cost.to_string(),
                retry_of: spec.retry_of.map(|id| id.to_string()),
                priority: batch.control.priority.as_str(),
                paused: batch.control.paused,
                waiting: waiting.iter().map(WaitingObject::from).collect(),
                warnings: batch.plan.warnings.clone(),
                on_invalid_rows: spec.input.invalid_rows().as_str(),
            },
        }
    }
}

/// The endpoint of a batch; if its items have several, the most frequent one.
fn endpoint(order: &BatchInput) -> &'static str {
    match order {
        BatchInput::Unquoted { endpoint, .. } => endpoint.as_str(),
        BatchInput::Quoted(order) => match (&order.gateway, order.defaults.operation) {
            (Some(gateway), _) => gateway.endpoint.path(),
            (None, Some(Operation::Embeddings)) => Endpoint::Embeddings.path(),
            (None, Some(Operation::Responses | Operation::Vision) | None) => Endpoint::Responses.path(),
        },
    }
}

fn window(spec: &BatchSpec) -> String {
    match spec.window() {
        Some(window) => window.to_string(),
        // The time that the batch's tier allows, in whole hours, or in minutes if it is less than
        // an hour.
        None => match until(spec.created_at, spec.deadline()).as_secs().div_ceil(60) {
            minutes if minutes < 60 => format!("{minutes}m"),
            minutes => format!("{}h", minutes.div_ceil(60)),
        },
    }
}

fn errors(problems: &[Problem]) -> Option<Errors> {
    let error = |problem: &Problem| BatchError {
        code: problem.code.as_str(),
        message: problem.message.clone(),
        param: problem.param.clone(),
        line: problem.line,
    };
    (!problems.is_empty()).then(|| Errors { object: "list", data: problems.iter().map(error).collect() })
}

fn moments(state: &BatchState) -> Moments {
    let at = |at: &Timestamp| Some(at.as_second());
    let perhaps = |at: &Option<Timestamp>| at.map(Timestamp::as_second);
    let none = Moments::default();
    match state {
        BatchState::Validating => none,
        BatchState::Failed { at: end } => Moments { failed_at: at(end), ..none },
        BatchState::InProgress { since } => Moments { in_progress_at: at(since), ..none },
        BatchState::Finalizing { in_progress_at, since, ending: _ } => {
            Moments { in_progress_at: perhaps(in_progress_at), finalizing_at: at(since), ..none }
        }
        BatchState::Cancelling { in_progress_at, since } => {
            Moments { in_progress_at: perhaps(in_progress_at), cancelling_at: at(since), ..none }
        }
        BatchState::Completed { in_progress_at, finalizing_at, at: end, files: _ } => {
            Moments { in_progress_at: perhaps(in_progress_at), finalizing_at: at(finalizing_at), completed_at: at(end), ..none }
        }
        BatchState::Expired { in_progress_at, finalizing_at, at: end, files: _ } => {
            Moments { in_progress_at: perhaps(in_progress_at), finalizing_at: at(finalizing_at), expired_at: at(end), ..none }
        }
        BatchState::Cancelled { in_progress_at, cancelling_at, at: end, files: _ } => {
            Moments { in_progress_at: perhaps(in_progress_at), cancelling_at: at(cancelling_at), cancelled_at: at(end), ..none }
        }
    }
}

fn usage(usage: &Usage) -> UsageObject {
    UsageObject {
        input_tokens: usage.input_tokens,
        input_tokens_details: InputDetails { cached_tokens: usage.cached_tokens },
        output_tokens: usage.output_tokens,
        output_tokens_details: OutputDetails { reasoning_tokens: usage.reasoning_tokens },
        total_tokens: usage.total_tokens(),
    }
}
