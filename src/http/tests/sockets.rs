//! Tests over real connections: behaviour that only a socket can show.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::http::server::connection::Patience;
use crate::http::server::crowd::Crowd;
use crate::http::server::serve_with;

pub struct Served {
    pub bench: Bench,
    pub address: SocketAddr,
    drain: CancellationToken,
    server: JoinHandle<()>,
}

pub async fn served(connections: usize, change: impl FnOnce(&mut Api)) -> Served {
    served_with(connections, Patience::default(), change).await
}

pub async fn served_with(connections: usize, patience: Patience, change: impl FnOnce(&mut Api)) -> Served {
    serve_all(connections, None, patience, change).await
}

/// Serves at most so many connections of one address.
pub async fn served_where(connections: usize, per_peer: Option<u32>, change: impl FnOnce(&mut Api)) -> Served {
    serve_all(connections, per_peer, Patience::default(), change).await
}

async fn serve_all(connections: usize, per_peer: Option<u32>, patience: Patience, change: impl FnOnce(&mut Api)) -> Served {
    let bench = Bench::with(change).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, drain) = (listener.local_addr().unwrap(), CancellationToken::new());
    let descriptors = Descriptors::new(1 << 20, u32::try_from(connections).unwrap());
    let crowd = Crowd::of_clients(&descriptors, Some(per_peer.unwrap_or(u32::MAX)));
    let work = serve_with(listener, router(bench.api.clone()), drain.clone(), Duration::from_secs(5), crowd, patience);
    let server = bench.api.service.tasks.spawn(work);
    Served { bench, address, drain, server }
}

impl Served {
    /// Sends these bytes, ends the sending side if asked to, and reads to the end.
    async fn exchange(&self, bytes: &[u8], end: bool) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        if end {
            stream.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn spooled(&self) -> usize {
        std::fs::read_dir(self.bench._dir.path().join("spool")).unwrap().count()
    }
}

fn upload_head(bytes: usize) -> Vec<u8> {
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=XX\r\nContent-Length: {bytes}\r\n\r\n"
    );
    head.into_bytes()
}

#[tokio::test]
async fn an_upload_whose_client_goes_away_leaves_nothing() {
    let served = served(10, |_| ()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let body = form(&[("purpose", None, b"batch"), ("file", Some("a"), &[b'x'; 2_500_000])]);
    stream.write_all(&upload_head(body.len())).await.unwrap();
    stream.write_all(&body[..2_000_000]).await.unwrap();
    while served.spooled() == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while served.spooled() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.bench.get("/v1/files").await.json()["data"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let served = served(10, |api| api.limits.body_idle = Duration::from_millis(50)).await;
    let mut bytes = upload_head(1_000);
    bytes.extend_from_slice(b"--XX\r\n");
    let answer = served.exchange(&bytes, false).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("incomplete_body"), "{answer}");
    let json = "POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    let answer = served.exchange(json.as_bytes(), false).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("incomplete_body"), "{answer}");
}

/// The parser would gather all of these bytes, and search them again with each piece.
#[tokio::test]
async fn what_lies_outside_the_fields_of_a_form_is_not_gathered() {
    let served = served(10, |_| ()).await;
    let header = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\nX: ".to_vec();
    for start in [Vec::new(), header] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let head = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reads, mut writes) = stream.into_split();
        // A body without an end: only the limit can answer.
        let sends = served.bench.api.service.tasks.spawn(async move {
            let mut piece = start;
            loop {
                piece.resize(10_000, b'x');
                let framed = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
                if writes.write_all(&framed).await.is_err() {
                    return;
                }
                piece.clear();
            }
        });
        let mut answer = vec![0; 2_000];
        let read = reads.read(&mut answer).await.unwrap();
        sends.abort();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("262144 bytes"), "{answer}");
    }
}

/// A client that sends its whole body before it reads must see why the body was refused, not a
/// reset.
#[tokio::test]
async fn an_upload_that_is_too_large_is_told_so_to_the_client_that_is_still_sending() {
    let served = served(10, |api| api.limits.max_file_bytes = 1_000).await;
    let mut bytes = upload_head(20_000_000);
    bytes.resize(bytes.len() + 20_000_000, b'x');
    let answer = served.exchange(&bytes, false).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("1000 bytes"), "{answer}");
    let mut asks = upload_head(100_000_000);
    asks.splice(25..25, *b"Expect: 100-continue\r\n");
    let answer = served.exchange(&asks, false).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn heads_have_a_limit_and_nonsense_is_not_answered_with_a_crash() {
    let served = served(10, |_| ()).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let _ = stream.write_all(long.as_bytes()).await;
    let answer = served.exchange(b"NONSENSE\r\n\r\n", true).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = served.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_lets_requests_finish() {
    let served = served(10, |_| ()).await;
    let silent = TcpStream::connect(served.address).await.unwrap();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    let mut busy = TcpStream::connect(served.address).await.unwrap();
    let body = form(&[("purpose", None, b"batch"), ("file", Some("a"), b"x")]);
    busy.write_all(&upload_head(body.len())).await.unwrap();
    busy.write_all(&body[..60]).await.unwrap();
    // The head has been read once the server has answered a client that came later.
    served.exchange(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", false).await;
    served.drain.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    busy.write_all(&body[60..]).await.unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    tokio::time::timeout(Duration::from_secs(4), served.server).await.expect("a silent connection held up the drain").unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
    drop(silent);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_that_is_busy() {
    let served = served(1, |_| ()).await;
    let mut first = TcpStream::connect(served.address).await.unwrap();
    let body = form(&[("purpose", None, b"batch"), ("file", Some("a"), b"x")]);
    let head = String::from_utf8(upload_head(body.len())).unwrap().replace("Connection: close\r\n", "");
    first.write_all(head.as_bytes()).await.unwrap();
    first.write_all(&body[..60]).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut waits = Box::pin(served.exchange(request, false));
    assert!(tokio::time::timeout(Duration::from_millis(1_500), waits.as_mut()).await.is_err());
    // The answer ends the connection, because another client waits.
    first.write_all(&body[60..]).await.unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(waits.await.starts_with("HTTP/1.1 200 "));
}

/// Whether the resting client has sent a request before or has never sent anything.
#[tokio::test]
async fn a_connection_that_rests_makes_room_for_another() {
    let served = served(3, |_| ()).await;
    let mut resting = Vec::new();
    for asks in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n"] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(asks).await.unwrap();
        if asks.starts_with(b"GET") {
            stream.read_exact(&mut [0; 12]).await.unwrap();
        }
        resting.push(stream);
    }
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut served_ones = Vec::new();
    for mut closed in resting {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        // The server closed the connection that had rested longest. If its client had begun to
        // send, the read may see a reset.
        let _ = closed.read_to_end(&mut Vec::new()).await;
        served_ones.push(stream);
    }
}

#[tokio::test]
async fn http_2_is_spoken_by_prior_knowledge() {
    let served = served(10, |_| ()).await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    served.bench.api.service.tasks.spawn(connection);
    let request = Request::get(format!("http://{}/v1/models", served.address)).body(Body::empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let foreign = Request::get("http://rebound.example/v1/models").body(Body::empty()).unwrap();
    assert_eq!(sender.send_request(foreign).await.unwrap().status(), 403);
}

#[tokio::test]
async fn an_http_2_connection_without_requests_is_closed() {
    let served = served_with(10, Patience { idle: Duration::from_millis(200), ..Patience::default() }, |_| ()).await;
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(served.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    let connection = served.bench.api.service.tasks.spawn(connection);
    let request = Request::get(format!("http://{}/healthz", served.address)).body(Body::empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    tokio::time::timeout(Duration::from_secs(5), connection).await.expect("the connection stays").unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_cut() {
    let served = served_with(10, Patience { write: Duration::from_millis(200), ..Patience::default() }, |_| ()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let requests = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1_000);
    let cut = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), cut).await.expect("the connection stays");
}

fn quote_head(bytes: usize) -> String {
    format!(
        "POST /v1/quotes/model HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_that_is_announced_and_does_not_come_keeps_no_room_from_others() {
    let served = served(40, |_| ()).await;
    let mut slow = Vec::new();
    for number in 0..20 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let begin = if number == 0 { " ".repeat(200 << 10) } else { "{".to_owned() };
        stream.write_all((quote_head(20 << 20) + &begin).as_bytes()).await.unwrap();
        slow.push(stream);
    }
    while served.spooled() == 0 {
        tokio::task::yield_now().await;
    }
    let body = r#"{"items":[{"customer_item_id":"a","model":"gpt-4o-mini","input":{"input":"hello"}}]}"#;
    let asked = quote_head(body.len()) + body;
    let answer = tokio::time::timeout(Duration::from_secs(20), served.exchange(asked.as_bytes(), false)).await;
    let answer = answer.expect("others wait for what has not come");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(served.spooled(), 1, "only what has come is on disk");
    assert_eq!(served.bench.api.descriptors.files_open(), 1, "its file has a place");
    drop(slow);
    while served.spooled() + served.bench.api.descriptors.files_open() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_http2_connection_has_few_streams() {
    let served = served(10, |_| ()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the settings come first");
    let mut settings = vec![0; usize::from(head[2]) + 256 * usize::from(head[1])];
    stream.read_exact(&mut settings).await.unwrap();
    let most =
        settings.chunks(6).find(|setting| setting[..2] == [0, 3]).map(|setting| u32::from_be_bytes(setting[2..6].try_into().unwrap()));
    assert_eq!(most, Some(32));
}
