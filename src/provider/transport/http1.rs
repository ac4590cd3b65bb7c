//! One HTTP/1.1 connection, used by one call at a time.
//!
//! `ureq-proto`, which does no input or output, interprets the bytes of an answer; the code here
//! moves bytes between it and the stream. The connection has no task and no buffers of its own: the
//! call that waits for the answer polls it, and until bytes arrive it holds a few words. This makes
//! ten thousand calls in flight cheap.
//!
//! Invariant: a connection rests only if its last answer was read to its exact end, no bytes have
//! followed, and neither side has announced that it will close.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ureq_proto::BodyMode;
use ureq_proto::client::state::{RecvBody, RecvResponse};
use ureq_proto::client::{Call, RecvBodyResult, RecvResponseResult, SendRequestResult};

use super::connect::Stream;
use crate::provider::transport::exchange::{Failed, Head, Outgoing, TransportFault};

/// The longest head of an answer with all interim answers before it, and the most bytes around a
/// piece of its body, which trailers are too.
const MAX_HEAD: usize = 64 << 10;
/// The most headers of an answer.
const MAX_HEADERS: usize = 256;
/// The headers of an answer that are read, besides those of rate limits.
const READ_HEADERS: [&[u8]; 10] = [
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"location",
    b"request-id",
    b"retry-after",
    b"retry-after-ms",
    b"transfer-encoding",
    b"x-request-id",
];
/// Bytes read from a stream at once.
const READ: usize = 32 << 10;

thread_local! {
    /// The buffer that a read fills first: a waiting call has no buffer of its own for bytes to
    /// come.
    static ARRIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// An HTTP/1.1 connection.
pub(super) struct Own {
    stream: TokioIo<Stream>,
    /// The connection leads to a proxy that expects the whole URL.
    forwarded: bool,
    state: Http1State,
    /// The connection must not be reused, whatever the server says.
    closing: bool,
    /// Bytes that have arrived and are not parsed yet.
    arrived: BytesMut,
    /// Bytes that were parsed since the request, or the last piece of a body, and are a part of
    /// neither a head nor a body.
    passed_over: usize,
}

enum Http1State {
    /// Between two exchanges.
    Rest,
    Head(Box<Call<RecvResponse>>),
    Body(Box<Call<RecvBody>>),
    /// No further exchange is possible.
    Over,
}

/// A request that is not completely written yet.
struct Unwritten {
    head: Vec<u8>,
    request: Outgoing,
    written: usize,
}

impl Own {
    pub fn over(stream: Stream, forwarded: bool) -> Self {
        Self { stream: TokioIo::new(stream), forwarded, state: Http1State::Rest, closing: false, arrived: BytesMut::new(), passed_over: 0 }
    }

    /// Sends a request and waits for the head of the answer.
    pub async fn send(&mut self, request: Outgoing, host: &HeaderValue) -> Result<Head, Failed> {
        if !self.rest() {
            return Err(Failed { fault: TransportFault::Closed, unsent: Some(request) });
        }
        let call = answer_to_come().map_err(|fault| Failed { fault, unsent: None })?;
        self.state = Http1State::Head(Box::new(call));
        self.passed_over = 0;
        let head = head(&request, host, self.forwarded);
        let mut unwritten = Some(Box::new(Unwritten { head, request, written: 0 }));
        let answer = poll_fn(|cx| self.poll_head(&mut unwritten, cx)).await;
        let untouched = unwritten.filter(|unwritten| unwritten.written == 0);
        answer.map_err(|fault| Failed { fault, unsent: untouched.map(|unwritten| unwritten.request) })
    }

    /// Writes the rest of the request and reads the head of the answer, which may arrive before the
    /// request is complete.
    fn poll_head(&mut self, unwritten: &mut Option<Box<Unwritten>>, cx: &mut Context<'_>) -> Poll<Result<Head, TransportFault>> {
        let mut broken = None;
        if let Some(left) = unwritten {
            match self.poll_write(left, cx) {
                // The request is dropped here, with its body.
                Poll::Ready(Ok(())) => *unwritten = None,
                Poll::Ready(Err(error)) => broken = Some(TransportFault::from(error)),
                Poll::Pending => {}
            }
        }
        // A server that answers before it has the whole request cannot tell where the next one
        // begins.
        self.closing = unwritten.is_some();
        match (self.poll_answer(cx), broken) {
            (Poll::Ready(Ok(head)), _) => Poll::Ready(Ok(head)),
            (_, Some(fault)) => Poll::Ready(Err(fault)),
            (answer, None) => answer,
        }
    }

    fn poll_write(&mut self, left: &mut Unwritten, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let (head, body) = (&left.head, left.request.body());
        while left.written < head.len() + body.len() {
            let rest = &head[left.written.min(head.len())..];
            let body = &body[left.written.saturating_sub(head.len())..];
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write_vectored(cx, &[IoSlice::new(rest), IoSlice::new(body)]))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            left.written += written;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, TransportFault>> {
        loop {
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(TransportFault::Closed));
            }
            if let Some(head) = self.head()? {
                return Poll::Ready(Ok(head));
            }
            if self.passed_over + self.arrived.len() > MAX_HEAD {
                return Poll::Ready(Err(TransportFault::TooLong));
            }
        }
    }

    /// The head of the answer, once it is complete. Interim answers are skipped.
    fn head(&mut self) -> Result<Option<Head>, TransportFault> {
        let Http1State::Head(call) = &mut self.state else { return Err(TransportFault::Closed) };
        let answer = loop {
            // An alert of TLS: the server could make nothing of the request.
            if self.arrived.starts_with(&[0x15, 0x03]) {
                return Err(TransportFault::SpeaksTls);
            }
            let (used, answer) = match call.try_response(&self.arrived, false) {
                Err(ureq_proto::Error::HttpParseTooManyHeaders) => match shortened(&self.arrived)? {
                    Some((head, length)) => (length, call.try_response(&head, false)?.1),
                    None => return Ok(None),
                },
                tried => tried?,
            };
            self.arrived.advance(used);
            match answer {
                Some(answer) => break answer,
                None if used == 0 => return Ok(None),
                None => self.passed_over += used,
            }
            if self.passed_over > MAX_HEAD {
                return Err(TransportFault::TooLong);
            }
        };
        self.passed_over = 0;
        let Http1State::Head(call) = std::mem::replace(&mut self.state, Http1State::Over) else { return Err(TransportFault::Closed) };
        let mut announced = None;
        match call.proceed().ok_or(TransportFault::Closed)? {
            RecvResponseResult::RecvBody(call) => {
                if let BodyMode::LengthDelimited(length) = call.body_mode() {
                    announced = Some(length);
                }
                self.state = Http1State::Body(Box::new(call));
            }
            RecvResponseResult::Redirect(call) => self.answered(call.must_close_connection()),
            RecvResponseResult::Cleanup(call) => self.answered(call.must_close_connection()),
        }
        let (parts, ()) = answer.into_parts();
        Ok(Some(Head { status: parts.status, headers: parts.headers, announced }))
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, TransportFault>>> {
        loop {
            match self.piece() {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            let Http1State::Body(call) = &self.state else { return Poll::Ready(None) };
            let until_closed = call.body_mode() == BodyMode::CloseDelimited;
            match ready!(self.poll_read(cx)) {
                Ok(0) => {
                    self.state = Http1State::Over;
                    return Poll::Ready((!until_closed).then_some(Err(TransportFault::Closed)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// The part of the body that can be parsed without reading more. At the end of the body the
    /// exchange is over.
    fn piece(&mut self) -> Result<Option<Bytes>, TransportFault> {
        let Http1State::Body(call) = &mut self.state else { return Ok(None) };
        let mut made = 0;
        let mut piece = BytesMut::zeroed(self.arrived.len());
        while !self.arrived.is_empty() {
            let (used, some) = call.read(&self.arrived, &mut piece[made..])?;
            self.arrived.advance(used);
            made += some;
            self.passed_over = if some > 0 { 0 } else { self.passed_over + used };
            if used == 0 {
                break;
            }
        }
        if self.passed_over + self.arrived.len() > MAX_HEAD {
            return Err(TransportFault::TooLong);
        }
        let until_closed = call.body_mode() == BodyMode::CloseDelimited;
        if call.can_proceed() && !until_closed {
            let Http1State::Body(call) = std::mem::replace(&mut self.state, Http1State::Over) else { return Ok(None) };
            match call.proceed().ok_or(TransportFault::Closed)? {
                RecvBodyResult::Redirect(call) => self.answered(call.must_close_connection()),
                RecvBodyResult::Cleanup(call) => self.answered(call.must_close_connection()),
            }
        }
        piece.truncate(made);
        Ok(Some(piece.freeze()).filter(|piece| !piece.is_empty()))
    }

    /// Ends a complete exchange.
    fn answered(&mut self, must_close: bool) {
        self.state = if must_close || self.closing || !self.arrived.is_empty() { Http1State::Over } else { Http1State::Rest };
        // An emptied buffer would still keep room for the largest answer so far.
        self.arrived = BytesMut::new();
    }

    /// Reads the available bytes; 0 bytes at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        ARRIVED.with_borrow_mut(|arrived| {
            let mut arrived = ReadBuf::new(arrived);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut arrived))?;
            self.arrived.extend_from_slice(arrived.filled());
            Poll::Ready(Ok(arrived.filled().len()))
        })
    }

    /// Whether the connection can take another request. No task polls it until then, and it wakes
    /// none.
    pub fn rest(&mut self) -> bool {
        // An end of the stream or unexpected bytes at this point rule out further requests.
        matches!(self.state, Http1State::Rest) && self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// The lines of a head, its empty last line not included, and the length of the whole head; `None`
/// if it is not complete.
fn lines_of(arrived: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let (mut lines, mut start) = (Vec::new(), 0);
    for end in memchr::memchr_iter(b'\n', arrived) {
        let line = arrived[start..end].strip_suffix(b"\r").unwrap_or(&arrived[start..end]);
        start = end + 1;
        match line {
            [] => return Some((lines, start)),
            line => lines.push(line),
        }
    }
    None
}

/// A complete head with more headers than the parser takes, without those that nobody reads; and
/// the length of the head as it arrived.
fn shortened(arrived: &[u8]) -> Result<Option<(Vec<u8>, usize)>, TransportFault> {
    let Some((lines, length)) = lines_of(arrived) else { return Ok(None) };
    if lines.len() > MAX_HEADERS + 1 {
        return Err(TransportFault::TooManyHeaders);
    }
    let (status, headers) = lines.split_first().ok_or(TransportFault::Closed)?;
    let is_read = |line: &&&[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default().to_ascii_lowercase();
        READ_HEADERS.contains(&&*name) || memchr::memmem::find(&name, b"ratelimit").is_some()
    };
    let mut head = Vec::with_capacity(length);
    for line in std::iter::once(status).chain(headers.iter().filter(is_read)) {
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    Ok(Some((head, length)))
}

/// The head of a request as it is written; a forwarding proxy expects the whole URL.
fn head(request: &Request<Bytes>, host: &HeaderValue, forwarded: bool) -> Vec<u8> {
    let (method, url, length) = (request.method(), request.uri(), request.body().len());
    let whole = forwarded.then(|| url.to_string());
    let target = whole.as_deref().unwrap_or_else(|| url.path_and_query().map_or("/", PathAndQuery::as_str));
    let mut head = Vec::with_capacity(512);
    // The types of `http` let no value through that could break out of its line.
    let mut line = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| head.extend_from_slice(part));
        head.extend_from_slice(b"\r\n");
    };
    line(&[method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1"]);
    line(&[b"host: ", host.as_bytes()]);
    for (name, value) in request.headers() {
        line(&[name.as_str().as_bytes(), b": ", value.as_bytes()]);
    }
    if length > 0 || method != Method::GET {
        line(&[b"content-length: ", length.to_string().as_bytes()]);
    }
    line(&[]);
    head
}

/// The state that reads the answer. It is the same for every method used here: only answers to
/// `HEAD` and `CONNECT` are read differently. So it is made from the shortest request, and holds no
/// headers of the real request while that call waits.
fn answer_to_come() -> Result<Call<RecvResponse>, TransportFault> {
    let mut call = Call::new(Request::new(()))?.proceed();
    call.write(&mut [0; 64])?;
    match call.proceed()?.ok_or(TransportFault::Unwritable)? {
        SendRequestResult::RecvResponse(call) => Ok(call),
        SendRequestResult::SendBody(_) | SendRequestResult::Await100(_) => Err(TransportFault::Unwritable),
    }
}
