//! A tenant that does its worst, in one way after another, and its neighbour: how long the neighbour's
//! small batch takes, and its reads, against the same alone. Each way has a daemon of its own, with
//! its defaults.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::temp_dir;
use crate::batch::{line, small_body_for};
use crate::client::text_field;
use crate::daemon::Daemon;
use crate::options::Options;
use crate::report::{Report, Target, median};
use crate::server::free_address;
use crate::upstream::{Behaviour, Upstream};

const OPERATOR: &str = "operator-of-this-benchmark";
/// The longest wait for an answer to the tenant that does its worst: it does not care.
const IMPATIENT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);
/// The longest time that a small batch may take before the neighbour gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the tenant does its worst before the neighbour is measured.
const WARM: Duration = Duration::from_secs(3);

pub fn run(options: &Options) -> io::Result<Report> {
    let (batches, reads) = (options.get("batches"), options.get("reads"));
    let alone = Neighbour::measure(None, batches, reads)?;
    let mut report = Report::new(format_args!(
        "a batch of 10 rows takes {:.0} ms alone, a read {:.1} ms at its 99th percentile; {} MiB",
        alone.batch * 1e3,
        alone.read * 1e3,
        alone.peak >> 20
    ));
    for (name, way) in WAYS {
        let beside = Neighbour::measure(Some(way), batches, reads)?;
        let (batch, read) = (beside.batch / alone.batch, beside.read / alone.read);
        report.figure(name, format_args!("batch {batch:.2} times, reads {read:.2} times, {} MiB", beside.peak >> 20), Target::None);
    }
    report.line("targets", "a batch at most twice its time alone, reads three times, 256 MiB");
    Ok(report)
}

/// One way to do one's worst: goes on until `stop`.
type Way = fn(&Tenant, &AtomicBool);

const WAYS: [(&str, Way); 7] = [
    ("batches that wait", many_batches),
    ("large quotes", large_quotes),
    ("bodies that trickle", trickled_bodies),
    ("unread downloads", unread_downloads),
    ("silent connections", silent_connections),
    ("full metadata", full_metadata),
    ("endless lists", endless_lists),
];

/// What a neighbour meets: the time of its small batch and the 99th percentile of its reads, in
/// seconds, and the most memory of the daemon in bytes.
struct Neighbour {
    batch: f64,
    read: f64,
    peak: u64,
}

impl Neighbour {
    fn measure(way: Option<Way>, batches: u64, reads: u64) -> io::Result<Self> {
        let dir = temp_dir()?;
        let upstream = Upstream::start(dir.path(), Behaviour { delay: Duration::from_millis(50), ..Behaviour::default() })?;
        let keys = dir.path().join("keys");
        std::fs::write(&keys, OPERATOR)?;
        let upstreams = [("good".to_owned(), upstream.address()), ("dead".to_owned(), free_address()?)];
        let daemon = Daemon::in_front_of_each(&upstreams, dir.path(), &["--api-keys-file", &keys.to_string_lossy()])?;
        let operator = Tenant { address: daemon.address(), key: OPERATOR.to_owned(), dir: dir.path() };
        let (own, other) = (operator.tenant("Own")?, operator.tenant("Other")?);
        let stop = AtomicBool::new(false);
        let (batch, read) = std::thread::scope(|scope| {
            if let Some(way) = way {
                let (other, stop) = (&other, &stop);
                scope.spawn(move || way(other, stop));
                std::thread::sleep(WARM);
            }
            let measured = own.measure(batches, reads);
            stop.store(true, Ordering::Relaxed);
            measured
        })?;
        Ok(Self { batch, read, peak: daemon.server.peak_resident()? })
    }
}

/// Somebody with a key.
struct Tenant<'a> {
    address: SocketAddr,
    key: String,
    dir: &'a Path,
}

impl<'a> Tenant<'a> {
    /// Makes an organisation, as the operator.
    fn tenant(&self, name: &str) -> io::Result<Tenant<'a>> {
        let made = self.post("/admin/organisations", &json!({ "name": name }))?;
        Ok(Tenant { address: self.address, key: text_field(&made, "api_key")?, dir: self.dir })
    }

    fn open(&self, method: &str, path: &str, kind: &str, length: usize) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (address, key) = (self.address, &self.key);
        let once = format!("once-{:016x}", fastrand::u64(..));
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\n\
             content-length: {length}\r\nidempotency-key: {once}\r\nconnection: close\r\n\r\n"
        )?;
        Ok(stream)
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> io::Result<Value> {
        let mut stream = self.open(method, path, kind, body.len())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        match head.get(9..10) {
            Some("2") => Ok(serde_json::from_str(body)?),
            _ => Err(io::Error::other(format!("{method} {path}: {}", head.lines().next().unwrap_or_default()))),
        }
    }

    fn get(&self, path: &str) -> io::Result<Value> {
        self.ask("GET", path, "text/plain", b"")
    }

    fn post(&self, path: &str, body: &Value) -> io::Result<Value> {
        self.ask("POST", path, "application/json", body.to_string().as_bytes())
    }

    fn upload(&self, content: &[u8]) -> io::Result<String> {
        let mut body = b"--XX\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--XX\r\n\
            content-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n"
            .to_vec();
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n--XX--\r\n");
        text_field(&self.ask("POST", "/openai/v1/files", "multipart/form-data; boundary=XX", &body)?, "id")
    }

    fn rows(&self, model: &str, rows: u64) -> io::Result<String> {
        let lines: Vec<_> = (0..rows).map(|row| line(row, &small_body_for(model, row))).collect();
        self.upload(lines.join("\n").as_bytes())
    }

    fn batch(&self, file: &str, metadata: &Value) -> io::Result<String> {
        let order = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": metadata });
        text_field(&self.post("/openai/v1/batches", &order)?, "id")
    }

    /// The median time of small batches, and the 99th percentile of reads.
    fn measure(&self, batches: u64, reads: u64) -> io::Result<(f64, f64)> {
        let file = self.rows("good", 10)?;
        let mut times = Vec::new();
        let mut last = String::new();
        for _ in 0..batches.max(1) {
            let start = Instant::now();
            last = self.batch(&file, &json!({}))?;
            while self.get(&format!("/openai/v1/batches/{last}"))?["status"] != "completed" {
                if start.elapsed() > PATIENCE {
                    break;
                }
                std::thread::sleep(LOOK);
            }
            times.push(start.elapsed().as_secs_f64());
        }
        let mut spent = Vec::new();
        for _ in 0..reads.max(100) {
            let start = Instant::now();
            self.get(&format!("/openai/v1/batches/{last}"))?;
            spent.push(start.elapsed().as_secs_f64());
        }
        spent.sort_by(f64::total_cmp);
        let read = spent.get(spent.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        Ok((median(times), read))
    }
}

/// Repeats a request side by side. Refusals do not matter.
fn repeat(stop: &AtomicBool, times: usize, ask: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..times {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    ask();
                }
            });
        }
    });
}

fn wait(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
}

/// More batches than run at a time, all for a server that is down.
fn many_batches(tenant: &Tenant<'_>, stop: &AtomicBool) {
    let Ok(file) = tenant.rows("dead", 1) else { return };
    for _ in 0..1_100 {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let _ = tenant.batch(&file, &json!({}));
    }
    wait(stop);
}

fn large_quotes(tenant: &Tenant<'_>, stop: &AtomicBool) {
    let item = |n: u32| {
        let text = "x".repeat(2_000);
        json!({ "customer_item_id": format!("i{n}"), "operation": "responses", "model": "good",
            "input": { "messages": [{ "role": "user", "content": text }], "max_output_tokens": 5 } })
    };
    let body = json!({ "items": (0..4_000).map(item).collect::<Vec<_>>() });
    repeat(stop, 8, || _ = tenant.post("/batchrouter/v1/quotes/model", &body));
}

/// Bodies that announce much, and come a byte at a time.
fn trickled_bodies(tenant: &Tenant<'_>, stop: &AtomicBool) {
    let open = |_| tenant.open("POST", "/batchrouter/v1/quotes/model", "application/json", 19 << 20).ok();
    let mut streams: Vec<_> = (0..200).filter_map(open).collect();
    while !stop.load(Ordering::Relaxed) {
        streams.retain_mut(|stream| stream.write_all(b" ").is_ok());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Downloads of which nothing is read.
fn unread_downloads(tenant: &Tenant<'_>, stop: &AtomicBool) {
    let Ok(file) = tenant.upload(&vec![b'x'; 64 << 20]) else { return };
    let path = format!("/openai/v1/files/{file}/content");
    let streams: Vec<_> = (0..300).filter_map(|_| tenant.open("GET", &path, "text/plain", 0).ok()).collect();
    wait(stop);
    drop(streams);
}

/// Connections that say nothing, as many as one address may have and more.
fn silent_connections(tenant: &Tenant<'_>, stop: &AtomicBool) {
    let mut streams = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match TcpStream::connect_timeout(&tenant.address, IMPATIENT) {
            Ok(stream) if streams.len() < 2_000 => streams.push(stream),
            Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Batches whose metadata is as long as it may be.
fn full_metadata(tenant: &Tenant<'_>, stop: &AtomicBool) {
    let Ok(file) = tenant.rows("dead", 1) else { return };
    let metadata: serde_json::Map<_, _> = (0..16).map(|n| (format!("key-{n}"), json!("x".repeat(512)))).collect();
    let metadata = Value::Object(metadata);
    repeat(stop, 4, || _ = tenant.batch(&file, &metadata));
}

/// Lists, as long as they may be.
fn endless_lists(tenant: &Tenant<'_>, stop: &AtomicBool) {
    let Ok(file) = tenant.rows("dead", 1) else { return };
    for _ in 0..100 {
        let _ = tenant.batch(&file, &json!({}));
    }
    repeat(stop, 8, || _ = tenant.get("/openai/v1/batches?limit=100"));
}
