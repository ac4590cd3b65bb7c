//! Rows a second with the number of calls in flight that batchd finds, beside fixed numbers.
//!
//! Two equal servers run side by side: one works for batchd by default, the other one for a fixed
//! number. Whatever else the machine does slows both, so only their ratio is judged.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::server::{Kind, Server};
use super::support::daemon::Daemon;
use super::support::http::Request;
use super::support::{api, wait};
use super::{CHAT, LIMIT, TOKENS, alone, body, check, input};

/// The number of calls must be known after this time of a run.
const SETTLED: Duration = Duration::from_secs(30);
/// More rows than a server does in a measurement.
const PLENTY: usize = 30_000;
/// The part of the best fixed number that the number found is to reach.
const TARGET: f64 = 0.9;
/// The part below which the noise of a machine is no excuse.
const FLOOR: f64 = 0.5;

/// A batch that runs, by a daemon of its own.
struct Running {
    daemon: Daemon,
    id: String,
}

impl Running {
    fn start(server: &Server, numbers: Range<usize>, args: &[&str]) -> Self {
        let daemon = Daemon::with(&[&["--upstream", &server.url()], args].concat());
        let id = daemon.submit(input(numbers));
        daemon.wait_for(&id, wait::A_WHILE, "in progress", |batch| batch["status"] == "in_progress");
        Self { daemon, id }
    }

    fn done(&self) -> u64 {
        self.daemon.batch(&self.id)["request_counts"]["completed"].as_u64().unwrap_or_default()
    }

    /// Calls that may be, and that are, in flight.
    fn level(&self) -> (u64, u64) {
        let lanes = self.daemon.get("/admin/lanes").expect(200);
        let number = |name: &str| lanes["data"][0][name].as_u64().unwrap_or_default();
        (number("allowed"), number("in_flight"))
    }

    /// Cancels the rest. Each row that was answered has one answer, a good one.
    fn stop(self) {
        let ended = self.daemon.post_empty(&format!("/v1/batches/{}/cancel", self.id));
        assert_eq!(ended.status(), 200, "{}", ended.text());
        let batch = self.daemon.wait_ended(&self.id, LIMIT);
        let lines = self.daemon.output(&batch);
        let ids: BTreeSet<&str> = api::ids(&lines).into_iter().collect();
        assert_eq!((lines.len() as u64, lines.len()), (api::counts(&batch).1, ids.len()), "{batch}");
        assert!(lines.iter().all(|line| is_good(&line.value["response"])), "{batch}");
    }
}

fn is_good(response: &Value) -> bool {
    response["status_code"] == 200 && response["body"]["usage"]["completion_tokens"] == TOKENS
}

/// The run by default, as it goes on beside the others.
struct ByDefault {
    running: Running,
    began: Instant,
    /// What was last said, and the calls allowed and in flight since then.
    said: (Duration, u64),
    levels: Vec<(u64, u64)>,
}

impl ByDefault {
    const STEP: Duration = Duration::from_secs(5);

    fn start(server: &Server) -> Self {
        let running = Running::start(server, 0..PLENTY, &[]);
        wait::say("  from     rows/s  allowed  in flight");
        Self { running, began: Instant::now(), said: (Duration::ZERO, 0), levels: vec![] }
    }

    /// Lets time pass, and writes down how it goes.
    fn watch(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(250));
            self.levels.push(self.running.level());
            let at = self.began.elapsed();
            if at >= self.said.0 + Self::STEP {
                let (done, (allowed, in_flight)) = (self.running.done(), median(&self.levels));
                let rate = (done - self.said.1) as f64 / (at - self.said.0).as_secs_f64();
                wait::say(&format!("  {:>4.0} s {rate:>8.1} {allowed:>8} {in_flight:>10}", self.said.0.as_secs_f64()));
                self.said = (at, done);
                self.levels.clear();
            }
        }
    }

    /// Rows a second by default and by the other one, over the last two thirds of `time`.
    fn beside(&mut self, time: Duration, other: impl Fn() -> u64) -> (f64, f64) {
        self.watch(time / 3);
        let (began, before) = (Instant::now(), (self.running.done(), other()));
        self.watch(time * 2 / 3);
        let (after, seconds) = ((self.running.done(), other()), began.elapsed().as_secs_f64());
        ((after.0 - before.0) as f64 / seconds, (after.1 - before.1) as f64 / seconds)
    }
}

fn median(levels: &[(u64, u64)]) -> (u64, u64) {
    let of = |part: fn(&(u64, u64)) -> u64| {
        let mut values: Vec<u64> = levels.iter().map(part).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    (of(|level| level.0), of(|level| level.1))
}

/// Sends rows without batchd, `calls` at a time, while `run` runs; gives it the number of answers.
fn straight<T>(server: &Server, numbers: Range<usize>, calls: u64, run: impl FnOnce(&AtomicU64) -> T) -> T {
    let (sent, done, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..calls {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let n = numbers.start + sent.fetch_add(1, Ordering::Relaxed) as usize;
                    let answer = server.send(Request::post(CHAT).json(&body(n))).expect("an answer").expect(200);
                    assert_eq!(answer["usage"]["completion_tokens"], TOKENS, "{answer}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also when `run` panics: the scope waits for its threads.
        let _over = Over(&over);
        run(&done)
    })
}

/// Sets the flag when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Measures for `time` beside each fixed number, without batchd and with it. Each number has two new
/// servers that work from the same moment: llama-server keeps what it has answered, and gets slower
/// with each row.
fn measure(kind: Kind, args: &[&str], fixed: &[u64], time: Duration) {
    let (mut table, mut worst) = (vec![], f64::INFINITY);
    let mut row = |how: String, (default, fixed): (f64, f64)| {
        worst = worst.min(default / fixed);
        table.push(format!("  {how:<28} {fixed:>8.1} {default:>11.1} {:>9.2}", default / fixed));
    };
    for calls in fixed {
        let (ours, other) = (Server::start(kind, args), Server::start(kind, args));
        let mut by_default = ByDefault::start(&ours);
        let rates = straight(&other, 0..PLENTY, *calls, |done| {
            by_default.watch(SETTLED);
            by_default.beside(time, || done.load(Ordering::Relaxed))
        });
        row(format!("{calls}, without batchd"), rates);
        // Each row is sent once, so that no cache has it as a whole.
        let running = Running::start(&other, PLENTY..2 * PLENTY, &["--upstream-concurrency", &calls.to_string()]);
        let rates = by_default.beside(time, || running.done());
        row(format!("{calls} at most, {} in flight", running.level().1), rates);
        running.stop();
        by_default.running.stop();
    }
    wait::say("  fixed number of calls          rows/s  by default  of it");
    table.iter().for_each(|line| wait::say(line));
    let verdict = if worst >= TARGET { "reached" } else { "missed" };
    wait::say(&format!("  default / best fixed: {worst:.2}; the target of {TARGET} is {verdict}"));
    assert!(worst >= FLOOR, "{worst:.2} of what a fixed number of calls does");
}

/// Each row of a small batch has its answer.
fn check_a_batch(kind: Kind, args: &[&str]) {
    let server = Server::start(kind, args);
    let daemon = Daemon::with(&["--upstream", &server.url()]);
    let id = daemon.submit(input(0..300));
    check(&daemon, &daemon.wait_ended(&id, LIMIT), 0..300);
}

#[test]
#[ignore = "installs a model server, and measures for minutes"]
fn throughput_of_llama_server() {
    let _alone = alone();
    wait::say("llama-server, 8 slots:");
    let args = ["--parallel", "8", "--ctx-size", "8192"];
    check_a_batch(Kind::Llama, &args);
    measure(Kind::Llama, &args, &[4, 8, 16, 64], Duration::from_secs(12));
}

#[test]
#[ignore = "installs a model server, and measures for minutes"]
fn throughput_of_vllm() {
    let _alone = alone();
    wait::say("vLLM, 256 sequences:");
    let args = ["--max-num-seqs", "256"];
    check_a_batch(Kind::Vllm, &args);
    measure(Kind::Vllm, &args, &[16, 64, 256], Duration::from_secs(24));
}
