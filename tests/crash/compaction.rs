//! Kills while the store moves to another database: everything that was answered is there
//! afterwards, once, whichever of the two databases is opened.
//!
//! More kills than `cargo test` has time for:
//! `BATCHD_CRASH_KILLS=200 cargo test --release --test crash compaction -- --nocapture`

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::api::{CHAT, id_of};
use super::support::daemon::Daemon;
use super::support::http::{self, Request};
use super::support::{rows, wait};

const CLIENTS: usize = 3;
/// One batch in this many stays.
const KEPT: u64 = 12;

/// What the daemon answered about a batch.
#[derive(Debug, Clone, PartialEq)]
enum Answered {
    /// The batch has ended, with this metadata and output.
    Ended(Value, Vec<u8>),
    Deleted,
    /// The batch's deletion was requested, and its outcome is unknown.
    Unknown,
}

#[expect(clippy::disallowed_methods, reason = "the length of a test run is not a setting of the daemon")]
fn kills() -> usize {
    std::env::var("BATCHD_CRASH_KILLS").map_or(12, |text| text.parse().expect("BATCHD_CRASH_KILLS is a number"))
}

#[test]
fn nothing_is_lost_or_doubled_when_a_compaction_is_killed() {
    let mut random = super::random("compaction");
    let args = ["--compact-from", "1MiB", "--compact-below", "90", "--log", "warn,batchd::store=info"];
    let mut daemon = Daemon::with(&args);
    let input = daemon.upload(rows::many(3, rows::INSTANT));
    let answered = Mutex::new(BTreeMap::new());
    let kills = kills();
    let (mut gone, mut begun) = (Vec::new(), 0);
    for _ in 0..kills {
        let stop = AtomicBool::new(false);
        let addr = daemon.addr();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if churn(addr, &input, &answered).is_none() {
                            break;
                        }
                    }
                });
            }
            // A compaction may have begun with the start itself.
            wait::poll(wait::A_WHILE, || (said(&daemon, "compacting the store") > begun).then_some(())).expect("a compaction begins");
            std::thread::sleep(Duration::from_micros(random.u64(..120_000)));
            daemon.kill9();
            stop.store(true, Ordering::Relaxed);
        });
        begun = said(&daemon, "compacting the store");
        daemon.restart();
        let mut answered = answered.lock().expect("no panic");
        for (id, answer) in answered.iter() {
            check(&daemon, id, answer);
        }
        // Deleted batches are checked once more at the end: there are many of them.
        gone.extend(answered.extract_if(.., |_, answer| *answer == Answered::Deleted));
    }
    gone.iter().for_each(|(id, answer)| check(&daemon, id, answer));
    let finished = said(&daemon, "the store was compacted");
    wait::say(&format!("crash: compaction: {kills} kills, {finished} compactions finished, {} batches deleted", gone.len()));
    let listed = daemon.get("/v1/batches?limit=100").expect(200);
    assert!(listed["data"].as_array().is_some_and(|batches| !batches.is_empty()));
    let log = std::fs::read_to_string(daemon.dir().join("stderr.log")).expect("a log");
    assert!(!log.contains("ERROR"), "{log}");
}

/// How often the daemon has logged a message.
fn said(daemon: &Daemon, what: &str) -> usize {
    std::fs::read_to_string(daemon.dir().join("stderr.log")).unwrap_or_default().matches(what).count()
}

/// Makes a batch, reads it, and mostly deletes it again; returns `None` once the daemon is gone.
fn churn(addr: std::net::SocketAddr, input: &str, answered: &Mutex<BTreeMap<String, Answered>>) -> Option<()> {
    let ask = |request: Request| http::send(addr, request).ok();
    let number = fastrand::u64(..);
    // Metadata that does not compress, so that the store soon has much to give back.
    let noise = |_| char::from(fastrand::u8(b'0'..=b'z'));
    let metadata: BTreeMap<_, _> = (0..16).map(|key| (key.to_string(), (0..500).map(noise).collect::<String>())).collect();
    let mut order = Daemon::batch_request(input, CHAT);
    order["metadata"] = json!(metadata);
    let id = id_of(&ask(Request::post("/v1/batches").json(&order))?.expect(200));
    let path = format!("/v1/batches/{id}");
    let batch = loop {
        let batch = ask(Request::get(&path))?.expect(200);
        if batch["status"] == "completed" {
            break batch;
        }
        std::thread::yield_now();
    };
    let output = batch["output_file_id"].as_str().expect("an output file");
    let content = ask(Request::get(&format!("/v1/files/{output}/content")))?.body;
    let note = |answer| drop(answered.lock().expect("no panic").insert(id.clone(), answer));
    note(Answered::Ended(batch["metadata"].clone(), content));
    if !number.is_multiple_of(KEPT) {
        note(Answered::Unknown);
        ask(Request::new("DELETE", &path))?.expect(200);
        note(Answered::Deleted);
    }
    Some(())
}

fn check(daemon: &Daemon, id: &str, answer: &Answered) {
    let found = daemon.get(&format!("/v1/batches/{id}"));
    match answer {
        Answered::Ended(metadata, content) => {
            let batch = found.expect(200);
            assert_eq!((&batch["status"], &batch["metadata"]), (&json!("completed"), metadata), "{batch}");
            assert!(daemon.content(batch["output_file_id"].as_str().expect("an output file")) == *content, "{id}");
        }
        Answered::Deleted => assert_eq!(found.status(), 404, "{id} came back"),
        Answered::Unknown => assert!([200, 404].contains(&found.status()), "{id}"),
    }
}
