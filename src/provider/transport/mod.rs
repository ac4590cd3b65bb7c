//! One HTTP exchange with one upstream: time limits, a size limit, errors that say what happened.
//!
//! Knows no API: a status is a number and a body is bytes, and a redirect is an answer like any
//! other, because following one would send the key to a host that nobody configured. Connections
//! are kept and reused (HTTP/1.1, or HTTP/2 where the server offers it in the TLS handshake).
//!
//! Invariant: an exchange ends within its budget, holds at most `max_response_bytes` of the answer,
//! and its errors carry no header of the request.

mod connect;
mod proxies;
mod roots;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{self, Client};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::connect::{ConnectTimedOut, Connector};
pub(super) use self::proxies::from_env as proxies_from_env;
use super::{CallError, SetupError};
use crate::domain::connection::{OpenAiConnection, Timeouts};

/// Idle connections are closed after this long; most servers and load balancers wait at least as
/// long, and whoever closes first decides whether a request meets a dead connection.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// Idle connections kept. There are never more than there were calls at the same time, which the
/// lane limits; this only bounds the sockets of a lane without a sensible limit.
const POOL_MAX_IDLE: usize = 1_024;
/// How often an HTTP/2 connection with calls in flight is asked whether it still lives.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// Bytes reserved at most on the word of a `content-length`.
const MAX_RESERVE: usize = 1024 * 1024;

/// The client for one upstream host.
pub(super) struct Transport {
    client: Client<Connector, Full<Bytes>>,
    /// Host and port as in the base URL, for error texts.
    host: String,
    /// Sent with every request if a forwarding proxy asks for it.
    proxy_auth: Option<HeaderValue>,
    timeouts: Timeouts,
    max_response_bytes: u64,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A moment by which something must have happened.
#[derive(Clone, Copy)]
struct Limit {
    what: &'static str,
    length: Duration,
    at: Instant,
}

impl Limit {
    fn from_now(what: &'static str, length: Duration) -> Self {
        let now = Instant::now();
        // A limit beyond what the clock can express is no limit; a day is longer than any call.
        let at = now.checked_add(length).unwrap_or_else(|| now + Duration::from_secs(86_400));
        Self { what, length, at }
    }

    fn passed(self, host: &str) -> CallError {
        CallError::TimedOut { host: host.into(), what: self.what, limit_ms: u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Transport {
    /// Prepares the way to the host of `connection.base_url`, through a proxy if `proxies` says so.
    /// Opens no connection.
    pub fn open(provider: &str, connection: &OpenAiConnection, proxies: &Matcher) -> Result<Self, SetupError> {
        let (connector, proxy_auth) = Connector::open(provider, connection, proxies)?;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_MAX_IDLE)
            .http2_keep_alive_interval(H2_PING_INTERVAL)
            // An idle connection that the server closed before anything was written to it is no
            // failure of the call.
            .retry_canceled_requests(true)
            .build(connector);
        Ok(Self {
            client,
            host: host_of(&connection.base_url),
            proxy_auth,
            timeouts: connection.timeouts,
            max_response_bytes: connection.max_response_bytes,
        })
    }

    /// Host and port, for messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends the request and reads the whole answer.
    pub async fn send(&self, mut request: Request<Full<Bytes>>, budget: Duration) -> Result<Received, CallError> {
        let total = Limit::from_now("finish its answer", self.timeouts.total.min(budget));
        if let Some(auth) = &self.proxy_auth {
            request.headers_mut().insert(PROXY_AUTHORIZATION, auth.clone());
        }
        let (head, body) = self.head(request, total).await?.into_parts();
        let body = timeout_at(total.at, self.read(body)).await.map_err(|_| total.passed(&self.host))??;
        Ok(Received { status: head.status, headers: head.headers, body })
    }

    async fn head(&self, mut request: Request<Full<Bytes>>, total: Limit) -> Result<http::Response<Incoming>, CallError> {
        // The limit for the first byte starts when the connection stands, which only the client
        // knows; a reused connection stands at once.
        let mut connection = capture_connection(&mut request);
        let mut answer = pin!(self.client.request(request));
        tokio::select! {
            biased;
            answer = &mut answer => return answer.map_err(|error| self.failed(&error)),
            () = stands(&mut connection) => {}
            () = sleep_until(total.at) => return Err(total.passed(&self.host)),
        }
        let first_byte = Limit::from_now("begin its answer", self.timeouts.first_byte);
        let limit = if first_byte.at < total.at { first_byte } else { total };
        timeout_at(limit.at, answer).await.map_err(|_| limit.passed(&self.host))?.map_err(|error| self.failed(&error))
    }

    async fn read(&self, mut body: Incoming) -> Result<Bytes, CallError> {
        let limit = self.max_response_bytes;
        let too_large = || CallError::TooLarge { host: self.host.clone(), limit };
        let announced = body.size_hint().lower();
        if announced > limit {
            return Err(too_large());
        }
        // Most answers arrive as one frame, which is kept as it is; only a second one is a reason
        // to copy.
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        let mut length = 0_u64;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| self.interrupted(&error))?.into_data() else { continue };
            length = length.saturating_add(data.len() as u64);
            if length > limit {
                return Err(too_large());
            }
            if first.is_empty() && joined.is_empty() {
                first = data;
                continue;
            }
            if joined.is_empty() {
                joined.reserve(usize::try_from(announced).unwrap_or(MAX_RESERVE).min(MAX_RESERVE).max(first.len() + data.len()));
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
        }
        Ok(if joined.is_empty() { first } else { joined.freeze() })
    }

    fn failed(&self, error: &legacy::Error) -> CallError {
        if is_connect_timeout(error) {
            let limit_ms = u64::try_from(self.timeouts.connect.as_millis()).unwrap_or(u64::MAX);
            CallError::TimedOut { host: self.host.clone(), what: "accept a connection", limit_ms }
        } else if error.is_connect() {
            CallError::Connect { host: self.host.clone(), reason: reason(error) }
        } else {
            self.interrupted(error)
        }
    }

    fn interrupted(&self, error: &(dyn Error + 'static)) -> CallError {
        CallError::Interrupted { host: self.host.clone(), reason: reason(error) }
    }
}

async fn stands(connection: &mut CaptureConnection) {
    connection.wait_for_connection_metadata().await;
}

/// Host and port of a URL, without the name and password that it may carry.
fn host_of(url: &http::Uri) -> String {
    let host = url.host().unwrap_or_default();
    match url.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.into(),
    }
}

/// The error itself, then what caused it.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

fn is_connect_timeout(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<ConnectTimedOut>())
}

/// The causes of an error as one line, outermost first. The client's own name for the error
/// ("client error (`SendRequest`)") says nothing to anybody, so the causes below it stand for it.
fn reason(error: &(dyn Error + 'static)) -> String {
    let top = if error.is::<legacy::Error>() { error.source().unwrap_or(error) } else { error };
    let mut text = String::new();
    for cause in causes(top) {
        let cause = cause.to_string();
        // Some errors repeat the text of their cause.
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}
