//! Acknowledged requests, one kind after the other: uploads, creates, cancellations, deletions.

use std::time::Duration;

use super::support;
use super::support::api::{self, CHAT, counts, id_of};
use super::support::daemon::Daemon;
use super::support::http::Request;
use super::support::upstream::{FakeUpstream, Reply};
use super::support::{rows, wait};

#[test]
fn an_acknowledged_upload_survives() {
    let mut daemon = Daemon::start();
    for n in 0..8_usize {
        let content = vec![b'a' + n as u8; 1 + n * 200_000];
        let file = daemon.upload(&content);
        daemon.kill9();
        daemon.restart();
        assert_eq!(daemon.get(&format!("/v1/files/{file}")).expect(200)["bytes"], content.len());
        assert!(daemon.content(&file) == content, "the content of upload {n} differs");
    }
    assert_eq!(daemon.get("/v1/files").expect(200)["data"].as_array().unwrap().len(), 8);
}

#[test]
fn an_upload_that_was_killed_halfway_leaves_nothing() {
    let mut daemon = Daemon::start();
    let pid = daemon.pid();
    let addr = daemon.addr();
    let fed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sender = {
        let fed = fed.clone();
        std::thread::spawn(move || {
            let form = support::http::Form::default().field("purpose", "batch");
            let kind = form.content_type();
            let content = Killing { left: 24 << 20, kill_at: 8 << 20, pid, fed };
            let body = form.streamed("file", "half", 24 << 20, content);
            support::http::send(addr, Request::post("/v1/files").header("content-type", &kind).body(body))
        })
    };
    let answer = sender.join().unwrap();
    assert!(fed.load(std::sync::atomic::Ordering::SeqCst), "the kill took place");
    assert!(answer.is_err(), "a killed daemon can't have answered: {answer:?}");
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.get("/v1/files").expect(200)["data"].as_array().unwrap().len(), 0);
    let size = |dir: &std::path::Path| tree_size(dir);
    let swept = wait::poll(wait::SOON, || (size(&daemon.data_dir()) < 4 << 20).then_some(()));
    assert!(swept.is_some(), "{} bytes are left of an upload that never was", size(&daemon.data_dir()));
}

/// Content that kills the receiving daemon once half of it was read.
struct Killing {
    left: u64,
    kill_at: u64,
    pid: u32,
    fed: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl std::io::Read for Killing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left <= self.kill_at && !self.fed.swap(true, std::sync::atomic::Ordering::SeqCst) {
            support::daemon::signal(self.pid, "KILL");
        }
        let n = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buffer[..n].fill(b'x');
        self.left -= n as u64;
        Ok(n)
    }
}

fn tree_size(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => tree_size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
fn an_acknowledged_create_survives_with_its_key() {
    let mut daemon = Daemon::start();
    let file = daemon.upload(rows::many(2_000, rows::INSTANT));
    let body = Daemon::batch_request(&file, CHAT);
    for n in 0..5 {
        let create = |daemon: &Daemon| daemon.send(Request::post("/v1/batches").header("idempotency-key", &format!("key-{n}")).json(&body));
        let first = id_of(&create(&daemon).expect(200));
        daemon.kill9();
        daemon.restart();
        assert_eq!(id_of(&create(&daemon).expect(200)), first);
        let ended = daemon.wait_ended(&first, wait::A_WHILE);
        assert_eq!(counts(&ended), (2_000, 2_000, 0));
    }
    assert_eq!(daemon.get("/v1/batches").expect(200)["data"].as_array().unwrap().len(), 5);
}

#[test]
fn an_acknowledged_cancel_survives() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(30)));
    let mut daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-concurrency", "4"]);
    let id = daemon.submit(rows::many(2_000, "m"));
    daemon.wait_for(&id, wait::A_WHILE, "under way", |batch| counts(batch).1 >= 5);
    let answer = daemon.post_empty(&format!("/v1/batches/{id}/cancel")).expect(200);
    let done = counts(&answer).1;
    daemon.kill9();
    let calls = upstream.calls();
    daemon.restart();
    let ended = daemon.wait_ended(&id, wait::A_WHILE);
    assert_eq!(ended["status"], "cancelled", "{ended}");
    assert!(counts(&ended).1 >= done, "{ended}");
    // Calls that were under way at the kill may be counted late, but none is made again.
    assert!(upstream.calls() <= calls + 4, "a cancelled batch calls nobody after a restart");
    assert_eq!(upstream.calls(), upstream.rows() as u64, "no row of a cancelled batch is called again");
    let (output, errors) = (daemon.output(&ended), daemon.errors(&ended));
    assert_eq!(output.len() + errors.len(), 2_000);
    let mut all: Vec<&str> = api::ids(&output);
    all.extend(api::ids(&errors));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 2_000, "every row once");
}

#[test]
fn an_acknowledged_delete_survives() {
    let mut daemon = Daemon::start();
    let file = daemon.upload(b"gone");
    daemon.delete(&format!("/v1/files/{file}")).expect(200);
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.get(&format!("/v1/files/{file}")).error_code(404), "not_found");
}
