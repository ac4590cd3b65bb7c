//! Talking to one upstream: one call in, one answer or one failure out.
//!
//! Knows nothing of batches, retries or the store. A provider sends what it is given and reports
//! what came back. [`verdict`] is the only place that judges an answer, by the same rule for every
//! kind of provider, the simulated one included.
//!
//! Invariant: a call ends within its budget, with at most the configured number of bytes in memory.

mod classify;
pub mod fetch;
mod finite;
#[doc(hidden)]
pub mod fuzz;
pub mod guarded;
pub mod server;
pub mod simulated;
#[cfg(test)]
mod test_server;
pub mod translate;
mod transport;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use crate::descriptors::Descriptors;
use crate::domain::batch::forwarded::Forwarded;
use crate::domain::format::wire::WireFormat;
use crate::domain::id::RowKey;
use crate::domain::provider::connection::{Connection, ProviderKind};
use crate::domain::provider::rate_limits::RateLimitStatus;
use crate::domain::provider::server_hints::ServerHints;
use crate::domain::time::Clock;
pub use classify::{Asked, Verdict, class_of, verdict};
pub use transport::room::AnswerRoom;

/// What went wrong with a call and why, as one line. The line contains no URL, because a URL may
/// hold a token.
pub fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    transport::reason(error)
}

/// One upstream call.
#[derive(Debug, Clone)]
pub struct Call {
    pub format: WireFormat,
    /// The provider's name for the model; already written into `body`.
    pub upstream_model: Arc<str>,
    /// The JSON object to send.
    pub body: Bytes,
    /// Sent as `Idempotency-Key: batchd-…`, so that a call repeated after a crash can be made once.
    pub key: RowKey,
    /// 1 for the first attempt of the row since the daemon started.
    pub attempt: u32,
    /// Headers of the batch's create; the provider takes those that it lists.
    pub headers: Forwarded,
    /// The recording that goes along with the body, where the format takes one.
    pub recording: Option<CallFile>,
    /// The call must have ended by then; the provider's own limits may end it earlier.
    pub budget: Duration,
}

/// A file that is sent with a call, beside its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallFile {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The media type.
    pub mime: String,
    pub content: Bytes,
}

/// What the provider answered, whatever the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The provider's `x-request-id` or `request-id`.
    pub request_id: Option<String>,
    /// `retry-after-ms`, or `retry-after` in either of its forms.
    pub retry_after: Option<Duration>,
    /// What the provider says is left of its limits.
    pub allowances: Option<Box<RateLimitStatus>>,
    pub body: Bytes,
}

/// Why there is no complete answer. The texts are for the log and for the operator's own error
/// files; they name the host but never a key. Others get [`CallError::without_host`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection: name resolution, TCP, TLS or the proxy.
    #[error("could not connect to {host}: {reason}")]
    Connect { host: String, reason: String },
    /// The connection broke before the answer was complete.
    #[error("the connection to {host} broke before the answer was complete: {reason}")]
    Interrupted { host: String, reason: String },
    /// A time limit passed.
    #[error("{host} did not {what} within {limit_ms} ms")]
    TimedOut { host: String, what: &'static str, limit_ms: u64 },
    /// The answer has a coding that is not known, or is not what its coding says.
    #[error("the answer of {host} cannot be decoded: {reason}")]
    Undecodable { host: String, reason: String },
    /// The answer is larger than the configured limit.
    #[error("the answer of {host} is larger than the limit of {limit} bytes")]
    TooLarge { host: String, limit: u64 },
}

impl CallError {
    /// The text for those who do not run this daemon: it names no host and no port of the operator's.
    pub fn without_host(&self) -> String {
        match self {
            // The reason may name an address.
            Self::Connect { .. } => "could not connect to the provider".to_owned(),
            Self::Interrupted { reason, .. } => {
                format!("the connection to the provider broke before the answer was complete: {reason}")
            }
            Self::TimedOut { what, limit_ms, .. } => format!("the provider did not {what} within {limit_ms} ms"),
            Self::Undecodable { reason, .. } => format!("the answer of the provider cannot be decoded: {reason}"),
            Self::TooLarge { limit, .. } => format!("the answer of the provider is larger than the limit of {limit} bytes"),
        }
    }
}

/// A provider that can be called.
pub trait Dispatch: Send + Sync + 'static {
    /// Makes the call. Dropping the future abandons it.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, CallError>>;

    /// Whether the provider can be probed without any work for a model.
    fn can_be_asked(&self) -> bool {
        false
    }

    /// Probes whether the server is reachable, and returns the status that it answered with. Any
    /// answer at all counts as reachable.
    fn ask(&self, _budget: Duration) -> BoxFuture<'_, Result<u16, CallError>> {
        Box::pin(std::future::ready(Ok(200)))
    }

    /// What the server answers when it is asked for its models; `None` if the provider has no list.
    fn list(&self, _budget: Duration) -> BoxFuture<'_, Result<Option<Answer>, CallError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Looks up the addresses of the server's name at present; `None` if it has no name behind whose
    /// addresses there are servers of their own.
    fn addresses(&self) -> Option<BoxFuture<'static, io::Result<Vec<IpAddr>>>> {
        None
    }

    /// What the server says about its load, without any work for a model; nothing if it does not say
    /// so within `budget`.
    fn hints(&self, _budget: Duration) -> BoxFuture<'_, ServerHints> {
        Box::pin(std::future::ready(ServerHints::default()))
    }
}

/// Why a provider cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("provider `{provider}`: cannot read the CA file {path}: {reason}")]
    CaFile { provider: String, path: String, reason: String },
    #[error("provider `{provider}`: the key contains characters that no HTTP header can carry")]
    Key { provider: String },
    #[error("provider `{provider}`: cannot build its URLs: {reason}")]
    Url { provider: String, reason: String },
    #[error("provider `{provider}`: cannot use the proxy of the environment: {reason}")]
    Proxy { provider: String, reason: String },
    #[error("provider `{provider}`: {reason}")]
    Tls { provider: String, reason: String },
}

/// Builds the provider behind a connection. `key` is sent in the way that the provider's API
/// expects. Its answers share `room` with those of other providers.
///
/// # Errors
/// When its URL, CA file, key or proxy cannot be used.
pub fn open(
    connection: &Connection,
    key: Option<SecretString>,
    clock: &Clock,
    descriptors: &Descriptors,
    room: &AnswerRoom,
) -> Result<Arc<dyn Dispatch>, SetupError> {
    match &connection.kind {
        ProviderKind::Server(server) => {
            Ok(Arc::new(server::Server::new(&connection.id, server, key, clock.clone(), descriptors)?.within(room.clone())))
        }
        ProviderKind::Simulated { default, models } => Ok(Arc::new(simulated::Simulated::new(*default, models.clone()))),
    }
}
