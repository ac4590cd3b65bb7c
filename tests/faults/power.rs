//! Losses of power: everything that was answered before is there at the next start, and a start is
//! never refused.
//!
//! A library in front of libc (`recorder.c`) records each write and sync of the daemon. From that,
//! [`super::disk`] makes a state that a disk may hold when the power fails at some point; its
//! documentation lists what is modelled and what is not. A healthy daemon is started on each such
//! directory. The content of an answer counts from the length that the trace had when the answer
//! came.
//!
//! A run of `cargo test` tries some points. To try more:
//! `BATCHD_POWER_CUTS=200 cargo test --release --test faults power -- --nocapture`

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::disk::{Cut, Trace};
use super::support::api::{CHAT, id_of};
use super::support::daemon::{self, Daemon};
use super::support::http::{self, Form, Request};
use super::support::{rows, wait};
use super::{shim, start, stop};

const CLIENTS: usize = 3;

#[expect(clippy::disallowed_methods, reason = "the length of a test run is not a setting of the daemon")]
fn cuts() -> usize {
    std::env::var("BATCHD_POWER_CUTS").map_or(24, |text| text.parse().expect("BATCHD_POWER_CUTS is a number"))
}

#[expect(clippy::disallowed_methods, reason = "a failing run is repeated with its seed")]
fn seed() -> u64 {
    std::env::var("BATCHD_POWER_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("BATCHD_POWER_SEED is a number"))
}

/// The state that an answer has shown.
#[derive(Debug)]
enum Shown {
    /// A file with this content.
    Content(Vec<u8>),
    /// A batch, with at least this many rows completed.
    Rows(u64),
    /// A batch that has ended, with this metadata.
    Ended(Value),
}

/// The answers about a resource, and how long the trace was at each answer.
#[derive(Debug, Default)]
struct Known {
    shown: Vec<(u64, Shown)>,
    /// The deletion was requested at this length of the trace or later.
    deleting: Option<u64>,
    deleted: Option<u64>,
}

/// Returns the answer; `None` from a daemon that is gone, or about to go.
fn ask(addr: SocketAddr, request: Request) -> Option<http::Response> {
    http::send(addr, request).ok().filter(|answer| answer.status() != 503)
}

/// A daemon under the recorder, and the answers that it has given.
struct Recorded {
    dir: tempfile::TempDir,
    trace: PathBuf,
    shim: PathBuf,
    known: Mutex<BTreeMap<String, Known>>,
}

impl Recorded {
    fn new() -> Self {
        let dir = daemon::temp_dir();
        let path = dir.path().canonicalize().expect("a folder");
        Self { trace: path.join("trace"), shim: shim(&path, "recorder.c"), dir, known: Mutex::default() }
    }

    fn start(&self, args: &[&str]) -> (Child, SocketAddr) {
        let path = self.dir.path().canonicalize().expect("a folder");
        let mut command = daemon::batchd(&path);
        command.env("LD_PRELOAD", &self.shim).env("POWER_DIR", path.join("data")).env("POWER_TRACE", &self.trace);
        command.env("POWER_KILL", path.join("kill"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(path.join("data")).args(args);
        let log = std::fs::File::options().create(true).append(true).open(path.join("stderr.log")).expect("a log");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("batchd starts");
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line);
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        (child, addr.unwrap_or_else(|| panic!("no start: {}", self.log())))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr.log")).unwrap_or_default()
    }

    fn length(&self) -> u64 {
        std::fs::metadata(&self.trace).expect("a trace").len()
    }

    fn note(&self, path: &str, shown: Shown) {
        let now = self.length();
        self.known.lock().expect("no panic").entry(path.to_owned()).or_default().shown.push((now, shown));
    }

    fn delete(&self, addr: SocketAddr, path: &str) -> Option<()> {
        let before = self.length();
        self.known.lock().expect("no panic").get_mut(path)?.deleting = Some(before);
        ask(addr, Request::new("DELETE", path))?.expect(200);
        let after = self.length();
        self.known.lock().expect("no panic").get_mut(path)?.deleted = Some(after);
        Some(())
    }

    /// Uploads a file, runs a batch of it, and mostly deletes one or the other; returns `None` once
    /// the daemon is gone.
    fn work(&self, addr: SocketAddr, kind: &Kind) -> Option<()> {
        let said = |request: Request| Some(ask(addr, request)?.expect(200));
        let content = kind.rows();
        let form = Form::default().field("purpose", "batch").file("file", "input.jsonl", content.as_bytes());
        let file = id_of(&said(Request::post("/v1/files").form(form))?);
        let (file_path, content_path) = (format!("/v1/files/{file}"), format!("/v1/files/{file}/content"));
        self.note(&file_path, Shown::Rows(0));
        self.note(&content_path, Shown::Content(content.into_bytes()));
        let mut order = Daemon::batch_request(&file, CHAT);
        // Metadata that does not compress, so that the store soon has much to give back.
        let noise = |_| char::from(fastrand::u8(b'0'..=b'z'));
        let metadata: BTreeMap<_, _> = (0..16).map(|key| (key.to_string(), (0..500).map(noise).collect::<String>())).collect();
        order["metadata"] = json!(metadata);
        let path = format!("/v1/batches/{}", id_of(&said(Request::post("/v1/batches").json(&order))?));
        self.note(&path, Shown::Rows(0));
        let batch = loop {
            let batch = said(Request::get(&path))?;
            self.note(&path, Shown::Rows(batch["request_counts"]["completed"].as_u64().unwrap_or_default()));
            if batch["status"] == "completed" {
                break batch;
            }
            std::thread::yield_now();
        };
        self.note(&path, Shown::Ended(batch["metadata"].clone()));
        let output = format!("/v1/files/{}/content", batch["output_file_id"].as_str()?);
        let results = ask(addr, Request::get(&output))?.body;
        self.note(&output, Shown::Content(results));
        if fastrand::u8(..kind.kept) > 0 {
            // The output is deleted with its batch.
            let now = self.length();
            self.known.lock().expect("no panic").get_mut(&output)?.deleting = Some(now);
            self.delete(addr, &path)?;
            let now = self.length();
            self.known.lock().expect("no panic").get_mut(&output)?.deleted = Some(now);
        }
        if fastrand::u8(..kind.kept) > 0 {
            let now = self.length();
            self.known.lock().expect("no panic").get_mut(&content_path)?.deleting = Some(now);
            self.delete(addr, &file_path)?;
            let now = self.length();
            self.known.lock().expect("no panic").get_mut(&content_path)?.deleted = Some(now);
        }
        Some(())
    }

    /// Works with a few clients until `enough` holds.
    fn live(&self, addr: SocketAddr, kind: &Kind, enough: impl Fn(usize) -> bool, end: impl FnOnce()) {
        let (over, done) = (AtomicBool::new(false), Mutex::new(0));
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) && self.work(addr, kind).is_some() {
                        *done.lock().expect("no panic") += 1;
                    }
                });
            }
            let waited = wait::poll(Duration::from_secs(180), || enough(*done.lock().expect("no panic")).then_some(()));
            end();
            over.store(true, Ordering::Relaxed);
            assert!(waited.is_some(), "{}: it takes too long:\n{}", kind.name, self.log());
        });
    }
}

/// A kind of work.
struct Kind {
    name: &'static str,
    args: &'static [&'static str],
    rows: usize,
    /// The length of each result in tokens; 0 means the default.
    tokens: u32,
    /// One batch in this many stays.
    kept: u8,
    /// Compactions to wait for in each life.
    compactions: usize,
}

const KINDS: [Kind; 3] = [
    Kind { name: "usual", args: &[], rows: 40, tokens: 0, kept: 3, compactions: 0 },
    Kind { name: "compaction", args: &["--compact-from", "1MiB", "--compact-below", "90"], rows: 3, tokens: 0, kept: 12, compactions: 2 },
    // Groups that span several of sled's segments.
    Kind { name: "large", args: &["--commit-interval", "250ms"], rows: 40, tokens: 20_000, kept: 2, compactions: 0 },
];

impl Kind {
    fn rows(&self) -> String {
        if self.tokens == 0 {
            return rows::many(self.rows, rows::INSTANT);
        }
        let long = format!("output_tokens={}", self.tokens);
        let lines: Vec<_> = (0..self.rows).map(|_| rows::faulty(&format!("row-{}", fastrand::u64(..)), rows::INSTANT, &long)).collect();
        rows::file(&lines.iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>())
    }

    /// Records one life that is killed, and one that is stopped.
    fn record(&self) -> Recorded {
        let recorded = Recorded::new();
        let args = [&["--log", "warn,batchd::store=info"], self.args].concat();
        for is_last in [false, true] {
            let (mut child, addr) = recorded.start(&args);
            let compacted = || recorded.log().matches("the store was compacted").count();
            let before = compacted();
            let enough = |done| done >= 12 && compacted() >= before + self.compactions;
            recorded.live(addr, self, enough, || {
                if is_last {
                    return stop(child);
                }
                let kill = recorded.trace.with_file_name("kill");
                std::fs::write(&kill, "").expect("a file");
                daemon::wait_exit(&mut child, wait::SOON).expect("it kills itself at its next write");
                std::fs::remove_file(&kill).expect("it is there");
            });
        }
        recorded
    }
}

/// Starts a healthy daemon on the state that the disk holds, and looks for everything that was
/// answered.
fn check(known: &BTreeMap<String, Known>, cut: &Cut, what: &str, dir: &Path) {
    let (child, addr) = start(dir, None);
    let log = || std::fs::read_to_string(dir.join("stderr.log")).unwrap_or_default();
    let addr = addr.unwrap_or_else(|| panic!("{what}: no start:\n{}", log()));
    for (path, known) in known {
        let Some((_, last)) = known.shown.iter().rfind(|(at, _)| *at <= cut.at) else { continue };
        let found = http::send(addr, Request::get(path)).expect("an answer");
        if known.deleted.is_some_and(|at| at <= cut.at) {
            assert_eq!(found.status(), 404, "{what}: {path} came back");
            continue;
        }
        if known.deleting.is_some_and(|at| at < cut.at) && found.status() == 404 {
            continue;
        }
        assert_eq!(found.status(), 200, "{what}: {path} is gone:\n{}", log());
        match last {
            Shown::Content(content) => assert!(found.body == *content, "{what}: {path} has changed"),
            Shown::Rows(least) => {
                let completed = found.json()["request_counts"]["completed"].as_u64().unwrap_or_default();
                assert!(completed >= *least, "{what}: {path} has {completed} rows, {least} were shown");
            }
            Shown::Ended(metadata) => {
                let batch = found.json();
                assert_eq!((&batch["status"], &batch["metadata"]), (&json!("completed"), metadata), "{what}: {path}");
            }
        }
    }
    assert!(!log().contains("ERROR"), "{what}: {}", log());
    stop(child);
}

#[test]
fn no_loss_of_power_costs_what_was_answered() {
    let mut failures = Vec::new();
    for kind in &KINDS {
        let recorded = kind.record();
        let trace = Trace::read(&recorded.trace);
        let known = recorded.known.into_inner().expect("no panic");
        let cuts = cuts().div_ceil(KINDS.len());
        let (mut sure, mut unsynced) = (0, 0);
        let before = failures.len();
        for _ in 0..cuts {
            let seed = seed();
            let mut random = fastrand::Rng::with_seed(seed);
            let cut = trace.cut(&mut random);
            let image = daemon::temp_dir();
            unsynced = unsynced.max(trace.image(&cut, &mut random, &image.path().join("data")));
            let what = format!("{}: the power goes at operation {} of {}", kind.name, cut.ops, trace.len());
            sure += known.values().filter(|known| known.shown.iter().any(|(at, _)| *at <= cut.at)).count();
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&known, &cut, &what, image.path())));
            if checked.is_err() {
                wait::say(&format!("power: kept in {}", image.keep().display()));
                failures.push(what);
            }
        }
        let (ops, failed) = (trace.len(), failures.len() - before);
        let unsynced = unsynced >> 10;
        wait::say(&format!(
            "power: {}: {cuts} cuts of {ops} operations, up to {unsynced} KiB not synced, {sure} things looked for, {failed} failed",
            kind.name
        ));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
