//! Around everything that answers: a request id on every response, a span around every request, one
//! log line at its end, and an envelope even for a panic.
//!
//! The span has fixed fields. Bodies, queries and headers are never logged: they hold prompts and
//! keys. The path is logged as the route that matched, so that ids do not make every line unique.

use std::any::Any;
use std::net::SocketAddr;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use tracing::field::display;

use crate::domain::id::{KeyId, OrgId, RequestId};
use crate::http::dialect::speaks_phaseo;
use crate::http::response::error::ApiError;

/// The header that carries the id of a request, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The most characters of an id that a client may choose.
const MAX_ID_CHARS: usize = 128;

/// The number of a request, among its extensions: the source of the request's id unless its client
/// has chosen one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced(pub RequestId);

/// The address at the other end of a connection, among the extensions of its requests. Behind a proxy
/// it is the proxy's.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The id of a request as its client sees it, among the extensions of the request.
#[derive(Debug, Clone)]
pub struct ShownId(pub HeaderValue);

/// The caller of a request, among the extensions of its response: for the request's log line.
#[derive(Debug, Clone)]
pub struct CalledBy {
    pub org: OrgId,
    pub key: Option<KeyId>,
}

/// Gives the request an id, a span and, at its end, a log line.
pub async fn request(mut request: Request, next: Next) -> Response {
    let number = new_number();
    request.extensions_mut().insert(Traced(number));
    let id = own_id(request.headers()).unwrap_or_else(|| new_id(number, speaks_phaseo(&request)));
    request.extensions_mut().insert(ShownId(id.clone()));
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let shown = id.to_str().unwrap_or_default();
    let span = tracing::info_span!("request", request_id = shown, method = %request.method(), route);
    let started = tokio::time::Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let latency_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    let by = response.extensions_mut().remove::<CalledBy>();
    let (org, key) = (by.as_ref().map(|by| by.org), by.and_then(|by| by.key));
    let (peer, org, key) = (peer.map(display), org.map(display), key.map(display));
    // Probes come every few seconds and are of no interest as long as they succeed.
    let quiet = status < 400 && matches!(route.as_str(), "/healthz" | "/readyz");
    span.in_scope(|| match quiet {
        true => tracing::debug!(status, latency_ms, peer, org, key, "request handled"),
        false => tracing::info!(status, latency_ms, peer, org, key, "request handled"),
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The client's own id, if it can appear in a log line without harm.
fn own_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let sane = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    ((1..=MAX_ID_CHARS).contains(&id.len()) && id.as_bytes().iter().all(sane)).then(|| id.clone())
}

/// A unique number, ordered by time. It protects nothing, so its random part need not come from the
/// kernel, which would cost a system call for each request.
fn new_number() -> RequestId {
    let (seconds, nanos) = uuid::Timestamp::now(uuid::NoContext).to_unix();
    let millis = seconds.saturating_mul(1_000).saturating_add(u64::from(nanos) / 1_000_000);
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    RequestId::from_u128(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128())
}

/// The request's number as clients see it: Phaseo's clients find it in the bodies of answers, in
/// the same form.
fn new_id(number: RequestId, for_phaseo: bool) -> HeaderValue {
    let id = if for_phaseo { number.in_upper() } else { format!("req_{:032x}", number.as_u128()) };
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("req_unknown"))
}

/// Answers for a handler that panicked.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    ApiError::internal(format!("a handler panicked: {}", text.unwrap_or_default())).into_response()
}
