//! One connection: it must not hold its place for longer than it is useful, and closing it must not
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
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use futures_util::TryFutureExt;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::MAX_HEAD;
use super::course::Course;
use super::crowd::Member;
use super::gate::Gate;
use super::pace::Streams;
use crate::http::layers::trace::Peer;

/// How long and how many bytes are read from a client that has its answer and is still sending.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;
/// Bytes of a single such read.
const LINGER_READ: usize = 16 << 10;

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
/// connection becomes idle or `drain` is cancelled, nor any of a caller who may call when it makes
/// room.
///
/// A connection that becomes a WebSocket is handed on together with its place.
pub async fn run(
    (builder, http2): (Builder<Streams>, bool),
    (stream, member): (TcpStream, Member),
    router: Router,
    drain: CancellationToken,
    patience: Patience,
) {
    let course = member.course().clone();
    course.speaks(http2);
    let mut gate = Gate::new(MAX_HEAD);
    if http2 {
        gate.open();
    }
    let (service, seen) = (TowerToHyperService::new(router), course.clone());
    let peer = stream.peer_addr().ok().map(Peer);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let exchange = seen.begins();
        request.extensions_mut().insert(seen.admission());
        if let Some(fault) = seen.fault() {
            request.extensions_mut().insert(fault);
        }
        service.call(request).map_ok(move |response| exchange.answered(response))
    });
    let stream = Impatient { stream, gate, _member: member, course: course.clone(), limit: patience.write, timer: None, linger: None };
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
        ended = connection.as_mut() => Some(ended),
        () = over => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => Some(ended),
                () = course.overstays() => None,
            }
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// A stream whose writes fail when the client accepts nothing for too long, and which closes so
/// that the client can read to the end of what was written.
struct Impatient {
    stream: TcpStream,
    gate: Gate,
    /// Leaves the crowd when the stream is closed.
    _member: Member,
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
                course.refuses(number, fault);
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
            if !self.course.is_owed() {
                return Poll::Ready(Ok(()));
            }
            self.linger = Some((Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES));
        }
        self.poll_linger(cx).map(Ok)
    }
}
