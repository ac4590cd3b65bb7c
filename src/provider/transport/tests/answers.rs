//! HTTP/1.1 answers in every form that servers send, whole and byte by byte.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// A running server; it stops when dropped.
struct Server {
    url: String,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

/// Sends `answer` to each request, in pieces of this many bytes, and then closes if `close` is set.
/// Counts its connections.
async fn serve(answer: &'static [u8], piece: usize, close: bool) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            stream.set_nodelay(true).unwrap();
            let mut request = [0; 1_024];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                for piece in answer.chunks(piece) {
                    if stream.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                if close {
                    break;
                }
            }
        }
    });
    Server { url, connections, _task: task }
}

/// Two calls, one after the other: the second answer, and how many connections there were.
async fn twice(answer: &'static [u8], piece: usize, close: bool) -> Result<(u16, Bytes, usize), String> {
    let server = serve(answer, piece, close).await;
    let url = &server.url;
    let transport = Transport::open("p", &connection(url, limits(20_000), 1_000), &Matcher::builder().build(), &enough()).unwrap();
    post(&transport, url).await.map_err(|error| error.to_string())?;
    let received = post(&transport, url).await.map_err(|error| error.to_string())?;
    Ok((received.status.as_u16(), received.body, server.connections.load(SeqCst)))
}

type Case = (&'static [u8], bool, u16, &'static [u8], usize);

#[tokio::test]
async fn every_form_of_an_answer_is_understood() {
    // What the server sends, whether it closes then, what that means, and whether it can be called
    // again.
    let table: [Case; 13] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", false, 200, b"hello", 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, 200, b"", 1),
        (b"HTTP/1.1 200\r\nContent-Length:5\r\n\r\nhello", false, 200, b"hello", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", false, 204, b"", 1),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", false, 200, b"hello", 1),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", false, 200, b"hello", 1),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", false, 200, b"", 1),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 429 Slow\r\ncontent-length: 2\r\n\r\n{}",
            false,
            429,
            b"{}",
            1,
        ),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", false, 200, b"hello", 2),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", false, 200, b"hello", 2),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello", false, 200, b"hello", 1),
        (b"HTTP/1.1 200 OK\r\n\r\nhello to the end", true, 200, b"hello to the end", 2),
        (b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /y\r\ncontent-length: 3\r\n\r\nthe", false, 307, b"the", 1),
    ];
    for (answer, close, status, body, connections) in table {
        for piece in [1_000, 1, 7] {
            let received = twice(answer, piece, close).await;
            let text = String::from_utf8_lossy(answer);
            assert_eq!(received, Ok((status, Bytes::from_static(body), connections)), "{text:?} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_interruption_and_says_why() {
    let table: [(&[u8], &str); 7] = [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", "closed before the answer was complete"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", "content-length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nhello", "content-length"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\nhello\r\n", "chunk length"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello", "closed before the answer was complete"),
        (b"HTTP/1.1 200 OK\r\n", "closed before the answer was complete"),
    ];
    for (answer, reason) in table {
        for piece in [1_000, 1] {
            let error = twice(answer, piece, true).await.unwrap_err();
            assert!(error.contains(reason), "{:?}: {error}", String::from_utf8_lossy(answer));
        }
    }
    static ENDLESS: [u8; 70_000] = [b'x'; 70_000];
    let head: &'static [u8] = [&b"HTTP/1.1 200 OK\r\nx: "[..], &ENDLESS].concat().leak();
    assert!(twice(head, 9_000, false).await.unwrap_err().contains("the head of the answer is too long"));
}

/// Sends `head` and then `piece` again and again; how the call ends, and how much was sent.
async fn endless(head: &'static [u8], piece: &'static [u8]) -> (String, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 20]).await.unwrap();
        let piece = piece.repeat(1 + 10_000 / piece.len());
        stream.write_all(head).await.unwrap();
        while count.load(SeqCst) < 64 << 20 && stream.write_all(&piece).await.is_ok() {
            count.fetch_add(piece.len(), SeqCst);
        }
    });
    let transport = Transport::open("p", &connection(&url, limits(20_000), 1_000), &Matcher::builder().build(), &enough()).unwrap();
    let error = post(&transport, &url).await.unwrap_err().to_string();
    drop(transport);
    let _ = server.join_next().await;
    (error, sent.load(SeqCst))
}

#[tokio::test]
async fn what_is_around_an_answer_has_an_end() {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n";
    for (head, piece) in
        [(&b""[..], &b"HTTP/1.1 100 Continue\r\n\r\n"[..]), (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"), (CHUNKED, b"x: y\r\n")]
    {
        let (error, sent) = endless(head, piece).await;
        assert!(error.contains("the head of the answer is too long"), "{error}");
        // What the kernel takes off the server's hands is not read.
        assert!(sent < 32 << 20, "{sent} bytes of {:?}", String::from_utf8_lossy(piece));
    }
}

#[tokio::test]
async fn a_head_may_have_many_headers_but_not_any_number() {
    let answer = |headers: usize| -> &'static [u8] {
        let more: String = (0..headers - 2).map(|n| format!("X-Header-{n}: {n}\r\n")).collect();
        format!("HTTP/1.1 429 Slow\r\n{more}Retry-After: 7\r\nContent-Length: 5\r\n\r\nhello").into_bytes().leak()
    };
    for headers in [127, 129, 256] {
        for piece in [100_000, 97] {
            assert_eq!(twice(answer(headers), piece, false).await, Ok((429, Bytes::from_static(b"hello"), 1)), "{headers}");
        }
    }
    assert!(twice(answer(257), 100_000, false).await.unwrap_err().contains("more than 256 headers"));
}

#[tokio::test]
async fn a_coded_answer_is_decoded_and_bounded() {
    let plain = vec![b' '; 1_000];
    let coded = zstd::bulk::compress(&plain, 1).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: zstd\r\ncontent-length: {}\r\n\r\n", coded.len());
    let answer: &'static [u8] = [head.as_bytes(), &coded].concat().leak();
    assert_eq!(twice(answer, 7, false).await, Ok((200, plain.into(), 1)));
    let server = serve(answer, 1_000, false).await;
    let small = Transport::open("p", &connection(&server.url, limits(20_000), 999), &Matcher::builder().build(), &enough()).unwrap();
    assert!(matches!(post(&small, &server.url).await, Err(CallError::TooLarge { .. })));
    let lie = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello";
    assert!(twice(lie, 1_000, false).await.unwrap_err().contains("cannot be decoded"));
}

#[tokio::test]
async fn large_answers_that_stall_share_their_room() {
    const SIZE: usize = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let (count, go_on) = (sent.clone(), Arc::new(tokio::sync::Semaphore::new(0)));
    let last = go_on.clone();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (count, last) = (count.clone(), last.clone());
            connections.spawn(async move {
                stream.read_exact(&mut [0; 20]).await.unwrap();
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
                for _ in 0..SIZE / 65_536 - 1 {
                    stream.write_all(&[b' '; 65_536]).await.unwrap();
                    count.fetch_add(65_536, SeqCst);
                }
                let _ = last.acquire().await;
                stream.write_all(&[b' '; 65_536]).await.unwrap();
                while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    let open = Transport::open("p", &connection(&url, limits(20_000), SIZE as u64), &Matcher::builder().build(), &enough());
    let transport = Arc::new(open.unwrap().within(AnswerRoom::new(16 << 20)));
    let mut calls = JoinSet::new();
    for _ in 0..12 {
        let (transport, url) = (transport.clone(), url.clone());
        calls.spawn(async move { post(&transport, &url).await.map(|received| received.body.len()) });
    }
    // All answers stall before their last bytes, or wait for room.
    let mut before = usize::MAX;
    while before != sent.load(SeqCst) {
        before = sent.load(SeqCst);
        sleep(Duration::from_millis(300)).await;
    }
    // Without a bound, the whole 96 MiB arrive; what the kernel buffers is more than is read.
    assert!(before < 80 << 20, "{before}");
    go_on.add_permits(100);
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.unwrap().unwrap(), SIZE);
    }
}

#[tokio::test]
async fn a_call_whose_connection_is_slow_to_open_takes_one_that_becomes_free() {
    let server = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 1_000, false).await;
    let url = server.url.replace("http", "https");
    // A connection that was opened before; no other can be opened, because nobody speaks TLS there.
    let timeouts = Timeouts { connect: Duration::from_secs(20), ..limits(20_000) };
    let transport = Transport::open("p", &connection(&url, timeouts, 1_000), &Matcher::builder().build(), &enough()).unwrap();
    let plain = Transport::open("p", &connection(&server.url, timeouts, 1_000), &Matcher::builder().build(), &enough()).unwrap();
    post(&plain, &server.url).await.unwrap();
    let link = plain.pool.take().unwrap();
    let put = async {
        sleep(Duration::from_millis(600)).await;
        transport.pool.put(link);
    };
    let start = Instant::now();
    let (received, ()) = tokio::join!(post(&transport, &server.url), put);
    assert_eq!(received.unwrap().body, "{}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn nothing_that_comes_behind_an_answer_is_taken_for_the_next_one() {
    let smuggled = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    assert_eq!(twice(smuggled, 1_000, false).await, Ok((200, Bytes::from_static(b"{}"), 2)));
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_complete_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 100]).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
        // The server reads no further, and keeps the connection open.
        std::future::pending::<()>().await;
    });
    let transport = Transport::open("p", &connection(&url, limits(20_000), 1_000), &Matcher::builder().build(), &enough()).unwrap();
    let request = Request::post(&url).body(Bytes::from(vec![b' '; 32 << 20])).unwrap();
    let received = transport.send(Box::new(request), Duration::from_secs(20)).await.unwrap();
    assert_eq!((received.status.as_u16(), received.body), (413, Bytes::from_static(b"big")));
    assert!(transport.pool.take().is_none(), "the connection is in the middle of a request");
}
