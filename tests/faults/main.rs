//! Every system call on the data directory fails once: in a start, while a batch runs, in a stop.
//! Everything that was answered is there at the next start, and no file is gone.
//!
//! The calls are those of the store and of sled alike, because a library in front of libc makes
//! them fail (`shim.c`; it is built with `cc`, as some crates are). Calls that the store makes
//! relative to open folders bypass libc: the tests of `store/dir` make those fail.
//!
//! [`power`] covers losses of power, with a library of its own.
//!
//! A run of `cargo test` tries some of the calls of each kind. To try all of them:
//! `BATCHD_FAULTS=all cargo test --release --test faults`.

#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod disk;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod power;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::api::{CHAT, id_of};
use support::daemon::{self, Daemon};
use support::http::{self, Form, Request, Response};
use support::{rows, wait};

const KINDS: [&str; 6] = ["read", "write", "sync", "open", "rename", "remove"];
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// Calls of each kind that fail in a usual run.
const SOME: usize = 4;

/// Everything that was answered: the path of a resource, and its content.
type Answered = BTreeMap<String, Vec<u8>>;

/// A call that fails.
struct Fault<'a> {
    shim: &'a Path,
    kind: &'a str,
    nth: usize,
    errno: i32,
    count: &'a Path,
}

/// Builds a library of this folder that is loaded in front of libc.
fn shim(dir: &Path, source: &str) -> PathBuf {
    let (source, library) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(source), dir.join("shim.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("cc runs").success());
    library
}

/// Starts `serve` on `dir/data`; returns `None` in place of the address if the daemon refuses to
/// start.
fn start(dir: &Path, fault: Option<&Fault<'_>>) -> (Child, Option<SocketAddr>) {
    let mut command = daemon::batchd(dir);
    if let Some(Fault { shim, kind, nth, errno, count }) = fault {
        command.env("LD_PRELOAD", shim).env("FAULT_DIR", dir.join("data")).env("FAULT_KIND", kind).env("FAULT_COUNT", count);
        command.env("FAULT_NTH", nth.to_string()).env("FAULT_ERRNO", errno.to_string());
    }
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.join("data"));
    let log = std::fs::File::options().create(true).append(true).open(dir.join("stderr.log")).expect("a log");
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("batchd starts");
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line);
    let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
    (child, addr)
}

fn ask(addr: SocketAddr, request: Request) -> Option<Response> {
    http::send(addr, request).ok().filter(|answer| answer.status() == 200)
}

/// Uploads a file and runs a batch, as far as the daemon gets; returns everything that it answered.
fn work(addr: SocketAddr) -> Answered {
    let mut answered = Answered::new();
    let mut all = || {
        let content = rows::many(3, rows::INSTANT);
        let form = Form::default().field("purpose", "batch").file("file", "input.jsonl", content.as_bytes());
        let file = id_of(&ask(addr, Request::post("/v1/files").form(form))?.expect(200));
        answered.insert(format!("/v1/files/{file}/content"), content.into_bytes());
        let batch = id_of(&ask(addr, Request::post("/v1/batches").json(&Daemon::batch_request(&file, CHAT)))?.expect(200));
        answered.insert(format!("/v1/batches/{batch}"), Vec::new());
        let ended = wait::poll(Duration::from_secs(5), || {
            let batch = ask(addr, Request::get(&format!("/v1/batches/{batch}")))?.expect(200);
            (batch["status"] == "completed").then_some(batch)
        })?;
        let output = format!("/v1/files/{}/content", ended["output_file_id"].as_str()?);
        answered.insert(output.clone(), ask(addr, Request::get(&output))?.body);
        Some(())
    };
    let _ = all();
    answered
}

fn stop(mut child: Child) {
    daemon::signal(child.id(), "TERM");
    daemon::wait_exit(&mut child, Duration::from_secs(60));
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

/// Runs one life with the fault and one without it. Returns `None` if there is no such call.
fn try_one(orig: &Path, known: &Answered, fault: &Fault<'_>) -> Option<bool> {
    let dir = daemon::temp_dir();
    copy(orig, &dir.path().join("data"));
    let (child, addr) = start(dir.path(), Some(fault));
    let mut answered = known.clone();
    match addr {
        Some(addr) => {
            answered.extend(work(addr));
            stop(child);
        }
        None => drop(child.wait_with_output()),
    }
    let calls = std::fs::metadata(fault.count).map_or(0, |count| count.len());
    let _ = std::fs::remove_file(fault.count);
    if calls < fault.nth as u64 {
        return None;
    }
    let what = format!("{} {} with error {}", fault.kind, fault.nth, fault.errno);
    let (child, healthy) = start(dir.path(), None);
    let log = || std::fs::read_to_string(dir.path().join("stderr.log")).unwrap_or_default();
    let healthy = healthy.unwrap_or_else(|| panic!("{what}: no start afterwards:\n{}", log()));
    for (path, content) in &answered {
        let found = http::send(healthy, Request::get(path)).expect("an answer");
        assert_eq!(found.status(), 200, "{what}: {path} is gone:\n{}", log());
        assert!(content.is_empty() || found.body == *content, "{what}: {path} has changed");
    }
    stop(child);
    Some(addr.is_some())
}

#[expect(clippy::disallowed_methods, reason = "the length of a test run is not a setting of the daemon")]
fn all() -> bool {
    std::env::var("BATCHD_FAULTS").is_ok_and(|which| which == "all")
}

#[test]
fn no_failing_call_costs_what_was_answered() {
    let scratch = daemon::temp_dir();
    let (shim, count) = (shim(scratch.path(), "shim.c"), scratch.path().join("count"));
    // A directory whose daemon was killed.
    let dir = daemon::temp_dir();
    let (mut child, addr) = start(dir.path(), None);
    let mut known = Answered::new();
    for _ in 0..3 {
        known.extend(work(addr.expect("it starts")));
    }
    child.kill().and_then(|()| child.wait()).expect("it is killed");
    let orig = dir.path().join("data");
    for kind in KINDS {
        let fault = |nth, errno| Fault { shim: &shim, kind, nth, errno, count: &count };
        // Count the calls.
        let probe = daemon::temp_dir();
        copy(&orig, &probe.path().join("data"));
        let (child, addr) = start(probe.path(), Some(&fault(0, EIO)));
        work(addr.expect("it starts when nothing fails"));
        stop(child);
        let calls = std::fs::metadata(&count).map_or(0, |count| count.len()) as usize;
        let _ = std::fs::remove_file(&count);
        let step = if all() { 1 } else { calls.div_ceil(SOME).max(1) };
        let (mut tried, mut refused) = (0, 0);
        for nth in (1 + fastrand::usize(..step)..=calls).step_by(step) {
            let errno = if nth % 2 == 0 || kind == "read" { EIO } else { ENOSPC };
            let errnos = if all() { vec![EIO, ENOSPC] } else { vec![errno] };
            for served in errnos.into_iter().filter_map(|errno| try_one(&orig, &known, &fault(nth, errno))) {
                (tried, refused) = (tried + 1, refused + usize::from(!served));
            }
        }
        wait::say(&format!("faults: {kind}: {calls} calls, {tried} failed one by one, {refused} starts were refused"));
    }
}
