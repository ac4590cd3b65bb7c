//! The gate in front of hyper itself: both must see the same requests in the same bytes.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Mutex;

use axum::http::{Request, Response};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

const MAX_HEAD: usize = 8 << 10;

/// Bytes that arrive in pieces, and behind them the end of the connection.
struct Arriving<'a> {
    gate: Gate,
    pieces: Vec<&'a [u8]>,
    answered: &'a Mutex<u64>,
    refused: &'a Mutex<Option<u64>>,
    heads: &'a Mutex<u64>,
}

impl AsyncRead for Arriving<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { gate, pieces, answered, refused, heads } = &mut *self;
        let read = |_: &mut Context<'_>, buf: &mut ReadBuf<'_>| {
            if let Some(piece) = pieces.first_mut() {
                let (now, later) = piece.split_at(piece.len().min(buf.remaining()));
                buf.put_slice(now);
                *piece = later;
            }
            pieces.retain(|piece| !piece.is_empty());
            Poll::Ready(Ok(()))
        };
        let standing = || Standing { answered: *answered.lock().unwrap(), is_upgraded: false };
        let read = gate.poll_read(cx, buf, read, standing, |number, _| *refused.lock().unwrap() = Some(number));
        *heads.lock().unwrap() = gate.framing.heads();
        read
    }
}

impl AsyncWrite for Arriving<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What came of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The requests that hyper has seen.
    requests: Vec<String>,
    /// The heads that the gate has let pass.
    heads: u64,
    /// The number of the request that the gate has refused.
    refused: Option<u64>,
}

/// Sends these pieces through a gate to hyper, whose service reads each body to its end. Nothing
/// waits for anything from outside, so no runtime is needed.
fn pass(pieces: Vec<&[u8]>) -> Seen {
    let (answered, refused, heads, requests) = (Mutex::new(0), Mutex::new(None), Mutex::new(0), Mutex::new(Vec::new()));
    let arriving = Arriving { gate: Gate::new(MAX_HEAD), pieces, answered: &answered, refused: &refused, heads: &heads };
    let service = service_fn(|request: Request<Incoming>| {
        requests.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
        let answered = &answered;
        async move {
            // A body that is cut ends the connection; the request was seen all the same.
            let _ = request.into_body().collect().await;
            *answered.lock().unwrap() += 1;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    let mut connection = pin!(http.max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(arriving), service));
    let ended = (0..1_000).find_map(|_| connection.as_mut().now_or_never());
    assert!(ended.is_some(), "the connection waits");
    Seen { requests: requests.into_inner().unwrap(), heads: heads.into_inner().unwrap(), refused: refused.into_inner().unwrap() }
}

/// Parts of requests, good and bad, from which streams are put together. A body holds a request that
/// must stay hidden in it, and ends with a byte that begins no request.
fn part() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just("GET /a HTTP/1.1\r\nHost: a\r\n\r\n"),
        6 => Just("POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        6 => Just("POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\nab:"),
        4 => Just("23;x=y\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\nab:\r\n"),
        6 => Just("0\r\n\r\n"),
        2 => Just("0 \t;\r\nX: y\r\nY: z\r\n\r\n"),
        1 => Just("3\r\nabc\r\n"),
        1 => Just("GET /d HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n"),
        1 => Just("POST /e HTTP/1.1\r\n"),
        1 => Just("Host: a\r\n"),
        1 => Just("Content-Length: 4\r\n"),
        1 => Just("Transfer-Encoding: chunked\r\n"),
        1 => Just("Transfer-Encoding: identity\r\n"),
        1 => Just("Content-Length : 4\r\n"),
        1 => Just(" X: folded\r\n"),
        1 => Just("\r\n"),
        1 => Just("\n"),
        1 => Just("\r"),
        1 => Just(" "),
        1 => Just("0"),
        1 => Just("4\r\n"),
        1 => Just("0\r\nX: y\n\r\n\r\n"),
        1 => Just("ffffffffffffffffff\r\n"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// A disagreement would be a request that one of the two does not see, or sees in a body.
    #[test]
    fn hyper_sees_the_requests_that_were_checked_and_no_others(
        parts in prop::collection::vec(part(), 1..12),
        cuts in prop::collection::vec(1_usize..60, 0..12),
    ) {
        let bytes = parts.concat().into_bytes();
        let whole = pass(vec![&bytes]);
        let stand_ins = whole.requests.iter().filter(|request| *request == "GET /-").count();
        prop_assert_eq!((whole.requests.len() - stand_ins) as u64, whole.heads, "{:?}", &whole);
        prop_assert_eq!(stand_ins, usize::from(whole.refused.is_some()), "{:?}", &whole);
        if let Some(number) = whole.refused {
            prop_assert_eq!(number, whole.requests.len() as u64, "the fault is told in its place: {:?}", &whole);
        }
        let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
        for cut in cuts {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = later;
        }
        pieces.extend((!rest.is_empty()).then_some(rest));
        pieces.retain(|piece| !piece.is_empty());
        prop_assert_eq!(pass(pieces), whole, "the same bytes in pieces");
    }
}

/// hyper answers a head that is too long, and would find the request behind it.
#[test]
fn a_head_beyond_the_limit_does_not_pass_however_it_arrives() {
    let long = format!("GET /long HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX_HEAD));
    for piece in [1, 1_000, MAX_HEAD - 1, MAX_HEAD, MAX_HEAD + 1, usize::MAX] {
        let seen = pass(long.as_bytes().chunks(piece).collect());
        assert_eq!(seen, Seen { requests: Vec::new(), heads: 0, refused: None }, "in pieces of {piece}");
    }
}

/// Some clients of WebSockets send their first message along with the request for one.
#[test]
fn what_follows_an_upgrade_waits_for_the_answer_and_then_passes_as_it_is() {
    let asks = b"GET /d HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    let message = b"\x81\x04a\n\r\n\x00\x7f";
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for at in [asks.len(), asks.len() - 3, asks.len() + 2] {
        let whole = [&asks[..], &message[..]].concat();
        let mut pieces = vec![&whole[at..], &whole[..at]];
        let mut gate = Gate::new(MAX_HEAD);
        let mut passed = |is_upgraded| {
            let mut bytes = [0; 256];
            let mut buf = ReadBuf::new(&mut bytes);
            let read = |_: &mut Context<'_>, buf: &mut ReadBuf<'_>| match pieces.pop() {
                Some(piece) => {
                    buf.put_slice(piece);
                    Poll::Ready(Ok(()))
                }
                None => Poll::Pending,
            };
            let standing = || Standing { answered: u64::from(is_upgraded), is_upgraded };
            let _ = gate.poll_read(&mut cx, &mut buf, read, standing, |number, fault| panic!("{number}: {fault}"));
            buf.filled().to_vec()
        };
        assert_eq!(passed(false), asks, "cut at {at}");
        assert_eq!(passed(false), b"", "cut at {at}");
        assert_eq!(passed(true), message, "cut at {at}");
    }
}
