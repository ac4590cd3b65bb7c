//! Large batches in bounded memory: a million rows, and an input of nearly a gibibyte, from end to
//! end with the built-in provider.
//!
//! These tests take minutes and about 4 GiB of disk in the target directory, so they are ignored:
//!
//! ```sh
//! cargo test --release --test limits -- --ignored --nocapture --test-threads 1
//! ```
//!
//! Memory is read from `/proc`, so the tests say nothing outside Linux.

#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;

use std::io::{BufRead as _, BufReader, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use support::api::{counts, id_of};
use support::daemon::Daemon;
use support::http::{Form, Request};
use support::{rows, wait};

const LIMIT: Duration = Duration::from_secs(3_000);
const MIB: u64 = 1 << 20;

/// An input that is generated while it is read: `rows` lines of exactly `width` bytes.
struct Rows {
    rows: u64,
    width: usize,
    next: u64,
    line: Vec<u8>,
    sent: usize,
}

impl Rows {
    fn new(rows: u64, width: usize) -> Self {
        Self { rows, width, next: 0, line: vec![], sent: 0 }
    }

    fn size(&self) -> u64 {
        self.rows * self.width as u64
    }

    fn make_line(&mut self) {
        let start = format!(
            r#"{{"custom_id":"row-{}","method":"POST","url":"/v1/chat/completions","body":{{"model":"{}","messages":[{{"role":"user","content":""#,
            self.next,
            rows::INSTANT
        );
        let end = "\"}],\"max_tokens\":8}}\n";
        let pad = self.width.checked_sub(start.len() + end.len()).expect("the row fits in its width");
        self.line.clear();
        self.line.extend_from_slice(start.as_bytes());
        self.line.resize(start.len() + pad, b'w');
        self.line.extend_from_slice(end.as_bytes());
        self.next += 1;
        self.sent = 0;
    }
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.sent == self.line.len() {
                if self.next == self.rows {
                    break;
                }
                self.make_line();
            }
            let n = (self.line.len() - self.sent).min(buffer.len() - filled);
            buffer[filled..filled + n].copy_from_slice(&self.line[self.sent..self.sent + n]);
            self.sent += n;
            filled += n;
        }
        Ok(filled)
    }
}

/// A field of `/proc/PID/status` in bytes.
fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Runs `work` and records the peak of resident memory, sampled in parallel, and the time taken.
fn measured<T>(pid: u32, phase: &str, peaks: &Mutex<Vec<(String, u64)>>, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let (value, peak) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak = 0;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(memory(pid, "VmRSS:"));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let value = work();
        over.store(true, Ordering::Relaxed);
        (value, sampler.join().expect("the sampler"))
    });
    wait::say(&format!("limits:   {phase:<10} {:7.1} s, at most {} MiB", began.elapsed().as_secs_f64(), peak / MIB));
    peaks.lock().expect("no sampler panicked").push((phase.to_owned(), peak));
    value
}

/// Runs a batch of this shape on a fresh daemon; returns the daemon's high-water mark of resident
/// memory.
fn run(count: u64, width: usize) -> u64 {
    let daemon = Daemon::with(&["--max-file-bytes", "2000000000", "--max-rows", "2000000"]);
    let pid = daemon.pid();
    let peaks = Mutex::new(Vec::new());
    let content = Rows::new(count, width);
    let bytes = content.size();
    wait::say(&format!("limits: {count} rows of {width} bytes, {} MiB; idle at {} MiB", bytes / MIB, memory(pid, "VmRSS:") / MIB));

    let form = Form::default().field("purpose", "batch");
    let kind = form.content_type();
    let body = form.streamed("file", "large.jsonl", bytes, content);
    let upload = || daemon.send(Request::post("/v1/files").header("content-type", &kind).body(body)).expect(200);
    let file = measured(pid, "upload", &peaks, upload);
    assert_eq!(file["bytes"], bytes);

    let id = daemon.create(&id_of(&file));
    measured(pid, "validate", &peaks, || daemon.wait_for(&id, LIMIT, "validated", |batch| batch["status"] != "validating"));
    let batch = measured(pid, "run", &peaks, || daemon.wait_ended(&id, LIMIT));
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(counts(&batch), (count, count, 0));

    measured(pid, "download", &peaks, || download(&daemon, batch["output_file_id"].as_str().expect("an output file"), count));
    let peak = memory(pid, "VmHWM:");
    wait::say(&format!("limits:   high water {} MiB, at the end {} MiB", peak / MIB, memory(pid, "VmRSS:") / MIB));
    assert!(peak > 0, "no /proc here: nothing was measured");
    peak
}

/// Reads the output as it arrives; every row must be there, in order.
fn download(daemon: &Daemon, file: &str, count: u64) {
    let announced = daemon.get(&format!("/v1/files/{file}")).expect(200)["bytes"].as_u64().expect("bytes");
    let (head, body) = daemon.open(Request::get(&format!("/v1/files/{file}/content")));
    assert_eq!(head.status, 200);
    let mut reader = BufReader::with_capacity(1 << 20, body);
    let mut line = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).expect("the output");
        if n == 0 {
            break;
        }
        let expected = format!("\"custom_id\":\"row-{rows}\",");
        let start = String::from_utf8_lossy(&line[..line.len().min(200)]);
        assert!(start.contains(&expected), "row {rows}: {start}");
        bytes += n as u64;
        rows += 1;
    }
    assert_eq!((rows, bytes), (count, announced));
}

#[test]
#[ignore = "takes minutes; run with --ignored in a release build"]
fn memory_does_not_grow_with_the_number_of_rows() {
    // With fewer rows the store's cache is not full yet, and its filling would be mistaken for
    // growth.
    let small = run(300_000, 260);
    let large = run(1_000_000, 260);
    assert!(large < 400 * MIB, "{} MiB for a million rows", large / MIB);
    assert!(large.saturating_sub(small) < 60 * MIB, "{} MiB for 300,000 rows, {} MiB for 1,000,000", small / MIB, large / MIB);
}

#[test]
#[ignore = "takes minutes; run with --ignored in a release build"]
fn memory_does_not_grow_with_the_size_of_the_input() {
    let peak = run(1_000_000, 1_070);
    assert!(peak < 400 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn the_made_input_has_the_announced_size_and_is_valid() {
    let mut text = String::new();
    let mut content = Rows::new(3, 260);
    let bytes = content.size();
    content.read_to_string(&mut text).unwrap();
    assert_eq!(text.len() as u64, bytes);
    for line in text.lines() {
        batchd::domain::row::openai::parse_line(
            line.as_bytes(),
            batchd::domain::endpoint::RowEndpoint::One(batchd::domain::endpoint::Endpoint::ChatCompletions),
        )
        .unwrap();
    }
}
