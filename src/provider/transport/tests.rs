//! Exchanges over real sockets on this machine: every limit, every way for an exchange to fail,
//! proxies.

mod addresses;
mod answers;
mod relay;
mod tls;

use http::Request;

use self::relay::{Kind, Relay};
use super::*;
use crate::provider::test_server::{Loopback, Reply};

fn limits(milliseconds: u64) -> Timeouts {
    let limit = Duration::from_millis(milliseconds);
    Timeouts { connect: Duration::from_secs(20), first_byte: limit, total: Duration::from_secs(20) }
}

fn connection(url: &str, timeouts: Timeouts, max_response_bytes: u64) -> ServerConnection {
    ServerConnection {
        api: crate::domain::provider::connection::Api::OpenAi,
        base_url: url.parse().unwrap(),
        addresses: HostAddresses::Any,
        api_path: None,
        body: Default::default(),
        timeouts,
        ca_file: None,
        max_response_bytes,
        pass_through: Vec::new(),
        row_priority: crate::domain::row::priority::RowPriority::Strip,
        forward_headers: vec!["traceparent".to_owned()],
        max_waiting: None,
    }
}

/// More descriptors than any test needs.
fn enough() -> Descriptors {
    Descriptors::new(1 << 20, 0)
}

/// Sends one POST and waits for its outcome.
async fn post(transport: &Transport, url: &str) -> Result<Received, CallError> {
    let request = Request::post(url).body(Bytes::from_static(b"{}")).unwrap();
    transport.send(Box::new(request), Duration::from_secs(20)).await
}

async fn post_to(server: &Loopback, timeouts: Timeouts, max_response_bytes: u64) -> Result<Received, CallError> {
    let url = format!("http://{}", server.address());
    let transport = Transport::open("p", &connection(&url, timeouts, max_response_bytes), &Matcher::builder().build(), &enough()).unwrap();
    post(&transport, &format!("{url}/v1/x")).await
}

#[tokio::test]
async fn a_slow_head_passes_the_limit_for_the_first_byte() {
    let server = Loopback::start(vec![Reply::Stall(String::new())]).await;
    let error = post_to(&server, limits(30), 100).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} did not begin its answer within 30 ms", server.address()));
}

#[tokio::test]
async fn a_slow_body_passes_the_limit_for_the_whole_call() {
    let server = Loopback::start(vec![Reply::Stall("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".into())]).await;
    let timeouts = Timeouts { total: Duration::from_millis(40), ..limits(20_000) };
    let error = post_to(&server, timeouts, 100).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} did not finish its answer within 40 ms", server.address()));
}

#[tokio::test]
async fn the_budget_of_the_call_ends_it_before_the_limits_do() {
    let server = Loopback::start(vec![Reply::Stall(String::new())]).await;
    let url = format!("http://{}/", server.address());
    let transport = Transport::open("p", &connection(&url, limits(20_000), 100), &Matcher::builder().build(), &enough()).unwrap();
    let request = Request::post(url).body(Bytes::default()).unwrap();
    let error = transport.send(Box::new(request), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} did not finish its answer within 20 ms", server.address()));
}

#[tokio::test]
async fn a_broken_answer_is_an_interruption() {
    for cut in ["", "HTTP/1.1 200 OK\r\ncontent-", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "no http at all\r\n\r\n"] {
        let server = Loopback::start(vec![Reply::Cut(cut.into())]).await;
        let error = post_to(&server, limits(20_000), 100).await.unwrap_err();
        assert!(matches!(error, CallError::Interrupted { .. }), "{cut:?}: {error}");
    }
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", unused.local_addr().unwrap());
    drop(unused);
    let transport = Transport::open("p", &connection(&url, limits(20_000), 100), &Matcher::builder().build(), &enough()).unwrap();
    let CallError::Connect { reason, .. } = post(&transport, &url).await.unwrap_err() else { panic!("connected to a closed port") };
    assert!(reason.starts_with("nothing listens at this address (") && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_handshake_that_never_ends_passes_the_limit_for_connecting() {
    // Accepts the connection and never speaks TLS.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let timeouts = Timeouts { connect: Duration::from_millis(40), ..limits(20_000) };
    let transport = Transport::open("p", &connection(&url, timeouts, 100), &Matcher::builder().build(), &enough()).unwrap();
    let error = post(&transport, &url).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} did not accept a connection within 40 ms", listener.local_addr().unwrap()));
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_not_read() {
    let announced = Reply::answer("200 OK", "", &"x".repeat(101));
    let chunk = format!("33\r\n{}\r\n", "y".repeat(0x33));
    let chunked = Reply::Send(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"));
    for reply in [announced, chunked] {
        let server = Loopback::start(vec![reply.clone()]).await;
        let error = post_to(&server, limits(20_000), 100).await.unwrap_err();
        assert_eq!(error, CallError::TooLarge { host: server.address().to_string(), limit: 100 });
        // The limit itself is allowed.
        let server = Loopback::start(vec![reply]).await;
        assert!(post_to(&server, limits(20_000), 102).await.unwrap().body.len() > 100);
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let server = Loopback::start(vec![Reply::answer("307 Temporary Redirect", "location: http://example.com/\r\n", "")]).await;
    let received = post_to(&server, limits(20_000), 100).await.unwrap();
    assert_eq!((received.status.as_u16(), server.requests().len()), (307, 1));
}

#[tokio::test]
async fn a_connection_is_used_again_until_the_server_closes_it() {
    let answer = Reply::answer("200 OK", "", "{}");
    let last = Reply::Cut("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}".into());
    let server = Loopback::start(vec![answer.clone(), answer.clone(), last, answer]).await;
    let url = format!("http://{}/", server.address());
    let transport = Transport::open("p", &connection(&url, limits(20_000), 100), &Matcher::builder().build(), &enough()).unwrap();
    for connections in [1, 1, 1, 2] {
        assert_eq!(post(&transport, &url).await.unwrap().body, "{}");
        assert_eq!(server.connections(), connections);
    }
}

/// A transport to this server, without tight limits.
fn transport_to(server: &Loopback) -> (Transport, String) {
    let url = format!("http://{}/v1/x", server.address());
    (Transport::open("p", &connection(&url, limits(20_000), 100 << 20), &Matcher::builder().build(), &enough()).unwrap(), url)
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_rested_is_no_failure_of_the_next_call() {
    let server = Loopback::start(vec![Reply::Cut("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".into())]).await;
    let (transport, url) = transport_to(&server);
    for connections in 1..4 {
        assert_eq!(post(&transport, &url).await.unwrap().body, "{}");
        assert_eq!(server.connections(), connections);
        // The server has closed the connection by now; lets the runtime notice.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let server = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let (transport, url) = transport_to(&server);
    for (sweeps, connections) in [(0, 1), (4, 1), (4, 1), (5, 2), (1, 2)] {
        for _ in 0..sweeps {
            transport.pool.sweep();
        }
        post(&transport, &url).await.unwrap();
        assert_eq!(server.connections(), connections, "after {sweeps} sweeps");
    }
}

#[tokio::test]
async fn a_call_that_is_abandoned_takes_its_connection_along() {
    let stall = |text: &str| Reply::Stall(text.into());
    for unfinished in [stall(""), stall("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")] {
        let server = Loopback::start(vec![unfinished, Reply::answer("200 OK", "", "{}")]).await;
        let (transport, url) = transport_to(&server);
        let request = Request::post(&url).body(Bytes::default()).unwrap();
        transport.send(Box::new(request), Duration::from_millis(30)).await.unwrap_err();
        assert_eq!(post(&transport, &url).await.unwrap().body, "{}");
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_long_answer_arrives_whole_and_its_connection_is_used_again() {
    let body: String = (0..400_000).map(|n| format!("{n} ")).collect();
    let server = Loopback::start(vec![Reply::answer("200 OK", "", &body)]).await;
    let (transport, url) = transport_to(&server);
    for _ in 0..2 {
        assert_eq!(post(&transport, &url).await.unwrap().body, body);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_connections_than_calls_at_the_same_time() {
    let server = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let (transport, url) = transport_to(&server);
    let transport = Arc::new(transport);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (transport, url) = (transport.clone(), url.clone());
        calls.spawn(async move {
            for _ in 0..200 {
                assert_eq!(post(&transport, &url).await.unwrap().body, "{}");
            }
        });
    }
    calls.join_all().await;
    assert!(server.connections() <= 8 && server.requests().len() == 1_600);
}

/// Waiting for a place is not the upstream's fault: no limit of the call runs meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_places_wait_for_a_connection() {
    let few = Descriptors::new(0, 0);
    let places = few.share().calls;
    let server = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let url = format!("http://{}/v1/x", server.address());
    let open =
        |url: &str| Arc::new(Transport::open("p", &connection(url, limits(20_000), 100), &Matcher::builder().build(), &few).unwrap());
    let transport = open(&url);
    let held: Vec<_> = (0..places).map(|_| few.calls().try_take().unwrap()).collect();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..5 * places {
        let (transport, url) = (transport.clone(), url.clone());
        calls.spawn(async move { post(&transport, &url).await.map(|received| received.body) });
    }
    while few.calls().waiting() < 5 * places {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.connections(), 0);
    drop(held);
    assert!(calls.join_all().await.into_iter().all(|body| body.unwrap() == "{}"));
    assert!(server.connections() <= places && few.calls().waiting() == 0);

    // Those connections are idle now, and make room for calls to another upstream.
    let other = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let there = format!("http://{}/v1/x", other.address());
    let transport = open(&there);
    let all = futures_util::future::join_all((0..places).map(|_| post(&transport, &there))).await;
    assert!(all.into_iter().all(|received| received.is_ok()) && few.calls().open() <= places);
}

#[tokio::test]
async fn a_call_waits_for_a_place_no_longer_than_its_budget() {
    let few = Descriptors::new(0, 0);
    let _held: Vec<_> = std::iter::from_fn(|| few.calls().try_take()).collect();
    let url = "http://127.0.0.1:9/";
    let transport = Transport::open("p", &connection(url, limits(20_000), 100), &Matcher::builder().build(), &few).unwrap();
    let request = Request::post(url).body(Bytes::default()).unwrap();
    let error = transport.send(Box::new(request), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1:9 did not finish its answer within 20 ms");
    assert_eq!(few.calls().waiting(), 0);
}

#[tokio::test]
async fn plain_http_is_forwarded_by_a_proxy_with_its_credentials() {
    let proxy = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let proxies = Matcher::builder().all(format!("http://user:secret@{}", proxy.address())).build();
    let url = "http://models.example:8000/v1";
    let transport = Transport::open("p", &connection(url, limits(20_000), 100), &proxies, &enough()).unwrap();
    post(&transport, "http://models.example:8000/v1/x").await.unwrap();
    let request = &proxy.requests()[0];
    assert!(request.starts_with("POST http://models.example:8000/v1/x HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n"), "{request}");
    assert!(request.contains("host: models.example:8000\r\n"), "{request}");
}

#[tokio::test]
async fn https_goes_through_a_tunnel_and_a_refusal_names_no_secret() {
    let proxy = Loopback::start(vec![Reply::Cut("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".into())]).await;
    let proxies = Matcher::builder().all(format!("http://user:secret@{}", proxy.address())).build();
    let transport = Transport::open("p", &connection("https://api.example", limits(20_000), 100), &proxies, &enough()).unwrap();
    let error = post(&transport, "https://api.example/v1/x").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("could not connect to api.example: through the proxy {}: tunnel error: proxy authorization required", proxy.address())
    );
    assert!(proxy.requests()[0].starts_with("CONNECT api.example:443 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_socks_proxy_is_told_the_name_and_port_80_for_plain_http() {
    let upstream = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    for (url, target) in [("http://upstream.test/v1", "upstream.test:80"), ("http://upstream.test:8000/v1", "upstream.test:8000")] {
        let proxy = Relay::start(Kind::Socks, upstream.address()).await;
        let proxies = Matcher::builder().all(format!("socks5h://{}", proxy.address())).build();
        let transport = Transport::open("p", &connection(url, limits(20_000), 100), &proxies, &enough()).unwrap();
        post(&transport, url).await.unwrap();
        assert_eq!(proxy.targets(), [target]);
    }
    assert!(upstream.requests()[0].starts_with("POST /v1 HTTP/1.1\r\nhost: upstream.test\r\n"), "{:?}", upstream.requests());
}

#[tokio::test]
async fn this_machine_is_reached_around_any_proxy() {
    let server = Loopback::start(vec![Reply::answer("200 OK", "", "{}")]).await;
    let url = format!("http://{}/v1", server.address());
    // No server listens on the discard port.
    let proxies = Matcher::builder().all("http://127.0.0.1:9").build();
    let transport = Transport::open("p", &connection(&url, limits(20_000), 100), &proxies, &enough()).unwrap();
    post(&transport, &url).await.unwrap();
    assert!(server.requests()[0].starts_with("POST /v1 HTTP/1.1\r\n"));
}

#[test]
fn settings_that_cannot_work_are_refused_at_once() {
    let open = |ca_file: Option<&std::path::Path>, proxy: &str| {
        let connection =
            ServerConnection { ca_file: ca_file.map(Into::into), ..connection("http://models.example", Timeouts::default(), 100) };
        Transport::open("p", &connection, &Matcher::builder().all(proxy).build(), &enough()).err().map(|e| e.to_string())
    };
    let empty = tempfile::NamedTempFile::new().unwrap();
    let refused = open(Some(empty.path()), "").unwrap();
    assert!(refused.ends_with("it holds no certificate"), "{refused}");
    assert!(open(Some("/nonexistent/ca.pem".as_ref()), "").unwrap().contains("/nonexistent/ca.pem"));
    assert_eq!(
        open(None, "socks4://127.0.0.1:1").unwrap(),
        "provider `p`: cannot use the proxy of the environment: no support for proxies of kind `socks4`"
    );
    assert_eq!(open(None, "socks5h://user:secret@127.0.0.1:1"), None);
}
