//! batchd in front of real model servers: vLLM and llama.cpp's `llama-server`, both on the CPU, with
//! a tiny model of random weights.
//!
//! `install.sh` installs them below the target directory, once; see there for what that needs. The
//! tests take both cores of a small machine for minutes each, so they are ignored:
//!
//! ```sh
//! cargo test --release --test real_servers -- --ignored --nocapture --test-threads 1
//! ```
//!
//! A name, such as `llama_server`, `vllm`, `throughput` or `outage`, chooses some of them. What they
//! say about speed holds for the schedulers of these servers, not for a GPU.

mod key;
mod outage;
mod server;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;
mod throughput;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use support::api::{self, CHAT, counts};
use support::daemon::Daemon;
use support::rows;

/// Tokens of an answer.
const TOKENS: u64 = 64;
/// Every wait for a batch ends by then.
const LIMIT: Duration = Duration::from_secs(1_200);

/// Two servers at a time would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The body of a request for exactly [`TOKENS`] tokens.
fn body(n: usize) -> Value {
    let content = format!("Tell me about number {n}, in a few words, please.");
    json!({
        "model": server::MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": TOKENS,
        "ignore_eos": true,
    })
}

fn input(numbers: Range<usize>) -> String {
    let lines: Vec<String> = numbers.map(|n| rows::row(&rows::name(n), CHAT, &body(n))).collect();
    rows::file(&lines)
}

/// Every row has one answer, a good one, with all its tokens.
fn check(daemon: &Daemon, batch: &Value, numbers: Range<usize>) {
    let n = numbers.len() as u64;
    assert_eq!((&batch["status"], counts(batch)), (&"completed".into(), (n, n, 0)), "{batch}");
    let lines = daemon.output(batch);
    let ids: BTreeSet<&str> = api::ids(&lines).into_iter().collect();
    let names: Vec<String> = numbers.map(rows::name).collect();
    assert_eq!(lines.len(), names.len(), "rows are answered once");
    assert_eq!(ids, names.iter().map(String::as_str).collect::<BTreeSet<_>>());
    for line in &lines {
        let usage = &line.value["response"]["body"]["usage"];
        assert_eq!((line.status(), usage["completion_tokens"].as_u64()), (Some(200), Some(TOKENS)), "{}", line.value);
    }
}

/// Seconds with two digits.
fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
