//! A process that may open few files: nothing fails, but requests take longer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::support::api::counts;
use crate::support::daemon::Daemon;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::{rows, wait};

const CLIENTS: usize = 300;
const CALLS: usize = 200;
const ROWS: usize = 1_200;

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    answers: AtomicUsize,
    /// Clients that have been answered at least once.
    served: AtomicUsize,
}

/// Sends requests now and then over a connection that it keeps open, and over a new one if the idle
/// connection was closed, as every client library does.
async fn client(number: usize, addr: SocketAddr, seen: Arc<Seen>) -> Result<(), String> {
    let pause = Duration::from_millis(500 + 5 * number as u64);
    let mut kept: Option<TcpStream> = None;
    let mut answered = false;
    while !seen.over.load(Ordering::Relaxed) || !answered {
        let reused = kept.is_some();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(addr).await.map_err(|error| format!("client {number} cannot connect: {error}"))?,
        };
        match ask(&mut stream, "/v1/batches").await {
            Ok((200, closes)) => {
                if !std::mem::replace(&mut answered, true) {
                    seen.served.fetch_add(1, Ordering::Relaxed);
                }
                seen.answers.fetch_add(1, Ordering::Relaxed);
                kept = (!closes).then_some(stream);
                tokio::time::sleep(pause).await;
            }
            // Not a byte of an answer arrived: the connection was closed while it was idle.
            Err(None) if reused => {}
            other => return Err(format!("client {number}: {other:?}, reused: {reused}")),
        }
    }
    Ok(())
}

/// Returns the status of the answer and whether the connection closes after it; if the answer is
/// incomplete, returns the part that arrived.
async fn ask(stream: &mut TcpStream, path: &str) -> Result<(u16, bool), Option<String>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|_| None)?;
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let cut = || (!text.is_empty()).then(|| text.clone());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if length.is_some_and(|length| body.len() >= length) {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
                return Ok((status, head.contains("connection: close")));
            }
        }
        if stream.read_buf(&mut answer).await.map_err(|_| cut())? == 0 {
            return Err(cut());
        }
    }
}

fn input() -> Vec<u8> {
    let lines: Vec<String> = (0..ROWS).map(|row| rows::chat(&format!("row-{row}"), "m", &json!({}))).collect();
    rows::file(&lines).into()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn with_few_descriptors_many_clients_and_many_calls_everything_finishes() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(300)));
    let concurrency = CALLS.to_string();
    // One attempt: a row that failed for lack of a descriptor would stay failed.
    let args = ["--upstream", &upstream.url(), "--upstream-concurrency", &concurrency, "--max-attempts", "1"];
    let daemon = Daemon::behind("ulimit -n 256", &args);
    let runtime = runtime();
    let seen = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn_on(client(number, daemon.addr(), seen.clone()), runtime.handle());
    }
    let served = wait::poll(wait::A_WHILE, || (seen.served.load(Ordering::Relaxed) == CLIENTS).then_some(()));
    assert!(served.is_some(), "{} of {CLIENTS} clients were answered", seen.served.load(Ordering::Relaxed));

    let batch = daemon.submit(input());
    let mut most_open = 0;
    let ended = wait::poll(4 * wait::A_WHILE, || {
        let batch = daemon.batch(&batch);
        let ready = daemon.get("/readyz?verbose").expect(200);
        most_open = most_open.max(ready["descriptors"]["open"].as_u64().expect("a number"));
        assert_eq!(ready["descriptors"]["refused"], 0, "{ready}");
        batch["completed_at"].is_i64().then_some(batch)
    });
    let answers = seen.answers.load(Ordering::Relaxed);
    seen.over.store(true, Ordering::Relaxed);
    let failed: Vec<String> = runtime.block_on(clients.join_all()).into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {CLIENTS}: {:#?}", failed.len(), &failed[..failed.len().min(5)]);
    let batch = ended.expect("the batch ends");
    assert_eq!(counts(&batch), (ROWS as u64, ROWS as u64, 0), "{batch}");
    assert_eq!(upstream.calls(), ROWS as u64, "no row is called twice");
    wait::say(&format!(
        "descriptors: at most {most_open} open of 256, {} calls at a time, {answers} answers to {CLIENTS} clients",
        upstream.most_in_flight()
    ));
    assert!(most_open <= 256 && upstream.most_in_flight() >= 50, "{most_open}, {}", upstream.most_in_flight());
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let daemon = Daemon::behind("ulimit -Sn 256 && ulimit -Hn 3000", &[]);
    let said = daemon.get("/readyz?verbose").expect(200);
    assert_eq!(said["descriptors"]["limit"], 3_000, "{said}");
    assert_eq!(said["descriptors"]["clients"]["most"], 1_024, "{said}");
    let metrics = daemon.get("/metrics").text();
    for line in ["batchd_file_descriptors_limit 3000", "batchd_places{user=\"clients\"} 1024", "batchd_file_descriptors_refused_total 0"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// The machine itself may run short of descriptors, however the daemon has divided them up.
#[test]
fn what_the_kernel_refuses_is_waited_for() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(50)));
    let args = ["--upstream", &upstream.url(), "--upstream-concurrency", "20", "--max-attempts", "1"];
    let daemon = Daemon::behind("ulimit -n 256", &args);
    let limit = |descriptors: u64| {
        let pid = Pid::from_raw(i32::try_from(daemon.pid()).expect("a process")).expect("a process");
        let new = Rlimit { current: Some(descriptors), maximum: Some(256) };
        prlimit(Some(pid), Resource::Nofile, new).expect("its limit changes");
    };
    let runtime = runtime();
    let mut kept = runtime.block_on(TcpStream::connect(daemon.addr())).expect("a connection");
    let mut ready = || runtime.block_on(ask(&mut kept, "/readyz")).expect("an answer").0;
    assert_eq!(ready(), 200);
    let batch = daemon.submit(input());
    assert!(wait::poll(wait::SOON, || (upstream.calls() > 0).then_some(())).is_some());
    // Fewer than are open.
    limit(5);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| daemon.get("/healthz").status());
        let told = wait::poll(wait::SOON, || (ready() == 503).then_some(()));
        limit(256);
        assert!(told.is_some(), "no shortage was told");
        assert_eq!(waits.join().expect("no panic"), 200);
    });
    let batch = daemon.wait_ended(&batch, wait::A_WHILE);
    assert_eq!(counts(&batch), (ROWS as u64, ROWS as u64, 0), "{batch}");
    assert_eq!(upstream.calls(), ROWS as u64, "no row is called twice");
}
