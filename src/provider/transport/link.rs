//! One connection to the upstream, and one exchange on it.
//!
//! A connection of HTTP/1.1 has no task of its own: whoever waits for its answer polls it. That
//! spares each call the wake-ups between two tasks, and an idle connection needs nobody. One of
//! HTTP/2 is shared, so it runs by itself.
//!
//! Invariant: a request comes back from [`Link::send`] only if no byte of it was written.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Stream;

/// How often a connection of HTTP/2 with calls in flight is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// A request as it is sent.
pub(super) type Outgoing = Request<Full<Bytes>>;

/// A request that was not answered.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: hyper::Error,
    /// The request, if nothing of it was written.
    pub unsent: Option<Box<Outgoing>>,
}

impl From<TrySendError<Outgoing>> for Failed {
    fn from(mut error: TrySendError<Outgoing>) -> Self {
        let unsent = error.take_message().map(Box::new);
        Self { error: error.into_error(), unsent }
    }
}

/// The use of a connection for one exchange.
pub(super) enum Link {
    Own(Own),
    Shared(Share),
}

impl Link {
    /// Sends a request, its URL whole, and waits for the head of the answer. `host` is the header
    /// of that name.
    pub async fn send(&mut self, request: Outgoing, host: &HeaderValue) -> Result<Response<Incoming>, Failed> {
        match self {
            Self::Own(own) => own.send(request, host).await,
            Self::Shared(share) => Ok(share.sender.try_send_request(request).await?),
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub async fn frame(&mut self, body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| match self {
            Self::Own(own) => own.poll_frame(body, cx),
            Self::Shared(_) => Pin::new(&mut *body).poll_frame(cx),
        })
        .await
    }
}

/// A connection of HTTP/1.1, used by one call at a time.
pub(super) struct Own {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    connection: Option<Box<http1::Connection<Stream, Full<Bytes>>>>,
    /// What it ended with, if nobody has been told.
    fault: Option<hyper::Error>,
    /// Leads to a proxy that wants to see the whole URL.
    forwarded: bool,
}

impl Own {
    pub async fn over(stream: Stream, forwarded: bool) -> Result<Self, hyper::Error> {
        let (sender, connection) = http1::handshake(stream).await?;
        Ok(Self { sender, connection: Some(Box::new(connection)), fault: None, forwarded })
    }

    /// Lets the connection go on as far as it can; `cx` is woken when it can go further.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(ended) = Pin::new(&mut **connection).poll(cx)
        {
            // Dropped at once: that fails whatever still waits for it.
            self.connection = None;
            self.fault = ended.err();
        }
    }

    async fn send(&mut self, mut request: Outgoing, host: &HeaderValue) -> Result<Response<Incoming>, Failed> {
        request.headers_mut().insert(HOST, host.clone());
        if !self.forwarded {
            *request.uri_mut() = path_of(request.uri());
        }
        // The answer can come from nowhere but the connection, which is polled right before it by
        // the same task; so it needs no waker, and must not be held up by the task's budget.
        let mut answer = pin!(tokio::task::unconstrained(self.sender.try_send_request(request)));
        let answer = poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        answer.await.map_err(|error| {
            let mut failed = Failed::from(error);
            if let Some(fault) = self.fault.take() {
                failed.error = fault;
            }
            failed
        })
    }

    fn poll_frame(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // As in `send`; polling the body also tells the connection that somebody wants more of it.
        let mut idle = Context::from_waker(Waker::noop());
        match Pin::new(&mut *body).poll_frame(&mut idle) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => {
                self.drive(cx);
                Pin::new(body).poll_frame(&mut idle)
            }
        }
    }

    /// Whether it can take another request. Nobody polls it until then, and nobody is woken by it.
    pub fn rest(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// The URL as a server expects it from a client that speaks to no proxy.
fn path_of(url: &Uri) -> Uri {
    Uri::from(url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")))
}

type SharedConnection = http2::Connection<Stream, Full<Bytes>, TokioExecutor>;

/// A connection of HTTP/2, which runs by itself until the last handle on it is gone.
pub(super) struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Only asked for the server's limit: it comes after the handshake, and may change.
    connection: Arc<Mutex<SharedConnection>>,
    calls: Arc<AtomicUsize>,
}

impl Shared {
    pub async fn over(stream: Stream) -> Result<Self, hyper::Error> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL);
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

    /// Room for a call; `None` if the server would let it wait.
    pub fn share(&self) -> Option<Share> {
        let limit = lock(&self.connection).current_max_send_streams();
        let more = |calls: usize| (calls < limit).then(|| calls + 1);
        self.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Share { sender: self.sender.clone(), calls: self.calls.clone() })
    }
}

fn lock(connection: &Mutex<SharedConnection>) -> MutexGuard<'_, SharedConnection> {
    connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The use of a connection of HTTP/2 by one call.
pub(super) struct Share {
    sender: http2::SendRequest<Full<Bytes>>,
    calls: Arc<AtomicUsize>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}
