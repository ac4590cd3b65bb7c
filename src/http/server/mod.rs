//! The listener: HTTP/1.1 and HTTP/2 without TLS on one port, a bounded number of connections, and
//! a close that lets requests in flight finish. When the kernel has no descriptor for a client, the
//! client waits: a failed accept never ends the loop, and never makes it spin.
//!
//! TLS is left to a proxy in front. What two programs may read differently in an HTTP/1.1 request is
//! refused ([`gate`]). hyper itself answers a head that is too long, before any of our code runs, and
//! so without our envelope.

pub mod connection;
mod course;
pub mod crowd;
pub(in crate::http) mod framing;
mod gate;
mod head;
mod pace;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::connection::Patience;
use self::course::Course;
use self::crowd::Crowd;
use self::pace::Streams;
use crate::descriptors::is_refusal;

/// How long a client may take for the head of a request; this also ends idle connections.
const HEADER_READ: Duration = Duration::from_secs(30);
/// Bytes of the head of a request; a longer head is answered with 431.
const MAX_HEAD: usize = 64 << 10;
/// Requests that one HTTP/2 connection may have under way, and bytes of each of their answers that wait
/// to be sent: a client that reads nothing must not hold much.
const MAX_STREAMS: u32 = 32;
const SEND_AHEAD: usize = 64 << 10;
/// How often an idle HTTP/2 connection is pinged to learn whether the client is still there.
const PING: Duration = Duration::from_secs(30);
/// The bytes that every HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long to wait before checking again whether the rest of a preface has arrived.
const PREFACE_WAIT: Duration = Duration::from_millis(20);
/// Wait after a failed accept: the next accept would most likely fail as well. The wait is short if
/// only a descriptor is missing, because each connection that ends frees one.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);
const REFUSAL_BACKOFF: Duration = Duration::from_millis(50);

/// Serves until `drain` is cancelled, then stops accepting at once and returns when the requests in
/// flight are answered, or `deadline` later, whichever comes first.
pub async fn serve(listener: TcpListener, router: Router, drain: CancellationToken, deadline: Duration, crowd: Arc<Crowd>) {
    serve_with(listener, router, drain, deadline, crowd, Patience::default()).await;
}

/// [`serve`] with the given patience for each connection.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    drain: CancellationToken,
    deadline: Duration,
    crowd: Arc<Crowd>,
    patience: Patience,
) {
    // A connection's task touches only its own requests; if the task dies, only that connection
    // ends.
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            Some(ended) = connections.join_next() => {
                log_panic(ended);
                continue;
            }
            next = accept(&listener) => match next {
                Ok((stream, peer)) => (stream, peer.ip()),
                Err(error) => {
                    let pause = failed(&error, &crowd);
                    tokio::select! {
                        () = drain.cancelled() => break,
                        () = tokio::time::sleep(pause) => continue,
                    }
                }
            },
        };
        // Its own connections make room before those of others do.
        if !crowd.admits(peer) {
            continue;
        }
        // The next client waits here, and the clients behind it in the kernel's queue.
        let Some(Some(place)) = drain.run_until_cancelled(crowd.place()).await else { break };
        let (router, drain, member) = (router.clone(), drain.clone(), crowd.join(peer, place));
        connections.spawn(async move {
            let course = member.course().clone();
            if let Some(http2) = drain.run_until_cancelled(speaks_http2(&stream, &course)).await.flatten() {
                connection::run((builder(http2, patience), http2), (stream, member), router, drain, patience).await;
            }
        });
    }
    // Closing the port before waiting lets a successor take it at once.
    drop(listener);
    let ends = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(deadline, ends).await.is_err() {
        let open = connections.len();
        tracing::warn!(open, seconds = deadline.as_secs(), "connections were cut because their requests did not end in time");
    }
    connections.shutdown().await;
}

fn builder(http2: bool, patience: Patience) -> Builder<Streams> {
    let mut builder = Builder::new(Streams(patience.write));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_AHEAD);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

/// Which HTTP version a new connection speaks; `None` if the client does not say in time. This is
/// determined here because hyper-util waits for the first bytes without a limit, and a silent
/// client would hold its place for ever.
async fn speaks_http2(stream: &TcpStream, course: &Course) -> Option<bool> {
    let look = async {
        let mut head = [0; PREFACE.len()];
        loop {
            let seen = stream.peek(&mut head).await.ok().filter(|seen| *seen > 0)?;
            if head[..seen] != PREFACE[..seen] {
                return Some(false);
            }
            if seen == PREFACE.len() {
                return Some(true);
            }
            // Peeking again returns at once with the same bytes.
            tokio::time::sleep(PREFACE_WAIT).await;
        }
    };
    tokio::select! {
        said = tokio::time::timeout(HEADER_READ, look) => said.ok().flatten(),
        () = course.left() => None,
    }
}

/// Accepts the next connection.
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small answers must not wait for the acknowledgement of earlier ones.
                stream.set_nodelay(true)?;
                return Ok((stream, peer));
            }
            // The client was gone before it was accepted.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => return Err(error),
        }
    }
}

/// How long to wait after a failed accept.
fn failed(error: &io::Error, crowd: &Crowd) -> Duration {
    if is_refusal(error) {
        crowd.descriptors().refused();
        crowd.make_room();
        return REFUSAL_BACKOFF;
    }
    tracing::warn!(%error, "could not accept a connection");
    ACCEPT_BACKOFF
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task ended with a panic");
    }
}
