//! The course of a connection's requests and answers: whether it is owed anything, how long it has
//! rested, whose it is, and whether it was asked to make room. Not here: its bytes
//! ([`super::connection`]), and which connection is asked ([`super::crowd`]).

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Response, StatusCode};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::gate::Standing;
use super::pace::{Given, Paced};
use crate::http::layers::admission::Admission;
use crate::http::layers::head_fault::HeadFault;
use crate::http::layers::request_body::Unread;

/// How long a connection that makes room for another may take to close in an orderly way.
const LEAVES_WITHIN: Duration = Duration::from_millis(200);

/// Every byte that arrived belongs to an answered request.
const ANSWERED: u8 = 0;
/// Bytes arrived that no answer covers, or an answer was made before all of its request arrived.
const OWED: u8 = 1;
/// The connection has become a WebSocket, which closes in its own way.
const UPGRADED: u8 = 2;

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
    admission: Admission,
}

#[derive(Debug, Clone, Copy)]
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
            admission: Admission::default(),
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    /// Records which version of HTTP the client speaks.
    pub fn speaks(&self, http2: bool) {
        self.http2.store(http2, Ordering::Relaxed);
    }

    /// Whether a caller of this connection may call, as the layers find out.
    pub fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Records why the request with this number, from 1, cannot be taken. Only one head can be at
    /// fault: nothing passes behind it.
    pub fn refuses(&self, number: u64, fault: HeadFault) {
        let _ = self.refused.set((number, fault));
    }

    /// Whether an answer was made before all of its request arrived, or bytes are not answered.
    pub fn is_owed(&self) -> bool {
        self.state() == OWED
    }

    fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Records that bytes have arrived.
    pub fn reads(&self) {
        if !self.is_http2() && self.state() == ANSWERED {
            self.state.store(OWED, Ordering::Relaxed);
        }
    }

    /// Records that a request has begun.
    pub fn begins(self: &Arc<Self>) -> Exchange {
        self.times().began = Instant::now();
        self.running.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Exchange(self.clone())
    }

    /// What is wrong with the head of the request that has just begun. With HTTP/1.1, requests begin
    /// in the order in which their heads have arrived.
    pub fn fault(&self) -> Option<HeadFault> {
        let (number, fault) = self.refused.get()?;
        (*number == self.begun.load(Ordering::Relaxed)).then_some(*fault)
    }

    /// What the exchanges have come to.
    pub fn standing(&self) -> Standing {
        Standing { answered: self.answered.load(Ordering::Relaxed), is_upgraded: self.state() == UPGRADED }
    }

    /// Since when the connection has had nothing to do; `None` while it has, and once it was asked
    /// to close.
    pub fn resting_since(&self) -> Option<Instant> {
        let answered = self.running.load(Ordering::Relaxed) == 0 && (self.is_http2() || self.state() == ANSWERED);
        (answered && !self.is_leaving()).then(|| self.times().ended)
    }

    /// Since when nothing has begun or ended on a connection of which no request came from a caller
    /// who may call; `None` if one did, and once the connection was asked to close.
    pub fn stranger_since(&self) -> Option<Instant> {
        let Times { began, ended } = *self.times();
        (!self.admission.is_granted() && !self.is_leaving()).then(|| began.max(ended))
    }

    /// Whether the connection was asked to make room.
    pub fn is_leaving(&self) -> bool {
        self.leaves.load(Ordering::Relaxed)
    }

    /// Returns when a connection that was asked to make room has had a moment for it, and no caller
    /// who may call has a request under way: a client that answers nothing would never let it close.
    pub async fn overstays(&self) {
        loop {
            tokio::time::sleep(LEAVES_WITHIN).await;
            let serves = self.admission.is_granted() && self.running.load(Ordering::Relaxed) > 0;
            if self.is_leaving() && !serves {
                return;
            }
        }
    }

    /// Asks the connection to close once it has nothing to do for a caller who may call.
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
    pub async fn idle(&self, limit: Duration) {
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
pub struct Exchange(Arc<Course>);

impl Exchange {
    /// Records that the answer begins.
    pub fn answered<B>(self, mut response: Response<B>) -> Response<Ending<B>> {
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
pub struct Ending<B> {
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
