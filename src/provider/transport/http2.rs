//! An HTTP/2 connection: shared by many calls, so it runs in a task of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::allowance::{Allowance, Metered};
use super::connect::Stream;
use crate::provider::transport::exchange::{Failed, Head, Outgoing, TransportFault};

/// How often a connection with calls in flight is checked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a connection that is not used any more may take to say so to its server.
const CLOSING: Duration = Duration::from_secs(1);

/// The longest head of an answer, and the longest trailers.
const MAX_HEAD: u32 = 64 << 10;

type Connection = http2::Connection<TokioIo<Metered>, Full<Bytes>, Tasks>;

/// Runs what belongs to a connection until its last handle is gone, and [`CLOSING`] longer at most:
/// a server that reads nothing would keep a connection that has something to say.
#[derive(Clone)]
struct Tasks {
    gone: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let gone = self.gone.clone();
        TokioExecutor::new().execute(async move {
            // In this order, because most tasks are done at once.
            tokio::select! {
                biased;
                _ = task => {}
                () = gone.cancelled().then(|()| sleep(CLOSING)) => {}
            }
        });
    }
}

/// A connection that runs by itself until its last handle is gone.
pub(super) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Only queried for the server's limit, which arrives after the handshake and may change.
    connection: Arc<Mutex<Connection>>,
    used: Arc<Used>,
}

/// What all handles of a connection share.
struct Used {
    calls: AtomicUsize,
    allowance: Allowance,
    /// Tells the connection that the last handle is gone.
    _gone: DropGuard,
}

impl Shared {
    pub async fn over(stream: Stream) -> Result<Self, hyper::Error> {
        let gone = CancellationToken::new();
        let tasks = Tasks { gone: gone.clone() };
        let mut builder = http2::Builder::new(tasks.clone());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_header_list_size(MAX_HEAD);
        let allowance = Allowance::new();
        let (sender, connection) = builder.handshake(TokioIo::new(Metered::new(stream, allowance.clone()))).await?;
        let connection = Arc::new(Mutex::new(connection));
        let run = connection.clone();
        let used = Arc::new(Used { calls: AtomicUsize::new(0), allowance, _gone: gone.drop_guard() });
        tasks.execute(poll_fn(move |cx| Pin::new(&mut *lock(&run)).poll(cx).map(|_| ())));
        Ok(Self { sender, connection, used })
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub fn is_used(&self) -> bool {
        self.used.calls.load(Ordering::Relaxed) > 0
    }

    /// Takes room for a call; `None` if the server would make it wait.
    pub fn share(&self) -> Option<Share> {
        let limit = lock(&self.connection).current_max_send_streams();
        let more = |calls: usize| (calls < limit).then(|| calls + 1);
        self.used.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.used.allowance.on_call();
        Some(Share { sender: self.sender.clone(), used: self.used.clone(), body: None })
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The use of a connection by one call.
pub(super) struct Share {
    sender: http2::SendRequest<Full<Bytes>>,
    used: Arc<Used>,
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
                        self.used.allowance.on_body(data.len());
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
        self.used.calls.fetch_sub(1, Ordering::Relaxed);
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
