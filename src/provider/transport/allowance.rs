//! Bounds what a server sends on an HTTP/2 connection beside its answers: interim answers, trailers,
//! pings, empty frames.
//!
//! On a connection of its own, a call counts what surrounds its answer. On a shared connection the
//! frames are read for all calls at once. So the connection has an [`Allowance`]: each byte that is
//! read costs, and each call and each byte of an answer's body pays.
//!
//! Invariant: a server that answers is never stopped, however it cuts its answers into frames. One
//! that only sends other things is, within [`MOST`] bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;

/// The most that a connection may have, in bytes, and what it begins with. More than the window in
/// which bodies are under way that no call has taken yet (hyper's is 5 MiB).
const MOST: i64 = 8 << 20;
/// What a call adds, in bytes: the longest head, the longest trailers, and interim answers.
const PER_CALL: i64 = 3 * (64 << 10);
/// What each byte of a body adds, in bytes: a frame has 9 bytes beside its content, and the content
/// may be a single byte.
const PER_BYTE: i64 = 16;

/// What a connection may still read.
#[derive(Debug, Clone)]
pub(super) struct Allowance(Arc<AtomicI64>);

impl Allowance {
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(MOST)))
    }

    /// Adds what a call needs beside the body of its answer.
    pub fn on_call(&self) {
        self.add(PER_CALL);
    }

    /// Adds what so many bytes of a body need.
    pub fn on_body(&self, bytes: usize) {
        self.add(i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(PER_BYTE));
    }

    fn add(&self, bytes: i64) {
        let more = |left: i64| Some(left.saturating_add(bytes).min(MOST));
        // The closure never refuses.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether there was enough for so many bytes.
    fn spend(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.fetch_sub(bytes, Ordering::Relaxed) >= bytes
    }
}

/// A connection that ends when its allowance is spent.
pub(super) struct Metered {
    stream: TokioIo<Stream>,
    allowance: Allowance,
}

impl Metered {
    pub fn new(stream: Stream, allowance: Allowance) -> Self {
        Self { stream: TokioIo::new(stream), allowance }
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        Poll::Ready(
            self.allowance
                .spend(read)
                .then_some(())
                .ok_or_else(|| io::Error::other("the server sends more beside its answers than they need")),
        )
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
