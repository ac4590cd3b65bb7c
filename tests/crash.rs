//! The promise under `kill -9`: what was ever shown or acknowledged is still there afterwards, and
//! every row has exactly one result.
//!
//! ```sh
//! cargo test --release --test crash -- --nocapture
//! BATCHD_CRASH_SEED=17 cargo test --release --test crash -- --nocapture   # the moments of another run
//! ```

#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use support::api::{self, CHAT, counts, id_of, is_terminal};
use support::daemon::Daemon;
use support::http::Request;
use support::upstream::{FakeUpstream, Reply};
use support::{rows, wait};

const ROWS: usize = 100_000;
const KILLS: u64 = 20;
/// Rows whose calls a kill may waste.
const IN_FLIGHT: u64 = 256;
/// For the whole of the large test, on a slow machine with a debug build.
const LIMIT: Duration = Duration::from_secs(900);

#[expect(clippy::disallowed_methods, reason = "the seed of a test run is not a setting of the daemon")]
fn seed() -> u64 {
    match std::env::var("BATCHD_CRASH_SEED") {
        Ok(text) => text.parse().expect("BATCHD_CRASH_SEED is a number"),
        Err(_) => fastrand::u64(..1_000_000),
    }
}

/// Everything the daemon has ever shown of one batch; fails when it takes something back.
struct Witness {
    rank: u8,
    total: u64,
    completed: u64,
    failed: u64,
    /// Hash of each line ever shown, by custom id.
    lines: HashMap<String, u64>,
    looks: u64,
}

impl Witness {
    fn new() -> Self {
        Self { rank: 0, total: 0, completed: 0, failed: 0, lines: HashMap::new(), looks: 0 }
    }

    fn see_batch(&mut self, batch: &Value) {
        let (total, completed, failed) = counts(batch);
        let rank = match batch["status"].as_str() {
            Some("validating") => 0,
            Some("in_progress") => 1,
            Some("finalizing") => 2,
            Some("completed") => 3,
            _ => panic!("an unexpected state: {batch}"),
        };
        let before = (self.rank, self.total, self.completed, self.failed);
        assert!(
            rank >= self.rank && total >= self.total && completed >= self.completed && failed >= self.failed,
            "something shown was taken back: {before:?}, then {batch}"
        );
        assert!(rank == 0 || total == ROWS as u64, "{batch}");
        (self.rank, self.total, self.completed, self.failed) = (rank, total, completed, failed);
        self.looks += 1;
    }

    /// Remembers complete lines; a stream that a kill has cut may end in half of one.
    fn see_lines(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n")) {
            let hash = hash(line);
            let id = custom_id(line);
            if let Some(earlier) = self.lines.get(&id) {
                assert_eq!(*earlier, hash, "row {id} was shown with another result before: {}", String::from_utf8_lossy(line));
            } else {
                self.lines.insert(id, hash);
            }
        }
    }
}

fn hash(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

fn custom_id(line: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        custom_id: String,
    }
    let named: Named = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(line)));
    named.custom_id
}

/// The next moment to kill at.
#[derive(Debug)]
enum Moment {
    /// This long after the daemon was ready.
    After(Duration),
    /// Once so many rows are done.
    Done(u64),
}

/// Moments spread over the whole life of the batch, the first during validation and the last about
/// its end.
fn moment(kill: u64, random: &mut fastrand::Rng) -> Moment {
    let share = ROWS as u64 / (KILLS - 2);
    match kill {
        0 => Moment::After(Duration::from_millis(random.u64(..60))),
        kill if kill == KILLS - 1 => Moment::Done(ROWS as u64 - random.u64(..IN_FLIGHT)),
        kill => Moment::Done((kill - 1) * share + random.u64(..share)),
    }
}

/// Watches the batch until the moment has come or the batch has ended.
fn watch(daemon: &Daemon, batch: &str, moment: &Moment, random: &mut fastrand::Rng, witness: &mut Witness) {
    let started = Instant::now();
    let pause = Duration::from_millis(random.u64(..4));
    let come = wait::poll(LIMIT, || {
        let now = daemon.batch(batch);
        witness.see_batch(&now);
        let done = witness.completed + witness.failed;
        let come = match moment {
            Moment::After(delay) => started.elapsed() >= *delay,
            Moment::Done(threshold) => done >= *threshold,
        };
        (come || is_terminal(&now["status"])).then_some(())
    });
    assert!(come.is_some(), "{moment:?} did not come within {LIMIT:?}: {}", daemon.batch(batch));
    // A few milliseconds more, so that the kill does not always follow an answer.
    std::thread::sleep(pause);
}

#[test]
fn twenty_kills_lose_nothing_and_double_nothing() {
    let seed = seed();
    wait::say(&format!("crash: seed {seed}"));
    let mut random = fastrand::Rng::with_seed(seed);
    let began = Instant::now();

    let upstream = FakeUpstream::healthy();
    let in_flight = IN_FLIGHT.to_string();
    let mut daemon = Daemon::with_upstream(&upstream.url(), &["--in-flight-limit", &in_flight, "--upstream-concurrency", "64"]);
    let input = rows::many(ROWS, "m");
    let file = daemon.upload(&input);
    let batch = daemon.create(&file);
    let mut witness = Witness::new();

    for kill in 0..KILLS {
        let moment = moment(kill, &mut random);
        watch(&daemon, &batch, &moment, &mut random, &mut witness);
        if kill % 3 == 0 {
            // Results shown in the last instant before a kill are shown all the same.
            witness.see_lines(&daemon.results(&batch));
        }
        daemon.kill9();
        daemon.restart();
        witness.see_batch(&daemon.batch(&batch));
        witness.see_lines(&daemon.results(&batch));
    }
    watch(&daemon, &batch, &Moment::Done(ROWS as u64), &mut random, &mut witness);
    let ended = daemon.wait_ended(&batch, LIMIT);
    witness.see_batch(&ended);

    let repeated = upstream.calls() - upstream.rows() as u64;
    wait::say(&format!(
        "crash: {ROWS} rows, {KILLS} kills, {repeated} repeated calls (at most {}), {} looks at the counts, {:.1} s",
        KILLS * IN_FLIGHT,
        witness.looks,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!(ended["status"], "completed");
    assert_eq!(counts(&ended), (ROWS as u64, ROWS as u64, 0));
    assert!(ended["error_file_id"].is_null(), "{ended}");
    check_output(&daemon, &ended, &mut witness);

    assert_eq!(upstream.rows(), ROWS);
    assert!(repeated <= KILLS * IN_FLIGHT, "{repeated} repeated calls");
    assert_eq!(upstream.changed_keys(), 0, "a repeated call carries the key of the first");

    // And what has ended stays as it is.
    let output = ended["output_file_id"].as_str().expect("an output file");
    let content = daemon.content(output);
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.batch(&batch), ended);
    assert!(daemon.content(output) == content, "the output changed");
}

/// Every row once, in the order of the input, and every line as it was first shown.
fn check_output(daemon: &Daemon, ended: &Value, witness: &mut Witness) {
    let output = ended["output_file_id"].as_str().expect("an output file");
    let content = daemon.content(output);
    assert_eq!(daemon.get(&format!("/v1/files/{output}")).expect(200)["bytes"], content.len());
    let lines: Vec<&[u8]> = content.split_inclusive(|b| *b == b'\n').collect();
    assert_eq!(lines.len(), ROWS);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(custom_id(line), rows::name(n));
    }
    let shown = witness.lines.len();
    witness.see_lines(&content);
    assert_eq!(witness.lines.len(), ROWS);
    wait::say(&format!("crash: {shown} result lines had been shown before the end, all unchanged"));
}

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

/// Content that kills the receiving daemon when half of it was read.
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
    // Calls that were under way when it was killed may be counted late, but none is made again.
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
