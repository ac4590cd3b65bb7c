//! A proxy on this machine: records the requested targets and joins every client to one upstream,
//! whatever the name, so that names that exist nowhere can be reached through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// SOCKS 5 without credentials, for targets given by name.
    Socks,
    /// HTTP `CONNECT`.
    Connect,
}

/// The proxy; it stops when dropped.
pub(super) struct Relay {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub async fn start(kind: Kind, upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let log = targets.clone();
        tasks.spawn(async move {
            let mut joined = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let log = log.clone();
                joined.spawn(async move {
                    let target = match kind {
                        Kind::Socks => greet_socks(&mut client).await,
                        Kind::Connect => greet_connect(&mut client).await,
                    };
                    log.lock().unwrap().push(target);
                    let mut upstream = TcpStream::connect(upstream).await.unwrap();
                    // Either side may break the connection; the test of that side judges it.
                    let _ = copy_bidirectional(&mut client, &mut upstream).await;
                });
            }
        });
        Self { address, targets, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every `host:port` that was requested.
    pub fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap().clone()
    }
}

/// RFC 1928: a greeting with one method, then a request to connect to a name.
async fn greet_socks(client: &mut TcpStream) -> String {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, [5, 1, 0]);
    client.write_all(&[5, 0]).await.unwrap();
    let mut head = [0; 5];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head[..4], [5, 1, 0, 3], "not a request to connect to a name");
    let mut name = vec![0; head[4].into()];
    client.read_exact(&mut name).await.unwrap();
    let port = client.read_u16().await.unwrap();
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    format!("{}:{port}", String::from_utf8(name).unwrap())
}

async fn greet_connect(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split_once(' ')).unwrap().0;
    target.to_owned()
}
