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
