//! A bound on what the parser of multipart forms holds in memory.
//!
//! The parser reads whatever the connection has, and keeps it until it finds the boundary or the
//! end of a part's header, searching all of it again each time. Here the parser gets no more than
//! it can hand on.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use http_body::Frame;

/// The most bytes that the parser may hold beyond those it handed on as content of fields.
pub const WINDOW: usize = 256 << 10;

/// Counts the bytes that the parser was given and did not hand on: what it holds, and what lay
/// between the fields so far.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicUsize>);

impl Gate {
    fn room(&self) -> usize {
        WINDOW.saturating_sub(self.0.load(Ordering::Relaxed))
    }

    /// Whether the parser gets no more bytes until a caller takes some from it.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Records that the parser has handed on this many bytes.
    pub fn taken(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A body behind a gate.
pub struct Gated {
    inner: Body,
    /// Bytes that arrived and did not fit.
    rest: Bytes,
    gate: Gate,
}

impl Gated {
    pub fn new(inner: Body, gate: Gate) -> Self {
        Self { inner, rest: Bytes::new(), gate }
    }
}

impl HttpBody for Gated {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let room = self.gate.room();
        if room == 0 {
            // No waker is needed: the caller that takes from the parser polls it again.
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = room.min(self.rest.len());
        let piece = self.rest.split_to(piece);
        self.gate.0.fetch_add(piece.len(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
