//! The pace at which the client of an HTTP/2 stream takes its answer; a stream whose client takes
//! nothing is reset.
//!
//! hyper asks a body for more only when the stream's window is open, so that a body cannot end such
//! a stream itself. Here the task of the stream is ended instead. A client takes a byte when the
//! byte is written to the connection: until then it is in the body's data, wherever hyper and h2
//! keep that. An HTTP/1.1 connection has one answer at a time, and its writes are limited
//! ([`super::connection`]).

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, sleep_until};

tokio::task_local! {
    /// The pace of the stream that the current task serves.
    static PACE: Arc<Pace>;
}

/// Runs each stream of an HTTP/2 connection as a task, until its client has taken nothing for so
/// long.
#[derive(Debug, Clone, Copy)]
pub struct Streams(pub Duration);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let (pace, limit) = (Arc::new(Pace::new()), self.0);
        TokioExecutor::new().execute(PACE.scope(pace.clone(), async move {
            tokio::select! {
                biased;
                _ = stream => {}
                () = pace.stalls(limit) => tracing::debug!(seconds = limit.as_secs(), "a stream was reset: its client reads nothing"),
            }
        }));
    }
}

/// How far the client of a stream has taken its answer.
#[derive(Debug)]
struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Bytes that were handed over and are not written yet.
    untaken: usize,
    /// There is more for the client, who has not asked for it.
    has_more: bool,
    /// Since when the client has taken nothing, if there is anything to take.
    since: Instant,
    /// Waits until everything is taken.
    waits: Option<Waker>,
}

impl Pace {
    fn new() -> Self {
        Self(Mutex::new(State { untaken: 0, has_more: false, since: Instant::now(), waits: None }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the client could have taken bytes for this long, and has taken none.
    async fn stalls(&self, limit: Duration) {
        loop {
            let state = {
                let state = self.state();
                (state.untaken > 0 || state.has_more).then_some(state.since)
            };
            let now = Instant::now();
            let due = state.unwrap_or(now) + limit;
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }

    /// Records that bytes were handed over.
    fn given(&self, bytes: usize) {
        let mut state = self.state();
        state.untaken += bytes;
        (state.has_more, state.since) = (true, Instant::now());
    }

    /// Records that the client has all that there is at this moment.
    fn asked(&self) {
        self.state().has_more = false;
    }

    fn is_taken(&self) -> bool {
        self.state().untaken == 0
    }

    fn poll_taken(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        state.has_more = false;
        if state.untaken == 0 {
            return Poll::Ready(());
        }
        state.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Records that bytes are taken, or were dropped.
    fn gone(&self, bytes: usize, taken: bool) {
        let waits = {
            let mut state = self.state();
            state.untaken = state.untaken.saturating_sub(bytes);
            if taken {
                state.since = Instant::now();
            }
            if state.untaken == 0 { state.waits.take() } else { None }
        };
        if let Some(waits) = waits {
            waits.wake();
        }
    }
}

/// The body of an answer, watched if it belongs to a stream.
pub struct Paced<B> {
    body: B,
    pace: Option<Arc<Pace>>,
    ended: bool,
}

impl<B> Paced<B> {
    /// Watches this body if the current task serves a stream.
    pub fn new(body: B) -> Self {
        Self { body, pace: PACE.try_with(Arc::clone).ok(), ended: false }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Paced<B> {
    type Data = Given;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Given>, B::Error>>> {
        let frame = if self.ended { Poll::Ready(None) } else { Pin::new(&mut self.body).poll_frame(cx) };
        let Some(pace) = self.pace.clone() else {
            return frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(|data| Given { data, pace: None }))));
        };
        match frame {
            Poll::Pending => {
                pace.asked();
                Poll::Pending
            }
            // The stream's task ends with the body, and must not end before everything is taken.
            Poll::Ready(None) => {
                self.ended = true;
                ready!(pace.poll_taken(cx));
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame.map(|frame| {
                frame.map_data(|data| {
                    pace.given(data.len());
                    Given { data, pace: Some(pace) }
                })
            }))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.pace.as_ref().is_none_or(|pace| pace.is_taken())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of a body that tell when they are taken.
#[derive(Debug)]
pub struct Given {
    data: Bytes,
    pace: Option<Arc<Pace>>,
}

impl Buf for Given {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn advance(&mut self, bytes: usize) {
        self.data.advance(bytes);
        if let Some(pace) = &self.pace {
            pace.gone(bytes, true);
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(pace) = &self.pace
            && !self.data.is_empty()
        {
            pace.gone(self.data.len(), false);
        }
    }
}
