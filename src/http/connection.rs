//! One connection: it must not hold its slot for longer than it is of use, and it must not take back
//! an answer that it has given.
//!
//! hyper ends a silent HTTP/1.1 client by itself, but neither an HTTP/2 client that only answers
//! pings, nor one that sends requests and reads no answers. And it closes a connection at once when a
//! request was answered before all of it had come: what comes then makes the kernel send a reset,
//! and a client that gets one may never see the answer. So such a connection is first closed in one
//! direction only (RFC 9112, section 9.6).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::{Response, StatusCode};
use futures_util::TryFutureExt;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::body::Unread;

/// How long and how much is read from a client that has its answer and is still sending.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;
/// Read of it at once.
const LINGER_READ: usize = 16 << 10;

/// All that came has been answered.
const ANSWERED: u8 = 0;
/// Something came that no answer covers, or an answer has not waited for all of its request.
const OWED: u8 = 1;
/// It has become a WebSocket, which says goodbye in its own way.
const UPGRADED: u8 = 2;

/// How long a connection is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the client takes something of what is written to it.
    pub write: Duration,
    /// Until its next request. A random quarter is added, so that clients which came together do
    /// not all come back together.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { write: Duration::from_secs(60), idle: Duration::from_secs(60) }
    }
}

/// Serves a connection to its end. No request is cut when it becomes idle or `drain` is cancelled:
/// those that have begun are answered.
///
/// One that becomes a WebSocket is handed on, and its slot goes with it.
pub async fn run(
    (builder, http2): (Builder<TokioExecutor>, bool),
    (stream, slot): (TcpStream, OwnedSemaphorePermit),
    router: Router,
    drain: CancellationToken,
    patience: Patience,
) {
    let course = Arc::new(Course::of(http2));
    let (service, seen) = (TowerToHyperService::new(router), course.clone());
    let service = service_fn(move |request| {
        seen.begins();
        let seen = seen.clone();
        service.call(request).inspect_ok(move |response| seen.ends(response))
    });
    let stream = Impatient { stream, _slot: slot, course: course.clone(), limit: patience.write, timer: None, linger: None };
    let io = TokioIo::new(stream);
    let mut connection = Box::pin(builder.serve_connection_with_upgrades(io, service).into_owned());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = drain.cancelled() => (), () = course.idle(patience.idle) => () } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// How a connection's exchanges go, between its service and its stream.
struct Course {
    /// Exchanges run side by side, and much that comes asks for no answer.
    http2: bool,
    /// When the latest request began.
    latest: Mutex<Instant>,
    state: AtomicU8,
}

impl Course {
    fn of(http2: bool) -> Self {
        Self { http2, latest: Mutex::new(Instant::now()), state: AtomicU8::new(ANSWERED) }
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    /// Something has come.
    fn reads(&self) {
        if !self.http2 && self.state() == ANSWERED {
            self.state.store(OWED, Ordering::Relaxed);
        }
    }

    fn begins(&self) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ends<B>(&self, response: &Response<B>) {
        let state = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => UPGRADED,
            _ if response.extensions().get::<Unread>().is_some() => OWED,
            _ if self.http2 => return,
            _ => ANSWERED,
        };
        self.state.store(state, Ordering::Relaxed);
    }

    /// Returns when no request has come for this long. One that takes longer counts as idleness too:
    /// then it is the last of its connection.
    async fn idle(&self, limit: Duration) {
        let limit = limit + limit.mul_f64(fastrand::f64() / 4.0);
        loop {
            let due = *self.latest.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// A stream whose writes fail when the other side takes nothing for too long, and which closes so
/// that the other side can read to the end of what was written.
struct Impatient {
    stream: TcpStream,
    /// Free again when the stream is closed.
    _slot: OwnedSemaphorePermit,
    course: Arc<Course>,
    limit: Duration,
    /// Set while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
    /// Set while it is closed in one direction: until when, and how much may still come.
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

    /// Reads and drops what still comes; ready when nothing comes any more, or too much.
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
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.course.reads();
        }
        read
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

    // Does not wait for the other side: a TCP stream has no buffer of its own.
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
