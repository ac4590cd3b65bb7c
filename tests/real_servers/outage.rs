//! Real servers that die, come back on the same port, and take their time.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::server::{Kind, Server};
use super::support::api::is_terminal;
use super::support::daemon::Daemon;
use super::support::wait;
use super::{LIMIT, alone, check, input, seconds};

/// A server of one's own that is down is asked every five seconds; the rest is the first answer.
const FIRST_ROW: Duration = Duration::from_secs(15);

fn done(batch: &Value) -> u64 {
    batch["request_counts"]["completed"].as_u64().unwrap_or_default()
}

/// Ends the server by a signal in the middle of a batch, and starts it again.
fn no_row_is_lost_when_it_ends(kind: Kind, args: &[&str], signal: &str, rows: usize) {
    let _alone = alone();
    let mut server = Server::start(kind, args);
    let daemon = Daemon::with(&["--upstream", &server.url()]);
    let id = daemon.submit(input(0..rows));
    daemon.wait_for(&id, LIMIT, "a fifth done", |batch| done(batch) * 5 >= rows as u64);
    let ending = server.stop(signal);
    std::thread::sleep(Duration::from_secs(5));
    let before = done(&daemon.batch(&id));
    server.launch();
    let states = server.wait_serving();
    let (back, lingered) = (Instant::now(), server.lingers());
    daemon.wait_for(&id, LIMIT, "going on", |batch| done(batch) > before);
    let first = back.elapsed();
    let batch = daemon.wait_ended(&id, LIMIT);
    wait::say(&format!(
        "{kind:?}, SIG{signal} after {before} of {rows} rows: nobody listened after {}, the old server lingered: {lingered}, first row {} after it served again (health before: {states:?}), all {} after that",
        seconds(ending),
        seconds(first),
        seconds(back.elapsed())
    ));
    check(&daemon, &batch, 0..rows);
    assert!(first <= FIRST_ROW, "the first row came {first:?} after the server");
}

#[test]
#[ignore = "installs a model server"]
fn outage_by_sigkill_of_llama_server() {
    no_row_is_lost_when_it_ends(Kind::Llama, &["--parallel", "8", "--ctx-size", "8192"], "KILL", 600);
}

#[test]
#[ignore = "installs a model server"]
fn outage_by_sigterm_of_vllm() {
    no_row_is_lost_when_it_ends(Kind::Vllm, &["--max-num-seqs", "64"], "TERM", 1_000);
}

/// The rows are there before the server, which says 503 while it loads.
#[test]
#[ignore = "installs a model server"]
fn outage_while_llama_server_loads() {
    const ROWS: usize = 20;
    let _alone = alone();
    // A tiny model loads at once; two gibibytes for a long context do not.
    let mut server = Server::stopped(Kind::Llama, &["--parallel", "1", "--ctx-size", "1048576"]);
    let daemon = Daemon::with(&["--upstream", &server.url()]);
    let id = daemon.submit(input(0..ROWS));
    daemon.wait_for(&id, wait::A_WHILE, "waiting", |batch| batch["batchd"]["waiting"][0]["reason"] == "unreachable");
    server.launch();
    let states = server.wait_serving();
    let back = Instant::now();
    let batch = daemon.wait_for(&id, LIMIT, "ended", |batch| is_terminal(&batch["status"]));
    wait::say(&format!("llama-server, loading (health before: {states:?}): {ROWS} rows {} after it served", seconds(back.elapsed())));
    assert!(states.contains(&503), "it never said that it loads");
    check(&daemon, &batch, 0..ROWS);
}
