//! Downloads over real connections whose clients take little or nothing.

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::sockets::{Served, served, served_with};
use super::*;
use crate::http::response::read_ahead::{ALL, OF_ONE};
use crate::http::server::connection::Patience;

const ALL_BYTES: usize = (ALL as usize) << 10;
const SHARE: usize = (OF_ONE as usize) << 10;

type Client = SendRequest<Empty<Bytes>>;

/// A client whose streams each take so many bytes unasked.
async fn client(served: &Served, window: u32) -> Client {
    let io = TokioIo::new(TcpStream::connect(served.address).await.unwrap());
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window).initial_connection_window_size((1 << 31) - 1);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    served.bench.api.service.tasks.spawn(connection);
    sender
}

async fn ask(client: &mut Client, served: &Served, key: &str, path: &str) -> axum::http::Response<Incoming> {
    let request = Request::get(format!("http://{}{path}", served.address)).header("authorization", format!("Bearer {key}"));
    let response = client.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response
}

async fn upload(served: &Served, key: &str, bytes: usize) -> String {
    let content = form(&[("purpose", None, b"user_data"), ("file", Some("a"), &vec![b'x'; bytes])]);
    let key = format!("Bearer {key}");
    let headers = [("content-type", "multipart/form-data; boundary=XX"), ("authorization", key.as_str())];
    served.bench.call("POST", "/v1/files", &headers, content).await.id()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waits = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn taken(served: &Served) -> usize {
    ALL_BYTES - served.bench.api.read_ahead.free()
}

/// As many streams as 64 connections may have, none of which takes more than a byte. What is read
/// for them stays within the share of their owner, and another owner's download goes on as if they
/// were not there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_ahead_for_64_connections_full_of_streams_is_one_share_and_starves_nobody() {
    let served = served(100, |api| api.access = Access::keys(&["one".into(), "other".into()])).await;
    let file = upload(&served, "one", 3 << 20).await;
    let path = format!("/v1/files/{file}/content");
    for _ in 0..64 {
        let client = client(&served, 1).await;
        for number in 0..32 {
            let request = Request::get(format!("http://{}{path}", served.address)).header("authorization", "Bearer one");
            // A part is read in pieces that may be read ahead.
            let request = if number % 2 == 0 { request.header("range", "bytes=1-") } else { request };
            let (mut client, request) = (client.clone(), request.body(Empty::<Bytes>::new()).unwrap());
            served.bench.api.service.tasks.spawn(async move {
                let answer = client.send_request(request).await;
                std::future::pending::<()>().await;
                drop(answer);
            });
        }
    }
    until("the streams hold the share", || taken(&served) > SHARE - (1 << 20)).await;
    for _ in 0..100 {
        assert!(taken(&served) <= SHARE, "{}", taken(&served));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut other = client(&served, 1 << 20).await;
    let begun = tokio::time::Instant::now();
    let answer = ask(&mut other, &served, "other", &path).await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 3 << 20);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// One that takes a little now and then stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_nothing_is_reset_and_its_connection_stays() {
    let patience = Patience { write: Duration::from_millis(500), ..Patience::default() };
    let served = served_with(10, patience, |_| ()).await;
    let file = upload(&served, "", 3 << 20).await;
    let mut client = client(&served, 4_000).await;
    let path = format!("/v1/files/{file}/content");
    let mut slow = ask(&mut client, &served, "", &path).await.into_body();
    let stalled = [ask(&mut client, &served, "", &path).await, ask(&mut client, &served, "", "/v1/models").await];
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        slow.frame().await.unwrap().expect("it reads");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for answer in stalled {
        let error = answer.into_body().collect().await.expect_err("it reads nothing");
        let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |&error| error.source());
        assert!(causes.any(|error| error.to_string().contains("stream")), "{error:?}");
    }
    drop(slow);
    let answer = ask(&mut client, &served, "", "/healthz").await;
    assert!(!answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    until("nothing is held", || taken(&served) + served.bench.api.descriptors.files_open() == 0).await;
}
