//! One connection: it must not hold its slot for longer than it is of use.
//!
//! hyper ends a silent HTTP/1.1 client by itself, but neither an HTTP/2 client that only answers
//! pings, nor one that sends requests and reads no answers.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

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
    builder: Builder<TokioExecutor>,
    (stream, slot): (TcpStream, OwnedSemaphorePermit),
    router: Router,
    drain: CancellationToken,
    patience: Patience,
) {
    let latest = Arc::new(Mutex::new(Instant::now()));
    let (service, seen) = (TowerToHyperService::new(router), latest.clone());
    let service = service_fn(move |request| {
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        service.call(request)
    });
    let io = TokioIo::new(Impatient { stream, _slot: slot, limit: patience.write, timer: None });
    let mut connection = Box::pin(builder.serve_connection_with_upgrades(io, service).into_owned());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = drain.cancelled() => (), () = idle(&latest, patience.idle) => () } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Returns when no request has come for this long. One that takes longer counts as idleness too:
/// then it is the last of its connection.
async fn idle(latest: &Mutex<Instant>, limit: Duration) {
    let limit = limit + limit.mul_f64(fastrand::f64() / 4.0);
    loop {
        let due = *latest.lock().unwrap_or_else(PoisonError::into_inner) + limit;
        if due <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

/// A stream whose writes fail when the other side takes nothing for too long.
struct Impatient {
    stream: TcpStream,
    /// Free again when the stream is closed.
    _slot: OwnedSemaphorePermit,
    limit: Duration,
    /// Set while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
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
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
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

    // Neither waits for the other side: a TCP stream has no buffer of its own.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
