//! Creates a batch, once for each idempotency key. This is the one place where a [`BatchSpec`] is
//! built.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::batch::forwarded::Forwarded;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::priority::{Control, Owner};
use crate::domain::batch::{Batch, BatchInput, BatchSpec, Fallback};
use crate::domain::dialect::Dialect;
use crate::domain::file::{ExpiresAfter, Purpose};
use crate::domain::id::{BatchId, FileId, OrgId};
use crate::domain::time::{Timestamp, later};
use crate::service::{Service, ServiceError};
use crate::store::{CreateOutcome, Idempotency, MadeInput, NewFile, Sealed};

/// How long an input that came with its create request stays readable after its batch's deadline.
const INPUT_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Placeholder for the file that becomes the input when its batch is made.
const NO_FILE: FileId = FileId::from_u128(0);

/// A batch to create.
#[derive(Debug)]
pub struct NewBatch {
    pub id: BatchId,
    pub created_at: Timestamp,
    pub dialect: Dialect,
    pub org: OrgId,
    /// Whose share of the lanes the batch takes.
    pub owner: Owner,
    pub input: BatchInput,
    pub source: InputSource,
    pub metadata: Metadata,
    /// Applies to the output and the error file.
    pub output_expires_after: Option<ExpiresAfter>,
    pub fallback: Fallback,
    /// Headers of the create for providers that list them.
    pub headers: Forwarded,
    pub control: Control,
    /// The batch whose unfinished rows this one runs again.
    pub retry_of: Option<BatchId>,
    /// A second request with the same key and content makes no second batch.
    pub once: Option<Idempotency>,
}

/// Where the rows of a batch come from.
#[derive(Debug)]
pub enum InputSource {
    /// A file that was uploaded before.
    Uploaded(FileId),
    /// Rows that become a file together with their batch.
    Made(MadeRows),
}

/// Rows that become a file.
#[derive(Debug)]
pub struct MadeRows {
    pub content: Sealed,
    /// `None` if the file is named after the batch.
    pub filename: Option<String>,
    pub mime: Option<String>,
    /// How long the file is kept.
    pub kept: Kept,
}

/// How long the input that was made with a batch is kept.
#[derive(Debug, Clone, Copy)]
pub enum Kept {
    ForEver,
    Until(Timestamp),
    /// A day longer than the batch may take.
    PastDeadline,
}

impl MadeRows {
    /// Rows that came with a request.
    pub fn of_request(content: Sealed) -> Self {
        Self { content, filename: None, mime: Some("application/x-ndjson".to_owned()), kept: Kept::PastDeadline }
    }
}

/// A batch that was made, or found under its idempotency key.
#[derive(Debug)]
pub struct Created {
    pub batch: Batch,
    pub is_new: bool,
}

impl NewBatch {
    /// A batch with only the required fields set.
    pub fn new(now: Timestamp, dialect: Dialect, org: OrgId, owner: Owner, input: BatchInput, source: InputSource) -> Self {
        Self {
            id: BatchId::generate(now),
            created_at: now,
            dialect,
            org,
            owner,
            input,
            source,
            metadata: Metadata::default(),
            output_expires_after: None,
            fallback: Fallback::default(),
            headers: Forwarded::default(),
            control: Control::default(),
            retry_of: None,
            once: None,
        }
    }

    fn split(self) -> (BatchSpec, Option<MadeInput>, Control, Option<Idempotency>) {
        let (input_file, made) = match self.source {
            InputSource::Uploaded(file) => (file, None),
            InputSource::Made(made) => (NO_FILE, Some(made)),
        };
        let spec = BatchSpec {
            id: self.id,
            dialect: self.dialect,
            input: self.input,
            input_file,
            created_at: self.created_at,
            metadata: self.metadata,
            output_expires_after: self.output_expires_after,
            retry_of: self.retry_of,
            org: self.org,
            owner: self.owner,
            fallback: self.fallback,
            headers: self.headers,
        };
        let made = made.map(|MadeRows { content, filename, mime, kept }| {
            let file = NewFile {
                filename: filename.unwrap_or_else(|| format!("{}.jsonl", spec.id.in_hex())),
                purpose: Purpose::Batch,
                mime,
                org: spec.org,
                created_at: spec.created_at,
                expires_at: match kept {
                    Kept::ForEver => None,
                    Kept::Until(at) => Some(at),
                    Kept::PastDeadline => Some(later(spec.deadline(), INPUT_KEPT)),
                },
            };
            MadeInput { file, content }
        });
        (spec, made, self.control, self.once)
    }
}

impl Service {
    /// Makes a batch and hands it to the executor, even if the caller goes away meanwhile. A batch
    /// that was made before under the same key and for the same request is found instead.
    ///
    /// # Errors
    /// When the batch cannot be made, or the store has failed. Nothing is kept then, neither input
    /// nor reservation.
    pub async fn create_batch(self: &Arc<Self>, new: NewBatch) -> Result<Created, ServiceError> {
        let service = self.clone();
        self.to_the_end(async move { service.create_now(new).await }).await?
    }

    async fn create_now(&self, new: NewBatch) -> Result<Created, ServiceError> {
        let (spec, made, control, once) = new.split();
        let (new, input, owner) = (spec.id, spec.input_file, spec.owner);
        let outcome = match made {
            Some(made) => self.store.create_batch_with(spec, made, control, once).await?,
            None => self.store.create_batch(spec, control, once).await?,
        };
        let id = match outcome {
            CreateOutcome::Created => {
                self.executor.take(new, owner).await?;
                tracing::info!(batch = %new, "batch created");
                new
            }
            CreateOutcome::Existing(id) => id,
            CreateOutcome::KeyReused => return Err(ServiceError::KeyReused),
            CreateOutcome::Deleted => return Err(ServiceError::BatchDeleted),
            CreateOutcome::InputGone => return Err(ServiceError::FileNotFound(input)),
            CreateOutcome::QuoteUsed(batch) => return Err(ServiceError::QuoteUsed(batch)),
            CreateOutcome::NotCovered(shortfall) => return Err(ServiceError::NotCovered(shortfall)),
        };
        let batch = self.store.batch(id).await?;
        let batch = batch.ok_or_else(|| ServiceError::internal(format!("{id} was created and cannot be found")))?;
        Ok(Created { batch, is_new: id == new })
    }

    /// Finds the batch that the same request made before.
    ///
    /// # Errors
    /// When another request has used the key, the batch has been deleted, or the store has failed.
    pub async fn made_before(&self, once: &Idempotency) -> Result<Option<Batch>, ServiceError> {
        let Some(used) = self.store.used_key(&once.key).await? else { return Ok(None) };
        if used.request != once.request {
            return Err(ServiceError::KeyReused);
        }
        let id = used.batch.ok_or(ServiceError::BatchDeleted)?;
        self.store.batch(id).await?.map(Some).ok_or(ServiceError::BatchNotFound(id))
    }
}
