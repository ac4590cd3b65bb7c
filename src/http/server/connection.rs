//! One connection: it must not hold its slot for longer than it is useful, and closing it must not
//! destroy an answer that was already sent.
//!
//! hyper by itself ends a silent HTTP/1.1 client, but neither an HTTP/2 client that only answers
//! pings, nor a client that sends requests and reads no answers. And hyper closes a connection at
//! once when a request was answered before all of it arrived: what arrives afterwards makes the
//! kernel send a reset, and a client that gets a reset may never see the answer. So such a
//! connection is first closed in one direction only (RFC 9112, section 9.6). What arrives passes the
//! gate of [`super::gate`] on its way to hyper.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::TryFutureExt;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::MAX_HEAD;
use super::gate::{Gate, Standing};
use super::pace::{Given, Paced, Streams};
use crate::http::layers::head_fault::HeadFault;
use crate::http::layers::request_body::Unread;

/// How long and how many bytes are read from a client that has its answer and is still sending.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;
/// Bytes of a single such read.
const LINGER_READ: usize = 16 << 10;

/// Every byte that arrived belongs to an answered request.
const ANSWERED: u8 = 0;
/// Bytes arrived that no answer covers, or an answer was made before all of its request arrived.
const OWED: u8 = 1;
/// The connection has become a WebSocket, which closes in its own way.
const UPGRADED: u8 = 2;

/// How long a connection may keep the server waiting.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the client accepts some of the bytes that are written to it; with HTTP/2, of each
    /// stream that has any.
    pub write: Duration,
    /// Until the client's next request. A random addition of up to a quarter keeps clients that
    /// arrived together from all returning together.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { write: Duration::from_secs(60), idle: Duration::from_secs(60) }
    }
}

/// Serves a connection to its end. Requests that have begun are answered: none is cut when the
/// connection becomes idle or `drain` is cancelled.
///
/// A connection that becomes a WebSocket is handed on together with its slot.
pub async fn run(
    (builder, http2): (Builder<Streams>, bool),
    (stream, slot): (TcpStream, OwnedSemaphorePermit),
    course: &Arc<Course>,
    router: Router,
    drain: CancellationToken,
    patience: Patience,
) {
    course.http2.store(http2, Ordering::Relaxed);
    let mut gate = Gate::new(MAX_HEAD);
    if http2 {
        gate.open();
    }
    let (service, seen) = (TowerToHyperService::new(router), course.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let exchange = seen.begins();
        if let Some(fault) = seen.fault() {
            request.extensions_mut().insert(fault);
        }
        service.call(request).map_ok(move |response| exchange.answered(response))
    });
    let stream = Impatient { stream, gate, _slot: slot, course: course.clone(), limit: patience.write, timer: None, linger: None };
    let io = TokioIo::new(stream);
    let mut connection = Box::pin(builder.serve_connection_with_upgrades(io, service).into_owned());
    let over = async {
        tokio::select! {
            () = drain.cancelled() => {}
            () = course.idle(patience.idle) => {}
            () = course.left() => {}
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = over => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// The state of a connection's exchanges, shared by its service, its stream and the crowd that may
/// need its place.
pub struct Course {
    /// Whether the connection is HTTP/2: exchanges run side by side, and many frames ask for no
    /// answer.
    http2: AtomicBool,
    /// Whether other clients wait for a place.
    others_wait: Arc<AtomicBool>,
    times: Mutex<Times>,
    state: AtomicU8,
    /// The number of exchanges that have not ended.
    running: AtomicUsize,
    /// The number of exchanges that have begun, and of those whose answer has begun.
    begun: AtomicU64,
    answered: AtomicU64,
    /// The number of the exchange whose request cannot be taken as it is, from 1, and why.
    refused: OnceLock<(u64, HeadFault)>,
    leaves: AtomicBool,
    leave: Notify,
}

struct Times {
    /// When the latest request began.
    began: Instant,
    /// When the last byte of the latest answer had been made.
    ended: Instant,
}

impl Course {
    /// The course of a new connection.
    pub fn new(others_wait: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        Self {
            http2: AtomicBool::new(false),
            others_wait,
            times: Mutex::new(Times { began: now, ended: now }),
            state: AtomicU8::new(ANSWERED),
            running: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refused: OnceLock::new(),
            leaves: AtomicBool::new(false),
            leave: Notify::new(),
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Records that bytes have arrived.
    fn reads(&self) {
        if !self.is_http2() && self.state() == ANSWERED {
            self.state.store(OWED, Ordering::Relaxed);
        }
    }

    fn begins(self: &Arc<Self>) -> Exchange {
        self.times().began = Instant::now();
        self.running.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Exchange(self.clone())
    }

    /// What is wrong with the head of the request that has just begun. With HTTP/1.1, requests begin
    /// in the order in which their heads have arrived.
    fn fault(&self) -> Option<HeadFault> {
        let (number, fault) = self.refused.get()?;
        (*number == self.begun.load(Ordering::Relaxed)).then_some(*fault)
    }

    fn standing(&self) -> Standing {
        Standing { answered: self.answered.load(Ordering::Relaxed), is_upgraded: self.state() == UPGRADED }
    }

    /// Since when the connection has had nothing to do; `None` while it has, and once it was asked
    /// to close.
    pub fn resting_since(&self) -> Option<Instant> {
        let answered = self.running.load(Ordering::Relaxed) == 0 && (self.is_http2() || self.state() == ANSWERED);
        (answered && !self.leaves.load(Ordering::Relaxed)).then(|| self.times().ended)
    }

    /// Asks the connection to close once it has nothing to do.
    pub fn leave(&self) {
        self.leaves.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }

    /// Returns when the connection is asked to close.
    pub async fn left(&self) {
        self.leave.notified().await;
    }

    /// Returns when no request has begun for this long. A request that itself takes longer counts
    /// as idleness too: it is then the last of its connection.
    async fn idle(&self, limit: Duration) {
        let limit = limit + limit.mul_f64(fastrand::f64() / 4.0);
        loop {
            let due = self.times().began + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// A request, until its answer has ended.
struct Exchange(Arc<Course>);

impl Exchange {
    /// Records that the answer begins.
    fn answered<B>(self, mut response: Response<B>) -> Response<Ending<B>> {
        let course = &self.0;
        let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let state = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => UPGRADED,
            _ if response.extensions().get::<Unread>().is_some() => OWED,
            _ if course.is_http2() => course.state(),
            _ => ANSWERED,
        };
        course.state.store(state, Ordering::Relaxed);
        course.answered.fetch_add(1, Ordering::Relaxed);
        if course.others_wait.load(Ordering::Relaxed) && !upgrades && !course.is_http2() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| Ending { body: Paced::new(body), _exchange: self })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.times().ended = Instant::now();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; dropping it ends the exchange.
struct Ending<B> {
    body: Paced<B>,
    _exchange: Exchange,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Ending<B> {
    type Data = Given;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Given>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose writes fail when the client accepts nothing for too long, and which closes so
/// that the client can read to the end of what was written.
struct Impatient {
    stream: TcpStream,
    gate: Gate,
    /// Released when the stream is closed.
    _slot: OwnedSemaphorePermit,
    course: Arc<Course>,
    limit: Duration,
    /// Set while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
    /// Set while the stream is closed in one direction: until when, and how many more bytes may
    /// arrive.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Impatient {
    fn limited<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let limit = self.limit;
        ready!(self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }

    /// Reads and drops what still arrives; ready when nothing more arrives, or too much has.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((until, left)) = &mut self.linger else { return Poll::Ready(()) };
        let mut dropped = [MaybeUninit::uninit(); LINGER_READ];
        loop {
            let mut dropped = ReadBuf::uninit(&mut dropped);
            match Pin::new(&mut self.stream).poll_read(cx, &mut dropped) {
                Poll::Ready(Ok(())) if !dropped.filled().is_empty() && *left > 0 => *left = left.saturating_sub(dropped.filled().len()),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return until.as_mut().poll(cx),
            }
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, gate, course, .. } = &mut *self;
        let read = |cx: &mut Context<'_>, buf: &mut ReadBuf<'_>| {
            let before = buf.filled().len();
            let read = Pin::new(&mut *stream).poll_read(cx, buf);
            if buf.filled().len() > before {
                course.reads();
            }
            read
        };
        // Only one head can be at fault: nothing passes behind it.
        gate.poll_read(
            cx,
            buf,
            read,
            || course.standing(),
            |number, fault| {
                let _ = course.refused.set((number, fault));
            },
        )
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limited(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limited(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Does not wait for the client: a TCP stream has no buffer of its own.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if self.course.state() != OWED {
                return Poll::Ready(Ok(()));
            }
            self.linger = Some((Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES));
        }
        self.poll_linger(cx).map(Ok)
    }
}
