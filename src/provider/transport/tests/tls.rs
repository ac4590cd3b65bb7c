//! HTTPS exchanges with a real server on this machine: trust, HTTP/2 by ALPN, a tunnel.
//!
//! `testdata/cert.pem` is its own authority, valid for `upstream.test` and `127.0.0.1` until 2125;
//! its key protects nothing. Made with `openssl ca -selfsign`, which can also set the first day, so
//! that a clock in the past does not fail the tests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;

fn testdata(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/provider/testdata", file].iter().collect()
}

fn acceptor(alpn: &[&[u8]]) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(testdata("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(testdata("key.pem")).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A server that answers every request with its HTTP version; it stops when dropped.
struct TlsServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl TlsServer {
    async fn start(alpn: &[&[u8]]) -> Self {
        Self::allowing(alpn, 200).await
    }

    /// A server that takes so many calls at the same time on an HTTP/2 connection; calls to `/pair`
    /// are answered two at a time.
    async fn allowing(alpn: &[&[u8]], streams: u32) -> Self {
        let acceptor = acceptor(alpn);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        let pair = Arc::new(Barrier::new(2));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, pair) = (acceptor.clone(), pair.clone());
                connections.spawn(async move {
                    // A client that does not trust the certificate disconnects here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(|request: Request<Incoming>| {
                        let pair = pair.clone();
                        async move {
                            if request.uri().path() == "/pair" {
                                pair.wait().await;
                            }
                            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(format!("{:?}", request.version())))))
                        }
                    });
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(streams);
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { address, connections, _tasks: tasks }
    }
}

/// Sends one POST to `url`; the server's certificate is trusted only if `trusted`.
async fn post_tls(url: &str, trusted: bool, proxies: &Matcher) -> Result<Bytes, CallError> {
    let ca_file = trusted.then(|| testdata("cert.pem"));
    let connection = ServerConnection { ca_file, ..connection(url, limits(20_000), 100) };
    let transport = Transport::open("p", &connection, proxies, &enough()).unwrap();
    post(&transport, url).await.map(|received| received.body)
}

#[tokio::test]
async fn the_version_of_http_is_the_one_agreed_on_in_the_handshake() {
    let offers: [(&[&[u8]], &str); 3] = [(&[], "HTTP/1.1"), (&[b"http/1.1"], "HTTP/1.1"), (&[b"h2", b"http/1.1"], "HTTP/2.0")];
    for (alpn, version) in offers {
        let server = TlsServer::start(alpn).await;
        let url = format!("https://{}/v1", server.address);
        assert_eq!(post_tls(&url, true, &Matcher::builder().build()).await.unwrap(), version, "{alpn:?}");
    }
}

fn trusting(server: &TlsServer) -> (Transport, String) {
    let url = format!("https://{}", server.address);
    let connection = ServerConnection { ca_file: Some(testdata("cert.pem")), ..connection(&url, limits(20_000), 100) };
    (Transport::open("p", &connection, &Matcher::builder().build(), &enough()).unwrap(), url)
}

#[tokio::test]
async fn calls_share_a_connection_of_http_2_as_far_as_the_server_allows() {
    for (streams, connections) in [(200, 1), (1, 2)] {
        let server = TlsServer::allowing(&[b"h2"], streams).await;
        let (transport, url) = trusting(&server);
        // Lets the client learn the limit.
        post(&transport, &url).await.unwrap();
        let pair = format!("{url}/pair");
        for _ in 0..2 {
            let (one, two) = tokio::join!(post(&transport, &pair), post(&transport, &pair));
            assert_eq!((one.unwrap().body, two.unwrap().body), ("HTTP/2.0".into(), "HTTP/2.0".into()));
            assert_eq!(server.connections.load(Ordering::SeqCst), connections, "{streams} streams");
        }
    }
}

/// Answers the first call on an HTTP/2 connection with `head`, and then sends `piece` again and
/// again, without reading anything unless `reads`; how the call ends, and how much was sent.
async fn endless(head: &[u8], piece: &[u8], reads: bool) -> (Result<Received, CallError>, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let connection =
        ServerConnection { ca_file: Some(testdata("cert.pem")), ..connection(&url, limits(if reads { 20_000 } else { 500 }), 100) };
    let transport = Transport::open("p", &connection, &Matcher::builder().build(), &enough()).unwrap();
    let piece = piece.repeat(1 + 10_000 / piece.len());
    let server = async {
        let mut stream = acceptor(&[b"h2"]).accept(listener.accept().await.unwrap().0).await.unwrap();
        // Empty settings, and the receipt of the client's.
        let begin = [&frame(4, 0, 0, b"")[..], &frame(4, 1, 0, b""), head].concat();
        stream.read_u8().await.unwrap();
        stream.write_all(&begin).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut sent = 0;
        let write = async {
            while sent < 64 << 20 && writer.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
        };
        let read = async {
            if reads {
                while reader.read(&mut [0; 9_000]).await.is_ok_and(|read| read > 0) {}
            }
        };
        tokio::join!(read, write);
        sent
    };
    let call = async {
        let ended = post(&transport, &url).await;
        drop(transport);
        ended
    };
    tokio::join!(call, server)
}

/// A frame of HTTP/2, as RFC 9113 has it.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn what_is_around_the_answers_of_http_2_has_an_end() {
    // `:status: 103` as a literal with an indexed name; a ping; a frame of a body without a byte.
    let interim = frame(1, 4, 1, b"\x08\x03103");
    let ping = frame(6, 0, 0, b"12345678");
    let (head, empty) = (frame(1, 4, 1, b"\x88"), frame(0, 0, 1, b""));
    let beside = "the server sends more beside its answers than they need";
    for (head, piece, reason) in [(&b""[..], &interim, beside), (b"", &ping, beside), (&head, &empty, "too_many_data_frames")] {
        let (ended, sent) = endless(head, piece, true).await;
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(sent < 24 << 20, "{sent} bytes");
    }
    // A server that reads nothing keeps neither its call nor its connection.
    let (ended, _) = endless(b"", &ping, false).await;
    assert!(matches!(ended, Err(CallError::TimedOut { .. })), "{ended:?}");
}

#[tokio::test]
async fn an_idle_connection_of_http_2_is_closed_after_a_while_too() {
    let server = TlsServer::start(&[b"h2"]).await;
    let (transport, url) = trusting(&server);
    for (sweeps, connections) in [(0, 1), (4, 1), (5, 2)] {
        for _ in 0..sweeps {
            transport.pool.sweep();
        }
        post(&transport, &url).await.unwrap();
        assert_eq!(server.connections.load(Ordering::SeqCst), connections, "after {sweeps} sweeps");
    }
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_by_name() {
    let server = TlsServer::start(&[]).await;
    let error = post_tls(&format!("https://{}/v1", server.address), false, &Matcher::builder().build()).await.unwrap_err();
    let CallError::Connect { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.starts_with("the server's certificate is from an issuer that is not trusted here"), "{reason}");
    assert!(reason.contains("invalid peer certificate: UnknownIssuer"), "{reason}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = TlsServer::start(&[]).await;
    let url = format!("https://localhost:{}/v1", server.address.port());
    let error = post_tls(&url, true, &Matcher::builder().build()).await.unwrap_err();
    let CallError::Connect { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.starts_with("the server's certificate is for another name"), "{reason}");
    assert!(reason.contains("certificate not valid for name \"localhost\""), "{reason}");
}

#[tokio::test]
async fn a_certificate_is_that_of_the_name_whatever_address_is_reached() {
    let server = TlsServer::start(&[b"h2"]).await;
    for (name, is_right) in [("upstream.test", true), ("other.test", false)] {
        let url = format!("https://{name}:{}/v1", server.address.port());
        let addresses = HostAddresses::One(server.address.ip());
        let connection = ServerConnection { addresses, ca_file: Some(testdata("cert.pem")), ..connection(&url, limits(20_000), 100) };
        let transport = Transport::open("p", &connection, &Matcher::builder().build(), &enough()).unwrap();
        let answer = post(&transport, &url).await;
        assert_eq!(answer.as_ref().is_ok_and(|received| received.body == "HTTP/2.0"), is_right, "{name}: {answer:?}");
        assert!(is_right || answer.unwrap_err().to_string().contains("the server's certificate is for another name"));
    }
}

#[tokio::test]
async fn tls_and_plain_text_are_not_taken_for_each_other_in_silence() {
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    let _server = JoinSet::from_iter([async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    }]);
    let error = post_tls(&format!("https://{address}/v1"), true, &Matcher::builder().build()).await.unwrap_err();
    let CallError::Connect { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.starts_with("the server does not speak TLS on this port; use http://"), "{reason}");

    let server = TlsServer::start(&[]).await;
    let error = post_tls(&format!("http://{}/v1", server.address), true, &Matcher::builder().build()).await.unwrap_err();
    let CallError::Connect { reason, .. } = &error else { panic!("{error}") };
    assert_eq!(reason, "the server speaks TLS on this port; use https://");
}

#[tokio::test]
async fn an_unreachable_proxy_is_named_without_its_password() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxies = Matcher::builder().all(format!("http://user:secret@{unused}")).build();
    let error = post_tls("https://upstream.test/v1", true, &proxies).await.unwrap_err();
    let CallError::Connect { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.starts_with(&format!("through the proxy {unused}: nothing listens at this address")), "{reason}");
    assert!(!reason.contains("secret"), "{reason}");
}

#[tokio::test]
async fn tls_runs_through_tunnels_and_socks_proxies() {
    let server = TlsServer::start(&[b"h2"]).await;
    for (kind, scheme) in [(Kind::Connect, "http"), (Kind::Socks, "socks5h")] {
        let proxy = Relay::start(kind, server.address).await;
        let proxies = Matcher::builder().all(format!("{scheme}://{}", proxy.address())).build();
        assert_eq!(post_tls("https://upstream.test/v1", true, &proxies).await.unwrap(), "HTTP/2.0", "{scheme}");
        assert_eq!(proxy.targets(), ["upstream.test:443"]);
    }
}
