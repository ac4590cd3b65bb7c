//! HTTPS exchanges with a real server on this machine: trust, HTTP/2 by ALPN, a tunnel.
//!
//! `testdata/cert.pem` is its own authority, valid for `upstream.test` and `127.0.0.1` until 2125;
//! its key protects nothing. Made with `openssl ca -selfsign`, which can set the first day, too, so
//! that a clock in the past does not fail the tests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;

fn testdata(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/provider/testdata", file].iter().collect()
}

/// A server that answers every request with the version of HTTP it came in; it stops when dropped.
struct TlsServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl TlsServer {
    async fn start(alpn: &[&[u8]]) -> Self {
        let certificate = CertificateDer::from_pem_file(testdata("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(testdata("key.pem")).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // A client that does not trust the certificate leaves here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(|request: Request<Incoming>| async move {
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(format!("{:?}", request.version())))))
                    });
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}

/// Sends one POST to `url`; the server's certificate is trusted only if `trusted`.
async fn post_tls(url: &str, trusted: bool, proxies: &Matcher) -> Result<Bytes, CallError> {
    let ca_file = trusted.then(|| testdata("cert.pem"));
    let connection = OpenAiConnection { ca_file, ..connection(url, limits(20_000), 100) };
    let transport = Transport::open("p", &connection, proxies).unwrap();
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

#[tokio::test]
async fn an_unknown_certificate_is_refused_by_name() {
    let server = TlsServer::start(&[]).await;
    let error = post_tls(&format!("https://{}/v1", server.address), false, &Matcher::builder().build()).await.unwrap_err();
    let CallError::Connect { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("invalid peer certificate: UnknownIssuer"), "{reason}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = TlsServer::start(&[]).await;
    let url = format!("https://localhost:{}/v1", server.address.port());
    let error = post_tls(&url, true, &Matcher::builder().build()).await.unwrap_err();
    let CallError::Connect { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("certificate not valid for name \"localhost\""), "{reason}");
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
