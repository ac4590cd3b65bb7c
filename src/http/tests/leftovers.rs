//! Bodies that no handler reads, or none reads to the end: on no route may such a body destroy an
//! answer or the next request of its connection.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::sockets::{Served, served};
use super::*;
use crate::http::Origins;
use crate::http::router::every;

/// Connections at the same time.
const SIDE_BY_SIDE: usize = 200;
/// The longest wait for the next piece of a body.
const BODY_IDLE: Duration = Duration::from_millis(400);

/// When a client sends the body of its request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// With the head.
    Early,
    /// A little later.
    Late,
    /// Once it has read the head of the answer.
    Answered,
    /// When the client is asked to continue; never if it is not asked.
    Asked,
    /// Only half of it.
    Half,
}

/// A body: the name of the case, its framing, and the bytes behind the head.
fn bodies() -> Vec<(&'static str, String, Vec<u8>)> {
    let length = |bytes: usize| format!("Content-Length: {bytes}\r\n");
    let long = format!("{{\"long\":\"{}\"}}", "x".repeat(300_000));
    let chunked = |body: &str| {
        let pieces = body.as_bytes().chunks(40_000).map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        [pieces.collect::<Vec<_>>().concat(), b"0\r\n\r\n".to_vec()].concat()
    };
    let coded = || "Transfer-Encoding: chunked\r\n".to_owned();
    vec![
        ("none", String::new(), Vec::new()),
        ("empty", length(0), Vec::new()),
        ("short", length(2), b"{}".to_vec()),
        ("chunked", coded(), chunked("{}")),
        ("oversized", length(long.len()), long.clone().into_bytes()),
        ("oversized chunked", coded(), chunked(&long)),
    ]
}

/// Every route of the table with each of its methods, and requests that are answered before any
/// route.
fn targets() -> Vec<(String, String, &'static str)> {
    let mut targets = Vec::new();
    for (path, route) in every() {
        for method in route.listed_methods().split(", ") {
            targets.push((method.to_owned(), path.replace(['{', '}', '*'], ""), "localhost"));
        }
    }
    for (method, path, host) in [
        ("HEAD", "/v1/models", "localhost"),
        ("POST", "/nowhere", "localhost"),
        ("PUT", "/v1/models", "localhost"),
        ("OPTIONS", "/v1/files", "localhost"),
        ("POST", "/v1/files", "rebound.example"),
        ("GET", "/test/panic", "localhost"),
    ] {
        targets.push((method.to_owned(), path.to_owned(), host));
    }
    targets
}

struct Answer {
    status: u16,
    closes: bool,
}

/// A client's side of a connection.
struct RawConnection(BufReader<TcpStream>);

impl RawConnection {
    async fn to(served: &Served) -> Self {
        Self(BufReader::new(TcpStream::connect(served.address).await.unwrap()))
    }

    /// Reads the head of an answer, and the bytes that follow, as a number or as chunks.
    async fn head(&mut self) -> Result<(Answer, Option<usize>), String> {
        let (mut status, mut closes, mut length) = (0, false, Some(0));
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).await.map_err(|error| format!("no answer: {error}"))?;
            if read == 0 {
                return Err("the connection was closed without an answer".to_owned());
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                None if line.is_empty() => return Ok((Answer { status, closes }, length)),
                None => status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(line)?,
                Some(("connection", "close")) => closes = true,
                Some(("content-length", bytes)) => length = Some(bytes.parse().unwrap()),
                Some(("transfer-encoding", "chunked")) => length = None,
                Some(_) => {}
            }
        }
    }

    async fn skip(&mut self, length: Option<usize>) -> Result<(), String> {
        let cut = |error: std::io::Error| format!("a cut answer: {error}");
        if let Some(length) = length {
            return self.0.read_exact(&mut vec![0; length]).await.map(drop).map_err(cut);
        }
        loop {
            let mut size = String::new();
            self.0.read_line(&mut size).await.map_err(cut)?;
            let size = usize::from_str_radix(size.trim_end(), 16).map_err(|error| error.to_string())?;
            self.0.read_exact(&mut vec![0; size + 2]).await.map_err(cut)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Sends a request and reads the answer to its end.
    async fn exchange(&mut self, head: &str, body: &[u8], when: When) -> Result<Answer, String> {
        let unsent = |error: std::io::Error| format!("cannot send: {error}");
        let bodiless = head.starts_with("HEAD ");
        let at_once = if when == When::Early { body } else { b"" };
        let whole = [head.as_bytes(), at_once].concat();
        // The client sends all that it has, whatever arrives meanwhile.
        self.0.get_mut().write_all(&whole).await.map_err(unsent)?;
        match when {
            When::Late => {
                // The test forces no order here: either order must work.
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.0.get_mut().write_all(body).await.map_err(unsent)?;
            }
            When::Half => self.0.get_mut().write_all(&body[..body.len() / 2]).await.map_err(unsent)?,
            When::Early | When::Answered | When::Asked => {}
        }
        let (mut answer, mut length) = self.head().await?;
        if answer.status == 100 {
            assert_eq!(when, When::Asked, "nobody has asked");
            self.0.get_mut().write_all(body).await.map_err(unsent)?;
            (answer, length) = self.head().await?;
        }
        if when == When::Answered {
            self.0.get_mut().write_all(body).await.map_err(unsent)?;
        }
        self.skip(if bodiless { Some(0) } else { length }).await?;
        Ok(answer)
    }

    /// Sends a second request, unless the answer says that the connection closes: then it must
    /// close, and not by a reset.
    async fn goes_on(mut self, first: &Answer) -> Result<(), String> {
        if first.closes {
            let mut rest = Vec::new();
            let end = self.0.read_to_end(&mut rest).await;
            return match end {
                Ok(0) => Ok(()),
                other => Err(format!("instead of an end: {other:?}")),
            };
        }
        let second = self.exchange("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", When::Early).await;
        match second {
            Ok(Answer { status: 200, .. }) => Ok(()),
            Ok(Answer { status, .. }) => Err(format!("the next request was answered with {status}")),
            Err(lost) => Err(format!("the next request was lost: {lost}")),
        }
    }
}

async fn served_for_bodies(body_idle: Duration) -> Served {
    served(SIDE_BY_SIDE + 10, |api| {
        api.limits.body_idle = body_idle;
        api.access = Access::open().with_origins(Origins::Listed(vec!["http://tools.example".into()]));
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_behind_a_body_that_nobody_wants() {
    let served = served_for_bodies(BODY_IDLE).await;
    let mut cases = Vec::new();
    for (method, path, host) in targets() {
        for (name, framing, body) in bodies() {
            for when in [When::Early, When::Late, When::Answered, When::Asked, When::Half] {
                let whole_at_once = body.is_empty() && when != When::Early;
                // A handler that never gets its whole body can only give up.
                if whole_at_once || (when == When::Half && name != "short") {
                    continue;
                }
                let expect = if when == When::Asked { "Expect: 100-continue\r\n" } else { "" };
                let head = format!(
                    "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://tools.example\r\nContent-Type: application/json\r\n{expect}{framing}\r\n"
                );
                cases.push((format!("{method} {path}: {name}, {when:?}"), head, body.clone(), when));
            }
        }
    }
    let total = cases.len();
    let tried = futures_util::stream::iter(cases).map(|(case, head, body, when)| {
        let served = &served;
        async move {
            let mut line = RawConnection::to(served).await;
            let first = line.exchange(&head, &body, when).await.map_err(|error| format!("{case}: {error}"))?;
            line.goes_on(&first).await.map_err(|error| format!("{case}: after {}: {error}", first.status))?;
            Ok((when, first.closes))
        }
    });
    let results: Vec<Result<_, String>> = tried.buffer_unordered(SIDE_BY_SIDE).collect().await;
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {total}, such as {:#?}", failed.len(), &failed[..failed.len().min(10)]);
}

/// A body that is small enough to be read is no reason to close, and a body that need not be read
/// is not requested.
#[tokio::test]
async fn a_connection_closes_only_where_it_must() {
    let served = served_for_bodies(BODY_IDLE).await;
    let mut seen = BTreeMap::new();
    for (name, framing, body) in bodies() {
        for when in [When::Early, When::Late, When::Asked] {
            let expect = if when == When::Asked { "Expect: 100-continue\r\n" } else { "" };
            let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{expect}{framing}\r\n");
            let answer = RawConnection::to(&served).await.exchange(&head, &body, when).await.unwrap();
            seen.insert(format!("{name}, {when:?}"), answer.closes);
        }
    }
    insta::assert_debug_snapshot!(seen);
    let kept = "GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nContent-Length: 300000\r\n\r\n";
    let mut line = RawConnection::to(&served).await;
    let answer = line.exchange(kept, b"", When::Early).await.unwrap();
    assert!(answer.closes);
    line.goes_on(&answer).await.unwrap();
}

/// A request that hyper itself refuses is refused visibly: the client sees why, though it is still
/// sending.
#[tokio::test]
async fn a_head_that_is_too_long_is_told_so() {
    let served = served_for_bodies(BODY_IDLE).await;
    let mut line = RawConnection::to(&served).await;
    let head = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(3_000_000));
    let answer = line.exchange(&head, b"", When::Early).await.unwrap();
    assert!(matches!(answer.status, 414 | 431) && answer.closes, "{}", answer.status);
    line.goes_on(&answer).await.unwrap();
}

/// More bytes than the window of the whole connection are left unread, one stream after another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_nobody_wants_costs_no_other_stream_of_http_2() {
    let served = served_for_bodies(Duration::from_secs(60)).await;
    let io = TokioIo::new(TcpStream::connect(served.address).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = served.bench.api.service.tasks.spawn(connection);
    let url = |path: &str| format!("http://localhost{path}");

    // Open throughout: an upload whose pieces arrive now and then.
    let (feed, fed) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = StreamBody::new(futures_util::stream::unfold(fed, |mut fed| async move {
        let piece = fed.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece)), fed))
    }));
    let request =
        Request::post(url("/v1/files")).header("content-type", "multipart/form-data; boundary=XX").body(BodyExt::boxed(body)).unwrap();
    let upload = served.bench.api.service.tasks.spawn(sender.clone().send_request(request));
    let form = form(&[("purpose", None, b"batch"), ("file", Some("a"), b"x")]);
    feed.send(Bytes::copy_from_slice(&form[..40])).await.unwrap();

    let long = Bytes::from(format!("{{\"long\":\"{}\"}}", "x".repeat(300_000)));
    let short = Bytes::from_static(b"{}");
    for (method, path, host) in targets() {
        for body in [&short, &long] {
            let late = StreamBody::new(
                futures_util::stream::iter(body.chunks(16_000).map(Bytes::copy_from_slice).collect::<Vec<_>>()).then(|piece| async move {
                    tokio::task::yield_now().await;
                    Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece))
                }),
            );
            let target = if host == "localhost" { url(&path) } else { format!("http://{host}{path}") };
            let request = Request::builder().method(method.as_str()).uri(target).header("content-type", "application/json");
            let answer = sender.clone().send_request(request.body(BodyExt::boxed(late)).unwrap()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
            assert!(!answer.headers().contains_key("connection"));
            answer.into_body().collect().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        }
    }
    feed.send(Bytes::copy_from_slice(&form[40..])).await.unwrap();
    drop(feed);
    assert_eq!(upload.await.unwrap().unwrap().status(), 200);
    drop(sender);
    connection.await.unwrap().unwrap();
}
