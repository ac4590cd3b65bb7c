//! A server on this machine that answers as scripted: a real socket, a reply for each request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the server does with one request.
#[derive(Clone)]
pub(super) enum Reply {
    /// Sends these bytes and keeps the connection open.
    Send(String),
    /// Sends these bytes and closes.
    Cut(String),
    /// Sends these bytes and then nothing more.
    Stall(String),
}

impl Reply {
    /// A well-formed answer; `headers` are whole lines, each with its line break.
    pub fn answer(status: &str, headers: &str, body: &str) -> Self {
        Self::Send(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: Vec<String>,
}

/// The server; it stops when dropped.
pub(super) struct Loopback {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl Loopback {
    /// Answers the first request with the first reply and so on; the last reply repeats.
    pub async fn start(replies: Vec<Reply>) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), replies).await
    }

    /// Like [`Self::start`], at this address.
    pub async fn start_at(address: SocketAddr, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        let log = seen.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                log.lock().unwrap().connections += 1;
                connections.spawn(converse(stream, log.clone(), replies.clone()));
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// Every request so far, as received.
    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }
}

async fn converse(mut stream: TcpStream, seen: Arc<Mutex<Seen>>, replies: Vec<Reply>) {
    while let Some(request) = read_request(&mut stream).await {
        let reply = {
            let mut seen = seen.lock().unwrap();
            let index = seen.requests.len();
            seen.requests.push(request);
            replies[index.min(replies.len() - 1)].clone()
        };
        match reply {
            Reply::Send(bytes) => stream.write_all(bytes.as_bytes()).await.unwrap(),
            Reply::Cut(bytes) => return stream.write_all(bytes.as_bytes()).await.unwrap(),
            Reply::Stall(bytes) => {
                stream.write_all(bytes.as_bytes()).await.unwrap();
                return std::future::pending().await;
            }
        }
    }
}

/// Reads the head and body of one request; `None` when the client has finished.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        if body.len() >= length {
            return Some(text);
        }
    }
}
