//! Who stays connected when more want to be: over real connections.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::sockets::{Served, served, served_where};
use super::*;
use crate::http::server::crowd::Crowd;
use crate::http::{probes, serve};

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// How long a connection is silent before it makes room, and a little.
const RESTED: Duration = Duration::from_millis(1_200);

async fn connect(served: &Served, sends: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(sends).await.unwrap();
    stream
}

/// Reads the beginning of an answer.
async fn answer(stream: &mut TcpStream) -> String {
    let mut head = vec![0; 4_096];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut head)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&head[..read]).into_owned()
}

async fn is_open(stream: &mut TcpStream) -> bool {
    match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut [0; 1_024])).await {
        Ok(Ok(read)) => read > 0,
        Ok(Err(_)) => false,
        Err(_) => true,
    }
}

fn keyed(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer one\r\n{more}\r\n").into_bytes()
}

/// Connections of clients with a key that are silent for long, one of each kind.
async fn keyed_silent(served: &Served) -> Vec<TcpStream> {
    let headers = [("authorization", "Bearer one"), ("content-type", "multipart/form-data; boundary=XX")];
    let file = form(&[("purpose", None, b"batch"), ("file", Some("in.jsonl"), b"{}\n")]);
    let file = served.bench.call("POST", "/v1/files", &headers, file).await.id();
    let order = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}).to_string();
    let headers = [headers[0], ("content-type", "application/json")];
    let batch = served.bench.call("POST", "/v1/batches", &headers, order).await.id();
    let upgrade =
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let asked = [
        (keyed(&format!("/v1/batches/{batch}/events"), ""), "200"),
        (keyed(&format!("/phaseo/v1/async/batch/{batch}/ws"), upgrade), "101"),
        (keyed("/v1/files", ""), "200"),
    ];
    let mut silent = Vec::new();
    for (asked, status) in asked {
        let mut stream = connect(served, &asked).await;
        let said = answer(&mut stream).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
        silent.push(stream);
    }
    silent
}

/// Whatever they have sent: nothing, a part of a head, all but a key, or HTTP/2 without a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_silent_sockets_keep_nobody_out_and_no_client_with_a_key_makes_room_for_them() {
    crate::descriptors::raise();
    let served = served(1_003, |api| api.access = Access::keys(&["one".into()])).await;
    let mut keyed_ones = keyed_silent(&served).await;
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let no_key = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n";
    let mut silent = Vec::new();
    for number in 0..1_000 {
        let sends: [&[u8]; 5] = [b"", b"GET /healthz HT", http2, no_key, HEALTH];
        silent.push(connect(&served, sends[number % 5]).await);
    }
    tokio::time::sleep(RESTED).await;
    let begun = tokio::time::Instant::now();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = connect(&served, &keyed("/v1/files", "")).await;
        let said = answer(&mut client).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        clients.push(client);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "20 clients waited {:?}", begun.elapsed());
    for (kind, stream) in ["feed", "WebSocket", "resting"].iter().zip(&mut keyed_ones) {
        assert!(is_open(stream).await, "the {kind} with a key made room");
    }
    drop(silent);
}

/// Bytes that are no request are no sign of life.
#[tokio::test(flavor = "multi_thread")]
async fn trickling_bytes_and_pings_put_off_nothing() {
    let served = served(2, |api| api.access = Access::keys(&["one".into()])).await;
    let mut trickling = connect(&served, b"GET /v1/files HTTP/1.1\r\nX: ").await;
    let mut pinging = connect(&served, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let goes_on = served.bench.api.service.tasks.spawn(async move {
        let ping = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";
        while trickling.write_all(b"x").await.is_ok() | pinging.write_all(ping).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    tokio::time::sleep(RESTED).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = connect(&served, &keyed("/v1/files", "")).await;
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200 "));
        clients.push(client);
    }
    tokio::time::timeout(Duration::from_secs(5), goes_on).await.expect("both were closed soon").unwrap();
}

/// A client from another address of this machine.
async fn connect_from_elsewhere(served: &Served, sends: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(served.address).await.unwrap();
    stream.write_all(sends).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_a_bound_within_which_its_own_connections_make_room() {
    let served = served_where(10, Some(3), |api| api.access = Access::keys(&["one".into()])).await;
    let mut events = keyed_silent(&served).await;
    let mut refused = connect(&served, b"").await;
    assert_eq!(answer(&mut refused).await, "", "all of the address are in use or were a moment ago");
    let mut elsewhere = connect_from_elsewhere(&served, HEALTH).await;
    assert!(answer(&mut elsewhere).await.starts_with("HTTP/1.1 200 "));
    tokio::time::sleep(RESTED).await;
    let mut instead = connect(&served, HEALTH).await;
    assert!(answer(&mut instead).await.starts_with("HTTP/1.1 200 "));
    let open = [is_open(&mut events[0]).await, is_open(&mut events[1]).await, is_open(&mut events[2]).await];
    assert_eq!(open, [true, true, false], "the one that rests made room, the feed and the WebSocket did not");
    assert!(is_open(&mut elsewhere).await, "another address makes no room for this one");
}

/// Nor do those who want to know how the daemon is doing have to wait, nor learn anything else.
#[tokio::test(flavor = "multi_thread")]
async fn probes_have_a_listener_of_their_own_that_answers_nothing_else() {
    let served = served(1, |_| ()).await;
    // The one place for clients is taken.
    let _busy = connect(&served, b"").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let crowd = Crowd::of_probes(&Descriptors::new(1 << 20, 1));
    let work = serve(listener, probes(served.bench.api.clone()), CancellationToken::new(), Duration::ZERO, crowd);
    served.bench.api.service.tasks.spawn(work);
    let silent = futures_util::future::join_all((0..16).map(|_| TcpStream::connect(address))).await;
    tokio::time::sleep(RESTED).await;
    for (asked, status, says) in [
        ("GET /healthz", "200", "ok"),
        ("GET /readyz", "200", "ready"),
        ("GET /readyz?verbose=true", "200", "ready"),
        ("HEAD /healthz", "200", ""),
        ("POST /healthz", "405", "GET,HEAD"),
        ("GET /", "404", "only `GET /healthz`"),
        ("GET /v1/files", "404", "only `GET /healthz`"),
        ("GET /metrics", "404", "only `GET /healthz`"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{asked} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")) && said.contains(says), "{asked}: {said}");
        assert!(!said.contains("descriptors") && !said.contains("catalog"), "{said}");
    }
    drop(silent);
}
