//! The batches of a job: the first one, and those that ran its failed rows again.
//!
//! Each batch of a chain has the failed rows of the one before it as its rows, in the same order.
//! So the n-th failed row of a batch is the n-th row of the next, and together the batches have one
//! latest result for each row of the job.

use std::io::Write;

use sha2::{Digest, Sha256};

use super::JobError;
use crate::daemon::Core;
use crate::domain::batch::plan::Plan;
use crate::domain::batch::problem::Problem;
use crate::domain::batch::waiting::Waiting;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::file::ResultPart;
use crate::domain::id::BatchId;
use crate::domain::money::Usd;
use crate::store::error::StoreError;
use crate::store::{Idempotency, LineOf, Lines};

/// The batches of a job, at least one, the oldest first.
#[derive(Debug, Clone)]
pub struct Chain {
    first: BatchId,
    retries: Vec<BatchId>,
}

/// What the batches of a chain have come to.
#[derive(Debug)]
pub struct ChainProgress {
    /// Rows of the job; 0 until they are validated.
    pub total: u64,
    pub succeeded: u64,
    /// Rows whose latest result is a failure.
    pub failed: u64,
    /// Input and output tokens.
    pub tokens: u64,
    pub cost: Usd,
    /// Nothing runs any more.
    pub ended: bool,
    /// Why the input was refused; empty if it was not.
    pub problems: Vec<Problem>,
    /// The plan of the first batch; empty until its rows are validated.
    pub plan: Plan,
    /// Why rows wait at the moment.
    pub waiting: Vec<Waiting>,
    /// What is likely to make rows of the latest batch fail.
    pub warnings: Vec<String>,
}

impl ChainProgress {
    /// Rows with a result.
    pub fn done(&self) -> u64 {
        self.succeeded.saturating_add(self.failed)
    }
}

/// A batch that runs failed rows again, or the idempotency key for one.
enum Link {
    Made(BatchId),
    Free([u8; 32]),
}

impl Chain {
    /// The chain that begins with this batch.
    pub(super) async fn from(core: &Core, first: BatchId) -> Result<Self, JobError> {
        let mut chain = Self { first, retries: Vec::new() };
        while let Link::Made(next) = link(core, chain.last()).await? {
            chain.retries.push(next);
        }
        Ok(chain)
    }

    fn last(&self) -> BatchId {
        self.retries.last().copied().unwrap_or(self.first)
    }

    /// Runs the failed rows of the last batch again, once it has ended.
    ///
    /// # Errors
    /// When nothing failed, the batch has not ended, or the store fails.
    pub async fn retry(&mut self, core: &Core) -> Result<(), JobError> {
        let last = self.last();
        let next = match link(core, last).await? {
            Link::Made(next) => next,
            Link::Free(key) => {
                let request = Sha256::digest(last.as_u128().to_be_bytes()).into();
                core.service.retry_once(last, Some(Idempotency { key, request })).await?.spec.id
            }
        };
        self.retries.push(next);
        Ok(())
    }

    /// How far the job has come.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn progress(&self, core: &Core) -> Result<ChainProgress, JobError> {
        let mut first = core.batch(self.first).await?;
        let mut sum = ChainProgress {
            total: first.progress.total.into(),
            succeeded: 0,
            failed: 0,
            tokens: 0,
            cost: Usd::ZERO,
            ended: false,
            problems: Vec::new(),
            plan: std::mem::take(&mut first.plan),
            waiting: Vec::new(),
            warnings: Vec::new(),
        };
        sum.waiting = core.service.waiting(&first);
        sum.warnings.clone_from(&sum.plan.warnings);
        sum.add(first);
        for retry in &self.retries {
            let batch = core.batch(*retry).await?;
            sum.waiting = core.service.waiting(&batch);
            sum.warnings.clone_from(&batch.plan.warnings);
            sum.add(batch);
        }
        Ok(sum)
    }

    /// Writes the latest result of each row that has one, in the order of the input.
    ///
    /// # Errors
    /// When the store has failed or `out` cannot be written to.
    pub async fn write(&self, core: &Core, mut out: Box<dyn Write + Send>) -> Result<(), JobError> {
        let mut levels = Vec::new();
        for batch in std::iter::once(&self.first).chain(&self.retries) {
            let lines = core.service.store.lines(*batch, ResultPart::All).await?.ok_or(JobError::Stopped)?;
            levels.push(Level { lines, failures: 0, ahead: None });
        }
        let write = move || {
            match levels.as_mut_slice() {
                [only] => {
                    while let Some(chunk) = only.lines.next_chunk()? {
                        out.write_all(&chunk).map_err(JobError::Output)?;
                    }
                }
                levels => {
                    while let Some(line) = latest(levels)? {
                        out.write_all(&line).map_err(JobError::Output)?;
                    }
                }
            }
            out.flush().map_err(JobError::Output)
        };
        tokio::task::spawn_blocking(write).await.map_err(|_| JobError::Stopped)?
    }

    /// The first lines of rows whose latest result is a failure, at most `most`.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn first_errors(&self, core: &Core, most: usize) -> Result<Vec<String>, JobError> {
        let mut lines = core.service.store.lines(self.last(), ResultPart::Errors).await?.ok_or(JobError::Stopped)?;
        let chunk = tokio::task::spawn_blocking(move || lines.next_chunk()).await.map_err(|_| JobError::Stopped)??;
        let text = chunk.map(|chunk| String::from_utf8_lossy(&chunk).into_owned()).unwrap_or_default();
        Ok(text.lines().take(most).map(String::from).collect())
    }
}

impl ChainProgress {
    /// Adds the next batch of the chain.
    fn add(&mut self, batch: Batch) {
        let progress = batch.progress;
        self.succeeded += u64::from(progress.succeeded);
        // The failed rows of the batches before are the rows of this one.
        self.failed = progress.failed.into();
        self.tokens = self.tokens.saturating_add(progress.usage.total_tokens());
        self.cost = self.cost.plus(progress.cost);
        self.ended = batch.state.is_terminal();
        self.problems = batch.problems;
    }
}

/// The batch that runs the failed rows of `batch` again. One that was refused does not count: the
/// catalog or the limits may have been put right since.
async fn link(core: &Core, batch: BatchId) -> Result<Link, JobError> {
    let mut number = 0_u32;
    loop {
        let name = Sha256::new().chain_update(b"batchd run --retry-failed\0").chain_update(batch.as_u128().to_be_bytes());
        let key = name.chain_update(number.to_be_bytes()).finalize().into();
        let Some(used) = core.service.store.used_key(&key).await? else { return Ok(Link::Free(key)) };
        if let Some(made) = used.batch
            && !matches!(core.batch(made).await?.state, BatchState::Failed { .. })
        {
            return Ok(Link::Made(made));
        }
        number += 1;
    }
}

/// A batch of a chain that is being read.
struct Level {
    lines: Lines,
    /// Failed rows that were passed: the row of the next batch that the next failed row is.
    failures: u32,
    /// A line that was read and not used yet.
    ahead: Option<(LineOf, Vec<u8>)>,
}

impl Level {
    /// The next line.
    fn next(&mut self) -> Result<Option<(LineOf, Vec<u8>)>, StoreError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        let mut line = Vec::new();
        Ok(self.lines.next_line(&mut line)?.map(|of| (of, line)))
    }

    /// The line of this row, if the row has a result; rows are asked for in their order.
    fn at(&mut self, row: u32) -> Result<Option<(LineOf, Vec<u8>)>, StoreError> {
        match self.next()? {
            Some((of, line)) if of.row.0 == row => Ok(Some((of, line))),
            other => {
                self.ahead = other;
                Ok(None)
            }
        }
    }
}

/// The latest line of the next row that has a result; `None` at the end.
fn latest(levels: &mut [Level]) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((first, mut rest)) = levels.split_first_mut() else { return Ok(None) };
    let Some((mut of, mut line)) = first.next()? else { return Ok(None) };
    let mut level = first;
    while of.failed
        && let Some((next, after)) = rest.split_first_mut()
    {
        let row = level.failures;
        level.failures += 1;
        let Some(newer) = next.at(row)? else { break };
        (of, line) = newer;
        (level, rest) = (next, after);
    }
    Ok(Some(line))
}
