//! Watching a request's body while it is read: a client that stalls must not hold a connection for
//! ever, and a handler that meets an error must be able to say whether the body was cut.
//!
//! Only the time between two pieces is limited, not the whole: a large file over a slow line is
//! legitimate as long as it moves.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::Version;
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};

use super::Api;
use super::error::ApiError;
use crate::domain::error::Code;

/// 0 is a body that is being read or was read to its end.
const CUT: u8 = 1;
const STALLED: u8 = 2;
/// How long and how much is read of a body that nobody wants.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;

/// What became of a request's body; kept among the extensions of the request.
#[derive(Debug, Clone, Default)]
pub struct Fate(Arc<AtomicU8>);

impl Fate {
    /// The error to answer with if the body is to blame for a failed read.
    pub fn blame(&self, idle: Duration) -> Option<ApiError> {
        match self.0.load(Ordering::Relaxed) {
            CUT => Some(incomplete("the body ended before its announced end; nothing was kept")),
            STALLED => {
                let seconds = idle.as_secs();
                Some(incomplete(format!("no byte of the body arrived for {seconds} seconds; nothing was kept")))
            }
            _ => None,
        }
    }
}

/// A body that is not whole.
pub fn incomplete(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::IncompleteBody, message)
}

/// No piece of the body came in time.
#[derive(Debug, thiserror::Error)]
#[error("the body stalled")]
struct Stalled;

/// Puts the watch around the body of a request. Where a request was refused before its body was
/// read, reads on a while: a client that is still sending when the connection closes sees a reset
/// instead of the answer, and tries again for nothing.
pub async fn watch(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let fate = Fate::default();
    let idle = api.limits.body_idle;
    // A client that asks first, and HTTP/2, can be refused without reading.
    let may_be_cut = request.headers().contains_key(EXPECT) || request.version() > Version::HTTP_11;
    let (parts, inner) = request.into_parts();
    let inner = Arc::new(Mutex::new(inner));
    let watched = Watched { inner: Shared(inner.clone()), idle, timer: None, fate: fate.clone() };
    let mut request = Request::from_parts(parts, Body::new(watched));
    request.extensions_mut().insert(fate.clone());
    let response = next.run(request).await;
    if response.status().as_u16() >= 400 && !may_be_cut && fate.blame(idle).is_none() {
        // Whether it came to an end or not, the answer is the same.
        let _ = tokio::time::timeout(LINGER, drain(Shared(inner))).await;
    }
    response
}

async fn drain(mut body: Shared) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// A body that outlives the handler that reads it. Only one of the two polls it at a time.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}

struct Watched {
    inner: Shared,
    idle: Duration,
    /// Set while a piece is awaited.
    timer: Option<Pin<Box<Sleep>>>,
    fate: Fate,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.timer = None;
                if let Some(Err(_)) = &frame {
                    self.fate.0.store(CUT, Ordering::Relaxed);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
            }
            Poll::Pending => {
                let deadline = Instant::now() + self.idle;
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
                ready!(timer.as_mut().poll(cx));
                self.fate.0.store(STALLED, Ordering::Relaxed);
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
