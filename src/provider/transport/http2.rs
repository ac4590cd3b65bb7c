//! An HTTP/2 connection: shared by many calls, so it runs in a task of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Stream;
use crate::provider::transport::exchange::{Failed, Head, Outgoing, TransportFault};

/// How often a connection with calls in flight is checked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// The longest head of an answer, and the longest trailers.
const MAX_HEAD: u32 = 64 << 10;

type Connection = http2::Connection<Stream, Full<Bytes>, TokioExecutor>;

/// A connection that runs by itself until its last handle is gone.
pub(super) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Only queried for the server's limit, which arrives after the handshake and may change.
    connection: Arc<Mutex<Connection>>,
    calls: Arc<AtomicUsize>,
}

impl Shared {
    pub async fn over(stream: Stream) -> Result<Self, hyper::Error> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_header_list_size(MAX_HEAD);
        let (sender, connection) = builder.handshake(stream).await?;
        let connection = Arc::new(Mutex::new(connection));
        let run = connection.clone();
        TokioExecutor::new().execute(poll_fn(move |cx| Pin::new(&mut *lock(&run)).poll(cx).map(|_| ())));
        Ok(Self { sender, connection, calls: Arc::default() })
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub fn is_used(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    /// Takes room for a call; `None` if the server would make it wait.
    pub fn share(&self) -> Option<Share> {
        let limit = lock(&self.connection).current_max_send_streams();
        let more = |calls: usize| (calls < limit).then(|| calls + 1);
        self.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Share { sender: self.sender.clone(), calls: self.calls.clone(), body: None })
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The use of a connection by one call.
pub(super) struct Share {
    sender: http2::SendRequest<Full<Bytes>>,
    calls: Arc<AtomicUsize>,
    /// The body of the answer.
    body: Option<Box<Incoming>>,
}

impl Share {
    /// Sends a request and waits for the head of the answer.
    pub async fn send(&mut self, request: Outgoing) -> Result<Head, Failed> {
        match self.sender.try_send_request((*request).map(Full::new)).await {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                let announced = body.size_hint().exact();
                self.body = Some(Box::new(body));
                Ok(Head { status: parts.status, headers: parts.headers, announced })
            }
            Err(mut error) => {
                let unsent = error.take_message().map(|request| Box::new(request.map(content)));
                Err(Failed { fault: TransportFault::Http2(error.into_error()), unsent })
            }
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, TransportFault>>> {
        loop {
            let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
            match ready!(Pin::new(&mut **body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes from which a request was made.
fn content(mut body: Full<Bytes>) -> Bytes {
    // The whole body is available, so no task needs to be woken.
    match Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        Poll::Ready(Some(Err(_)) | None) | Poll::Pending => Bytes::new(),
    }
}
