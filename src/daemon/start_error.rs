//! Why the parts of the daemon could not be started.

use std::sync::Arc;

use crate::catalog::{Faults, UpstreamError, WatchError};
use crate::daemon::config::Strings;
use crate::provider::SetupError;
use crate::store::OpenError;
use crate::store::error::StoreError;

/// Why the parts could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The stored catalogs cannot be read or written.
    #[error(transparent)]
    Stored(#[from] StoreError),
    #[error(transparent)]
    Catalog(#[from] Faults),
    #[error("`upstream`: {0}")]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// There is no cryptography for calls to servers that rows name.
    #[error(transparent)]
    Fetcher(#[from] SetupError),
    #[error("the store could not be opened: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The environment, shared with the parts that read keys later.
pub type Environment = Arc<dyn Strings + Send + Sync>;
