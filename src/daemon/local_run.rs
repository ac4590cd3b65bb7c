//! Runs one batch from a file to its results without a server: the core of `batchd run`.
//!
//! A job is named after the content of its input and the usable providers, so the same command is
//! the same job: an interrupted job is resumed, a finished one is only read. With other providers
//! it is another job: answers of one provider must not pass for those of another.

mod chain;
mod dry_run;

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use self::chain::{Chain, ChainProgress};
pub use self::dry_run::DryRun;
use super::Core;
use super::config::{Origin, Settings};
use crate::catalog::Snapshot;
use crate::domain::batch::priority::Owner;
use crate::domain::batch::{Batch, BatchInput, BatchState, InvalidRows};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::RowEndpoint;
use crate::domain::id::{BatchId, OrgId};
use crate::domain::provider::connection::ProviderKind;
use crate::domain::text::hex;
use crate::domain::time::CompletionWindow;
use crate::service::ServiceError;
use crate::service::batches::create::{Created, InputSource, Kept, MadeRows, NewBatch};
use crate::store::error::StoreError;
use crate::store::{Idempotency, RUNS, Store, UnpackError, UnpackLimits, discard};

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;
/// How long a run with a folder of its own is remembered after its last write.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// A person who waits at a terminal has no deadline; this is the longest window there is.
const WINDOW: &str = "30d";

/// Why a job could not be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("cannot read {name}: {reason}")]
    Input { name: String, reason: String },
    #[error("cannot write the results: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("the daemon stopped before the job was done")]
    Stopped,
}

/// A file to run as a batch.
#[derive(Debug, Clone)]
pub struct Job {
    /// The name as the user wrote it.
    pub name: String,
    pub path: PathBuf,
    digest: [u8; 32],
}

/// What an earlier run of a job left behind.
enum Earlier {
    Batch(BatchId),
    /// Nothing usable; this idempotency key is free.
    None {
        key: [u8; 32],
    },
}

/// The batches that a job made or found.
#[derive(Debug, Clone)]
pub struct Submission {
    pub chain: Chain,
    /// They were there already, from an earlier run of the same job.
    pub resumed: bool,
}

impl Job {
    /// Reads the file's content and names the job after it and after the providers of `catalog`.
    /// Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(path: &Path, name: &str, catalog: &Snapshot) -> Result<Self, JobError> {
        let unreadable = |error: io::Error| JobError::Input { name: name.to_owned(), reason: error.to_string() };
        let mut file = BufReader::with_capacity(BUFFER, std::fs::File::open(path).map_err(unreadable)?);
        let mut sha = Sha256::new();
        // The name covers who answers, not how patiently: a changed time limit is no reason to pay
        // for every row again.
        for connection in catalog.connections() {
            let place = match &connection.kind {
                ProviderKind::Server(server) => {
                    let servers = std::iter::once(&server.base_url).chain(&connection.replicas);
                    servers.map(ToString::to_string).collect::<Vec<_>>().join(" ")
                }
                ProviderKind::Simulated { .. } => "simulated".to_owned(),
            };
            sha.update(format!("{}\0{place}\0", connection.id));
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer).map_err(unreadable)? {
                0 => break,
                read => sha.update(&buffer[..read]),
            }
        }
        Ok(Self { name: name.to_owned(), path: path.to_owned(), digest: sha.finalize().into() })
    }

    /// Where the job keeps its data: the data directory, if one was requested, else a folder of its
    /// own below the usual place, so that different jobs can run at the same time.
    pub fn data_dir(&self, settings: &Settings) -> PathBuf {
        match settings.origin("data_dir") {
            Origin::Flag | Origin::File(_) => settings.data_dir.clone(),
            Origin::Env(name) if name == "BATCHD_DATA_DIR" => settings.data_dir.clone(),
            Origin::Env(_) | Origin::Default => settings.data_dir.join(RUNS).join(hex(&self.digest[..8])),
        }
    }

    /// Removes the abandoned folders of other jobs next to this job's folder.
    pub fn tidy(&self, settings: &Settings) {
        let runs = settings.data_dir.join(RUNS);
        // The mark is written with each group of writes; earlier versions had no mark.
        let written = |dir: &Path| std::fs::metadata(dir.join("mark")).or_else(|_| std::fs::metadata(dir.join("store/db")));
        let stale = |dir: &Path| written(dir)?.modified()?.elapsed().map_err(io::Error::other);
        for entry in std::fs::read_dir(runs).into_iter().flatten().flatten() {
            let dir = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !stale(&dir).is_ok_and(|age| age > RETENTION) {
                continue;
            }
            if let Err(error) = discard(&dir) {
                tracing::warn!(path = %dir.display(), %error, "an old run could not be removed");
            }
        }
    }

    /// Makes the job's batch, or finds the batch of an earlier run unless `fresh` is set.
    ///
    /// # Errors
    /// When the file cannot be read or the store fails.
    pub async fn submit(&self, core: &Core, fresh: bool) -> Result<Submission, JobError> {
        let key = match self.earlier(core, fresh).await? {
            Earlier::Batch(batch) => return Ok(Submission { chain: Chain::from(core, batch).await?, resumed: true }),
            Earlier::None { key } => key,
        };
        let (store, path) = (core.service.store.clone(), self.path.clone());
        let spool = tokio::task::spawn_blocking(move || spool(&store, &path)).await.map_err(|_| JobError::Stopped)?;
        let limits = UnpackLimits { max_bytes: u64::MAX, min_free_bytes: core.service.limits.min_free_bytes };
        let unpacked = core.service.store.unpack_input(spool?, limits).await;
        let unusable = |error: UnpackError| JobError::Input { name: self.name.clone(), reason: error.to_string() };
        let (content, _) = unpacked.map_err(unusable)?;
        let filename = self.path.file_name().map_or_else(|| "input.jsonl".into(), |name| name.to_string_lossy().into_owned());
        let made = MadeRows { content, filename: Some(filename), mime: None, kept: Kept::ForEver };
        let now = core.service.clock.now();
        let new = NewBatch::new(now, Dialect::OpenAi, OrgId::OPERATOR, Owner::default(), self.order(), InputSource::Made(made));
        let once = Some(Idempotency { key, request: self.digest });
        let Created { batch, is_new } = core.service.create_batch(NewBatch { once, ..new }).await?;
        Ok(Submission { chain: Chain::from(core, batch.spec.id).await?, resumed: !is_new })
    }

    /// What the job asks of its batch.
    fn order(&self) -> BatchInput {
        BatchInput::Unquoted {
            endpoint: RowEndpoint::Mixed,
            window: WINDOW.parse().unwrap_or(CompletionWindow::DAY),
            invalid: InvalidRows::FailBatch,
        }
    }

    /// The name of the job: the same for the same input and the same usable providers.
    pub fn id(&self) -> String {
        hex(&self.digest)
    }

    /// The batch of an earlier run. A batch that was refused does not count: its faults may have
    /// been fixed since, in the catalog or in the limits.
    async fn earlier(&self, core: &Core, fresh: bool) -> Result<Earlier, JobError> {
        let mut number = 0_u32;
        loop {
            let name = Sha256::new().chain_update(b"batchd run\0").chain_update(self.digest).chain_update(number.to_be_bytes());
            let key = name.finalize().into();
            let Some(used) = core.service.store.used_key(&key).await? else { return Ok(Earlier::None { key }) };
            let Some(batch) = used.batch else {
                number += 1;
                continue;
            };
            match core.batch(batch).await?.state {
                BatchState::Failed { .. } => number += 1,
                _ if fresh => number += 1,
                _ => return Ok(Earlier::Batch(batch)),
            }
        }
    }
}

fn spool(store: &Store, path: &Path) -> Result<crate::store::Sealed, JobError> {
    let name = || path.display().to_string();
    let mut file = std::fs::File::open(path).map_err(|e| JobError::Input { name: name(), reason: e.to_string() })?;
    let mut spool = store.spool()?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer).map_err(|e| JobError::Input { name: name(), reason: e.to_string() })? {
            0 => return Ok(spool.seal()?),
            read => spool.write(&buffer[..read])?,
        }
    }
}

impl Core {
    /// The batch as it is now.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn batch(&self, id: BatchId) -> Result<Batch, JobError> {
        self.service.store.batch(id).await?.ok_or(JobError::Stopped)
    }
}
