//! A request's body from the outside: a client that stalls must not hold a connection for ever, a
//! handler that meets an error must be able to say whether the body was cut, and bytes that a
//! handler has not read must not be taken for the next request.
//!
//! Only the time between two pieces is limited, not the total: a large file over a slow line is
//! legitimate as long as bytes keep arriving.
//!
//! Invariant: whichever layer or handler answered, the body of an HTTP/1.1 request has been read to
//! its end before the answer begins, or the answer says `Connection: close`. With HTTP/2, only the
//! stream is affected: h2 ends it with `RST_STREAM(NO_ERROR)` behind the answer (RFC 9113, section
//! 8.1).

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};

use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// No reader has asked for the body: a client that waits for `100 Continue` was not asked to send
/// it.
const UNTOUCHED: u8 = 0;
const READ: u8 = 1;
const ENDED: u8 = 2;
const CUT: u8 = 3;
const STALLED: u8 = 4;
/// How long and how many bytes are read, before the answer, of a body that a handler did not
/// finish.
const REST: Duration = Duration::from_secs(1);
const REST_BYTES: usize = 64 << 10;

/// The state of a request's body; kept among the extensions of a request that has one.
#[derive(Debug, Clone, Default)]
pub struct Fate(Arc<BodyState>);

#[derive(Debug, Default)]
struct BodyState {
    state: AtomicU8,
    /// The body, if its reader dropped it before its end.
    rest: Mutex<Option<Body>>,
}

impl Fate {
    /// The error to answer with if the body is to blame for a failed read.
    pub fn blame(&self, idle: Duration) -> Option<ApiError> {
        match self.state() {
            CUT => Some(ApiError::incomplete("the body ended before its announced end; nothing was kept")),
            STALLED => {
                let seconds = idle.as_secs();
                Some(ApiError::incomplete(format!("no byte of the body arrived for {seconds} seconds; nothing was kept")))
            }
            _ => None,
        }
    }

    fn state(&self) -> u8 {
        self.0.state.load(Ordering::Relaxed)
    }

    fn becomes(&self, state: u8) {
        self.0.state.store(state, Ordering::Relaxed);
    }

    /// Reads the rest of the body and drops it; returns whether the body was read to its end.
    async fn finish(&self, asks_first: bool) -> bool {
        let rest = self.0.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (self.state(), rest) {
            (ENDED, _) => true,
            // Reading would ask the client to send a body that no handler reads.
            (UNTOUCHED, Some(_)) if asks_first => false,
            (UNTOUCHED | READ, Some(rest)) => tokio::time::timeout(REST, drain(rest)).await.unwrap_or(false),
            // The body has failed, or its reader still holds it.
            _ => false,
        }
    }
}

/// Marks, among its extensions, an answer that was made before all of its request arrived.
#[derive(Debug, Clone, Copy)]
pub struct Unread;

/// No piece of the body arrived in time.
#[derive(Debug, thiserror::Error)]
#[error("the body stalled")]
struct Stalled;

/// Watches the body of a request, and handles what is left of it after the answer is made. A small
/// rest is read, so that the connection can be used again; otherwise the answer says that the
/// connection closes, and it stays open in one direction until the client has read the answer.
pub async fn watch(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (fate, version) = (Fate::default(), request.version());
    let asks_first = request.headers().contains_key(EXPECT);
    let (parts, inner) = request.into_parts();
    let watched = WatchedBody { inner, idle: api.limits.body_idle, timer: None, fate: fate.clone() };
    let mut request = Request::from_parts(parts, Body::new(watched));
    request.extensions_mut().insert(fate.clone());
    let mut response = next.run(request).await;
    if fate.finish(asks_first).await || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    response.extensions_mut().insert(Unread);
    if version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        // hyper would add `keep-alive` to an answer whose version is later than its request's.
        *response.version_mut() = version;
    }
    response
}

/// Whether an unread body ended within the bytes that are read of it.
async fn drain(mut body: Body) -> bool {
    if body.size_hint().lower() > REST_BYTES as u64 {
        return false;
    }
    let mut left = REST_BYTES;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return false };
        left = rest;
    }
    true
}

/// A body on its way to its reader.
struct WatchedBody {
    inner: Body,
    idle: Duration,
    /// Set while a piece is awaited.
    timer: Option<Pin<Box<Sleep>>>,
    fate: Fate,
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if !matches!(self.fate.state(), UNTOUCHED | READ) {
            return;
        }
        if self.inner.is_end_stream() {
            return self.fate.becomes(ENDED);
        }
        let rest = std::mem::take(&mut self.inner);
        *self.fate.0.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        let state = match &frame {
            Poll::Ready(Some(Err(_))) => CUT,
            Poll::Ready(None) => ENDED,
            Poll::Ready(Some(Ok(_))) | Poll::Pending => READ,
        };
        self.fate.becomes(state);
        match frame {
            Poll::Ready(frame) => {
                self.timer = None;
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
            }
            Poll::Pending => {
                let deadline = Instant::now() + self.idle;
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
                ready!(timer.as_mut().poll(cx));
                self.fate.becomes(STALLED);
                Poll::Ready(Some(Err(Stalled.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
