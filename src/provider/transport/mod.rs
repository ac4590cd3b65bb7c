//! One HTTP exchange with one upstream: time limits, a size limit, errors that say what happened.
//!
//! Knows no API: a status is a number and a body is bytes. A redirect is an answer like any other,
//! because following it would send the key to a host that the operator did not configure.
//! Connections are kept and reused (HTTP/1.1, or HTTP/2 where the server offers it in the TLS
//! handshake).
//!
//! An exchange for which the process has no file descriptor waits. No limit but its budget runs
//! meanwhile, because the wait says nothing about the upstream.
//!
//! Invariant: an exchange ends within its budget, holds at most `max_response_bytes` of the answer,
//! and all answers together hold no more than their room ([`room`]). Its errors carry no header of
//! the request.

mod allowance;
mod cause;
mod coding;
mod connect;
pub mod exchange;
mod http1;
mod http2;
mod link;
mod opening;
mod pool;
mod proxies;
mod ramp;
pub mod room;
mod roots;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};

use self::coding::{CodingFault, decoded};
use self::connect::{ConnectTimedOut, Connector, name_of};
use self::link::Link;
use self::pool::{Next, Pool};
pub(super) use self::proxies::from_env as proxies_from_env;
use self::room::{AnswerRoom, FREE, HeldRoom};
use super::{CallError, SetupError};
use crate::descriptors::{Descriptors, is_refusal};
use crate::domain::provider::connection::{HostAddresses, ServerConnection, Timeouts};
use crate::provider::transport::exchange::{Failed, Head, Outgoing, TransportFault};

/// The TLS settings of a client that trusts the system's certificates.
pub(super) fn client_tls(who: &str) -> Result<rustls::ClientConfig, SetupError> {
    roots::client_config(who, None, true)
}

/// The most bytes that are reserved on the basis of a `content-length`.
const MAX_RESERVE: usize = 1024 * 1024;
/// The room for answers of a server that shares none, in bytes.
const DEFAULT_ROOM: u64 = 256 << 20;
/// Delay after the kernel has refused a descriptor.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);

/// The client for one upstream host.
pub(super) struct Transport {
    pool: Arc<Pool>,
    descriptors: Descriptors,
    /// Host and port as in the base URL, and the address if it is one of several, for error texts.
    host: String,
    /// The name whose addresses are servers of their own, and the port.
    name: Option<(String, u16)>,
    /// The `Host` header.
    host_header: HeaderValue,
    /// The proxy that calls go through, without its credentials.
    proxy: Option<String>,
    /// Sent with every request if a forwarding proxy requires credentials.
    proxy_auth: Option<HeaderValue>,
    timeouts: Timeouts,
    max_response_bytes: u64,
    room: AnswerRoom,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A moment by which an event must have happened.
#[derive(Clone, Copy)]
struct Limit {
    what: &'static str,
    length: Duration,
    at: Instant,
}

impl Limit {
    fn after(now: Instant, what: &'static str, length: Duration) -> Self {
        // A length beyond what the clock can express is no limit; a day is longer than any call.
        let at = now.checked_add(length).unwrap_or_else(|| now + Duration::from_secs(86_400));
        Self { what, length, at }
    }

    fn passed(self, host: &str) -> CallError {
        CallError::TimedOut { host: host.into(), what: self.what, limit_ms: u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Transport {
    /// Prepares connections to the host of `connection.base_url`, through a proxy if `proxies` says
    /// so. Opens no connection; each that is opened later takes one of `descriptors`.
    pub fn open(provider: &str, connection: &ServerConnection, proxies: &Matcher, descriptors: &Descriptors) -> Result<Self, SetupError> {
        let (connector, proxy_auth) = Connector::open(provider, connection, proxies)?;
        let proxy = connector.proxy();
        let url = &connection.base_url;
        let host_header = HeaderValue::try_from(header_of(url))
            .map_err(|error| SetupError::Url { provider: provider.into(), reason: error.to_string() })?;
        let host = host_of(url);
        // A proxy looks names up itself.
        let name = if proxy.is_none() && connection.addresses != HostAddresses::Any { name_of(url) } else { None };
        Ok(Self {
            pool: Pool::new(connector, url.clone(), connection.timeouts.connect, descriptors.calls().clone()),
            descriptors: descriptors.clone(),
            host: match connection.addresses {
                HostAddresses::One(address) if proxy.is_none() => format!("{host} at {address}"),
                HostAddresses::One(_) | HostAddresses::Any | HostAddresses::Each => host,
            },
            name,
            host_header,
            proxy,
            proxy_auth,
            timeouts: connection.timeouts,
            max_response_bytes: connection.max_response_bytes,
            room: AnswerRoom::new(DEFAULT_ROOM),
        })
    }

    /// Makes the answers share this room with those of other upstreams.
    #[must_use]
    pub fn within(self, room: AnswerRoom) -> Self {
        Self { room, ..self }
    }

    /// The name whose addresses are servers of their own, and the port; `None` if there is no such
    /// name, or a proxy looks it up.
    pub fn name(&self) -> Option<(String, u16)> {
        self.name.clone()
    }

    /// Host and port, for messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends the request and reads the whole answer.
    pub async fn send(&self, mut request: Outgoing, budget: Duration) -> Result<Received, CallError> {
        let mut now = Instant::now();
        let budget = Limit::after(now, "finish its answer", budget);
        let mut total = self.total(budget, now);
        if let Some(auth) = &self.proxy_auth {
            request.headers_mut().insert(PROXY_AUTHORIZATION, auth.clone());
        }
        loop {
            let (mut link, reused) = match self.pool.take() {
                Some(link) => (link, true),
                // Boxed, so that the many calls that find a connection are smaller.
                None => {
                    let (link, reused);
                    (link, reused, total) = Box::pin(self.reach(budget)).await?;
                    now = Instant::now();
                    (link, reused)
                }
            };
            // Starts once the connection is open.
            let first_byte = Limit::after(now, "begin its answer", self.timeouts.first_byte);
            let limit = if first_byte.at < total.at { first_byte } else { total };
            let mut timer = pin!(sleep_until(limit.at));
            let head = {
                let sent = pin!(link.send(request, &self.host_header));
                within(limit.at, timer.as_mut(), sent).await.ok_or_else(|| limit.passed(&self.host))?
            };
            match head {
                Ok(head) => {
                    let body = {
                        let read = pin!(self.read(&mut link, &head));
                        within(total.at, timer, read).await.ok_or_else(|| total.passed(&self.host))??
                    };
                    self.pool.put(link);
                    return Ok(Received { status: head.status, headers: head.headers, body });
                }
                // An idle connection that the server closed before any byte was written to it is no
                // failure of the call.
                Err(Failed { unsent: Some(unsent), .. }) if reused => (request, now) = (unsent, Instant::now()),
                Err(failed) => return Err(self.interrupted(&failed.fault)),
            }
        }
    }

    /// The limit of a call that begins now.
    fn total(&self, budget: Limit, now: Instant) -> Limit {
        let total = Limit::after(now, budget.what, self.timeouts.total);
        if budget.at < total.at { budget } else { total }
    }

    /// A connection, whether it was used before, and the limit of the call. The limit begins once
    /// there is a place to open a connection.
    async fn reach(&self, budget: Limit) -> Result<(Link, bool, Limit), CallError> {
        loop {
            let next = timeout_at(budget.at, self.pool.next()).await.map_err(|_| budget.passed(&self.host))?;
            let total = self.total(budget, Instant::now());
            let place = match next {
                Next::There(link) => return Ok((link, true, total)),
                Next::Place(place) => place,
            };
            let opened = timeout_at(total.at, self.pool.obtain(place)).await.map_err(|_| total.passed(&self.host))?;
            match opened {
                Ok((link, reused)) => return Ok((link, reused, total)),
                Err(error) if is_refusal(&*error) => {
                    self.descriptors.refused();
                    sleep(REFUSAL_PAUSE).await;
                }
                Err(error) => return Err(self.unconnected(&*error)),
            }
        }
    }

    fn unconnected(&self, error: &(dyn Error + 'static)) -> CallError {
        if causes(error).any(|cause| cause.is::<ConnectTimedOut>()) {
            let limit_ms = u64::try_from(self.timeouts.connect.as_millis()).unwrap_or(u64::MAX);
            CallError::TimedOut { host: self.host.clone(), what: "accept a connection", limit_ms }
        } else {
            CallError::Connect { host: self.host.clone(), reason: cause::unconnected(error, self.proxy.as_deref()) }
        }
    }

    async fn read(&self, link: &mut Link, head: &Head) -> Result<Bytes, CallError> {
        let mut room = self.room.hold();
        let body = self.read_coded(link, head.announced.unwrap_or(0), &mut room).await?;
        if !head.headers.contains_key(CONTENT_ENCODING) {
            return Ok(room.keep(body));
        }
        // Boxed, because hardly any answer is coded.
        match Box::pin(decoded(&head.headers, body, self.max_response_bytes, &mut room)).await {
            Ok(body) => Ok(room.keep(body)),
            Err(CodingFault::TooLarge) => Err(self.too_large()),
            Err(fault) => Err(CallError::Undecodable { host: self.host.clone(), reason: fault.to_string() }),
        }
    }

    /// Reads the body as it was sent.
    async fn read_coded(&self, link: &mut Link, announced: u64, room: &mut HeldRoom) -> Result<Bytes, CallError> {
        let limit = self.max_response_bytes;
        if announced > limit {
            return Err(self.too_large());
        }
        // Most answers arrive as one piece, which is kept as it is; only a second piece makes a
        // copy necessary.
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        let mut length = 0_u64;
        while let Some(piece) = link.piece().await {
            let data = piece.map_err(|fault| self.interrupted(&fault))?;
            length = length.saturating_add(data.len() as u64);
            if length > limit {
                return Err(self.too_large());
            }
            if length > FREE {
                room.grow(length).await;
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

    fn too_large(&self) -> CallError {
        CallError::TooLarge { host: self.host.clone(), limit: self.max_response_bytes }
    }

    fn interrupted(&self, error: &TransportFault) -> CallError {
        if let TransportFault::SpeaksTls = error {
            return CallError::Connect { host: self.host.clone(), reason: error.to_string() };
        }
        CallError::Interrupted { host: self.host.clone(), reason: reason(error) }
    }
}

/// The outcome of `work`, or `None` if it is not ready at `end`. `timer` may fire earlier; it is
/// reset only then, because most work is done long before any limit. The work is pinned by the
/// caller: a future that takes another by value has room for it twice.
fn within<T>(end: Instant, mut timer: Pin<&mut Sleep>, mut work: Pin<&mut impl Future<Output = T>>) -> impl Future<Output = Option<T>> {
    poll_fn(move |cx| {
        if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(outcome));
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= end {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    })
}

/// Host and port of a URL, without the name and password that it may carry.
fn host_of(url: &http::Uri) -> String {
    let host = url.host().unwrap_or_default();
    match url.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.into(),
    }
}

/// The `Host` header of a URL, which omits the default port of the scheme.
fn header_of(url: &http::Uri) -> String {
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    match url.port_u16() {
        Some(port) if port == default => url.host().unwrap_or_default().into(),
        _ => host_of(url),
    }
}

/// The error itself, then what caused it.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

/// The causes of an error as one line, outermost first.
pub(super) fn reason(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
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
