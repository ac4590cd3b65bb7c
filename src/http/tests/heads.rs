//! Heads that two programs may read differently, over real connections: refused, and nothing that
//! follows them is taken for a request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::sockets::{Served, served};
use super::*;

/// A request that would be answered, hidden behind each request at fault.
const HIDDEN: &str = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends the bytes in pieces, as a slow network would, and reads to the end.
async fn told(served: &Served, bytes: &[u8], piece: usize) -> String {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in bytes.chunks(piece) {
        // The server may have seen enough.
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of all answers, and the message of the last.
fn shown(answer: &str) -> String {
    let statuses: Vec<_> =
        answer.split("HTTP/1.1 ").skip(1).filter_map(|each| each.get(..3)).filter(|status| status.parse::<u16>().is_ok()).collect();
    let message = answer.rsplit_once("\"message\":\"").and_then(|(_, rest)| rest.split_once("\",\"")).map_or("", |(message, _)| message);
    format!("{} {message}", statuses.join(" "))
}

#[tokio::test]
async fn a_head_of_two_readings_is_refused_and_nothing_behind_it_is_read() {
    let served = served(10, |_| ()).await;
    let post = |headers: &str, body: &str| format!("POST /healthz HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}");
    let cases = [
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nhost: localhost\r\n\r\n".to_owned()),
        ("a host that is none", "GET /healthz HTTP/1.1\r\nHost: local host\r\n\r\n".to_owned()),
        ("a host with a user", "GET /healthz HTTP/1.1\r\nHost: a@localhost\r\n\r\n".to_owned()),
        ("a port that is none", "GET /healthz HTTP/1.1\r\nHost: localhost:70000\r\n\r\n".to_owned()),
        ("another host in the target", "GET http://localhost/healthz HTTP/1.1\r\nHost: other.localhost\r\n\r\n".to_owned()),
        ("a bare line feed", "GET /healthz HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n".to_owned()),
        ("bare line feeds alone", "GET /healthz HTTP/1.1\nHost: localhost\n\n".to_owned()),
        ("a bare line feed at the end", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n".to_owned()),
        ("a bare carriage return", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n".to_owned()),
        ("a NUL", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n".to_owned()),
        ("a folded line", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n".to_owned()),
        ("a space before the colon", post("Content-Length : 0\r\n", "")),
        ("a space in the name", post("Content Length: 0\r\n", "")),
        ("no name", post(": 0\r\n", "")),
        ("two spaces", "GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        ("no version", "GET /healthz\r\nHost: localhost\r\n\r\n".to_owned()),
        ("another version", "GET /healthz HTTP/1.2\r\nHost: localhost\r\n\r\n".to_owned()),
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}")),
        ("one length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}")),
        ("a list of lengths", post("Content-Length: 2, 2\r\n", "{}")),
        ("a length with a sign", post("Content-Length: +2\r\n", "{}")),
        ("no length", post("Content-Length:\r\n", "")),
        ("two codings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("an odd coding behind", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
        ("an odd coding before", post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("a list of codings", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("chunked not last", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("identity", post("Transfer-Encoding: identity\r\n", "0\r\n\r\n")),
        ("unknown", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        ("no coding", post("Transfer-Encoding:\r\n", "0\r\n\r\n")),
        ("a coding with a tab of its own", post("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n")),
        ("a coding and a length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        ("a length and a coding", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("a coding of HTTP/1.0", "POST /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned()),
        ("nonsense", "NONSENSE\r\n\r\n".to_owned()),
    ];
    let mut report = Vec::new();
    for (name, request) in &cases {
        let bytes = format!("{request}{HIDDEN}");
        let answer = told(&served, bytes.as_bytes(), usize::MAX).await;
        assert!(answer.to_ascii_lowercase().contains("connection: close\r\n") && answer.contains("x-request-id: req_"), "{name}: {answer}");
        for piece in [1, 7] {
            let again = told(&served, bytes.as_bytes(), piece).await;
            assert_eq!(shown(&again), shown(&answer), "{name}, in pieces of {piece}");
        }
        report.push(format!("{name}: {}", shown(&answer)));
    }
    insta::assert_snapshot!(report.join("\n"), @r#"
    no host: 400 `Host` is missing; a request of HTTP/1.1 names its host once
    two hosts: 400 `Host` stands there more than once; a request names its host once
    a host that is none: 400 `Host` must be a host name or an address, and a port if there is one, such as `batch.example.com:7400`
    a host with a user: 400 `Host` must be a host name or an address, and a port if there is one, such as `batch.example.com:7400`
    a port that is none: 400 `Host` must be a host name or an address, and a port if there is one, such as `batch.example.com:7400`
    another host in the target: 400 `Host` and the URL of the request name different hosts; send the same in both, or a path alone
    a bare line feed: 400 line 2 of the request's head ends with a line feed alone; every line must end with CR LF
    bare line feeds alone: 400 line 1 of the request's head ends with a line feed alone; every line must end with CR LF
    a bare line feed at the end: 400 line 3 of the request's head ends with a line feed alone; every line must end with CR LF
    a bare carriage return: 400 line 3 of the request's head holds the control character 0x0d; no line may hold one
    a NUL: 400 line 3 of the request's head holds the control character 0x00; no line may hold one
    a folded line: 400 line 4 of the request's head begins with a space: a header must stand on one line
    a space before the colon: 400 line 3 of the request's head is no header: a header is a name, a colon right behind it, and a value
    a space in the name: 400 line 3 of the request's head is no header: a header is a name, a colon right behind it, and a value
    no name: 400 line 3 of the request's head is no header: a header is a name, a colon right behind it, and a value
    two spaces: 400 the request line must be a method, a path and `HTTP/1.1`, with one space between them
    no version: 400 the request line must be a method, a path and `HTTP/1.1`, with one space between them
    another version: 400 the request line must be a method, a path and `HTTP/1.1`, with one space between them
    two lengths: 400 `Content-Length` must stand there once and be a whole number of bytes
    one length twice: 400 `Content-Length` must stand there once and be a whole number of bytes
    a list of lengths: 400 `Content-Length` must stand there once and be a whole number of bytes
    a length with a sign: 400 `Content-Length` must stand there once and be a whole number of bytes
    no length: 400 `Content-Length` must stand there once and be a whole number of bytes
    two codings: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    an odd coding behind: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    an odd coding before: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    a list of codings: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    chunked not last: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    identity: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    unknown: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    no coding: 400 `Transfer-Encoding` must stand there once and be `chunked`; no other coding is read
    a coding with a tab of its own: 400 line 3 of the request's head holds the control character 0x0b; no line may hold one
    a coding and a length: 400 `Transfer-Encoding` and `Content-Length` exclude each other; send one of them
    a length and a coding: 400 `Transfer-Encoding` and `Content-Length` exclude each other; send one of them
    a coding of HTTP/1.0: 400 `Transfer-Encoding` came with HTTP/1.0, which does not have it; send `Content-Length`, or use HTTP/1.1
    nonsense: 400 the request line must be a method, a path and `HTTP/1.1`, with one space between them
    "#);
}

/// Guards against answers that overtake others: the fault is that of its own request.
#[tokio::test]
async fn the_requests_before_one_at_fault_are_answered_first() {
    let served = served(10, |_| ()).await;
    let good = "POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n";
    let bytes = format!("{good}\r\n{HIDDEN}{good}GET /healthz HTTP/1.1\r\n\r\n{HIDDEN}");
    for piece in [1, 50, usize::MAX] {
        let answer = told(&served, bytes.as_bytes(), piece).await;
        assert_eq!(shown(&answer), "405 200 405 400 `Host` is missing; a request of HTTP/1.1 names its host once", "{answer}");
    }
}

#[tokio::test]
async fn what_has_one_reading_is_served() {
    let served = served(10, |_| ()).await;
    let close = "Connection: close\r\n\r\n";
    for request in [
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{close}"),
        format!("GET /healthz HTTP/1.1\r\nhOsT:localhost:80\r\n{close}"),
        format!("GET /healthz HTTP/1.1\r\nHost:\t[::1]:7400 \r\n{close}"),
        format!("GET /healthz HTTP/1.1\r\nHost: my_service.localhost:\r\n{close}"),
        format!("GET http://localhost:80/healthz HTTP/1.1\r\nHost: LOCALHOST:80\r\n{close}"),
        format!("\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \u{e9}\tau lait\r\nY:\r\n{close}"),
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\n{close}"),
        "GET /healthz HTTP/1.0\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n".to_owned(),
    ] {
        for piece in [1, usize::MAX] {
            let answer = told(&served, request.as_bytes(), piece).await;
            assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 OK\r\n"), "{request}: {answer}");
        }
    }
}

/// What an upgrade asked for was not given, so what follows is a request like any other.
#[tokio::test]
async fn a_request_behind_an_upgrade_that_was_not_given_is_checked() {
    let served = served(10, |_| ()).await;
    let asks = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    for piece in [1, usize::MAX] {
        let bytes = format!("{asks}{HIDDEN}{asks}GET /healthz HTTP/1.1\r\n\r\n{HIDDEN}");
        let answer = told(&served, bytes.as_bytes(), piece).await;
        assert_eq!(shown(&answer), "200 200 200 400 `Host` is missing; a request of HTTP/1.1 names its host once", "{answer}");
    }
}

#[tokio::test]
async fn a_host_of_http_2_does_not_differ_from_its_authority() {
    let served = served(10, |_| ()).await;
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(served.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    served.bench.api.service.tasks.spawn(connection);
    for (hosts, expected) in
        [(&[][..], 200), (&["localhost"], 200), (&["LOCALHOST"], 200), (&["other.localhost"], 400), (&["localhost", "localhost"], 400)]
    {
        let mut request = Request::get("http://localhost/healthz").body(Body::empty()).unwrap();
        for host in hosts {
            request.headers_mut().append("host", host.parse().unwrap());
        }
        assert_eq!(sender.send_request(request).await.unwrap().status(), expected, "{hosts:?}");
    }
}
