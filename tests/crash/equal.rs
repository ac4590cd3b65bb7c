//! Kills while rows receive the answers of equal rows.

use std::fmt::Write as _;
use std::time::Duration;

use super::support::api::{counts, is_terminal};
use super::support::daemon::Daemon;
use super::support::upstream::{FakeUpstream, Reply};
use super::support::wait;
use super::witness::Witness;

const ROWS: usize = 60_000;
const REQUESTS: usize = 300;
const KILLS: u64 = 8;
/// Calls at a time.
const CALLS: u64 = 16;
const LIMIT: Duration = Duration::from_secs(120);

/// Rows that make few distinct requests.
fn input() -> String {
    let mut text = String::new();
    for n in 0..ROWS {
        let ask = n % REQUESTS;
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Say {ask}."}}],"user":"ask-{ask}"}}"#);
        // Writing into a string cannot fail.
        let _ = writeln!(text, r#"{{"custom_id":"row-{n}","method":"POST","url":"/v1/chat/completions","body":{body}}}"#);
    }
    text
}

#[test]
fn equal_rows_have_one_result_each_and_one_call_together() {
    let mut random = super::random("equal rows");
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(10)));
    let calls = CALLS.to_string();
    let mut daemon = Daemon::with_upstream(&upstream.url(), &["--dedup", "batch", "--upstream-concurrency", &calls]);
    let file = daemon.upload(input());
    let batch = daemon.create(&file);
    let mut witness = Witness::of(ROWS);
    let mut kills = 0;
    while kills < KILLS && !is_terminal(&daemon.batch(&batch)["status"]) {
        std::thread::sleep(Duration::from_millis(random.u64(..150)));
        witness.see_batch(&daemon.batch(&batch));
        witness.see_lines(&daemon.results(&batch));
        daemon.kill9();
        daemon.restart();
        kills += 1;
        witness.see_batch(&daemon.batch(&batch));
        witness.see_lines(&daemon.results(&batch));
    }
    let ended = daemon.wait_ended(&batch, LIMIT);
    witness.see_batch(&ended);
    assert_eq!(counts(&ended), (ROWS as u64, ROWS as u64, 0), "{ended}");
    let content = daemon.content(ended["output_file_id"].as_str().expect("an output file"));
    witness.see_lines(&content);
    assert_eq!(content.iter().filter(|byte| **byte == b'\n').count(), ROWS);
    assert_eq!(witness.lines.len(), ROWS);
    let repeated = upstream.calls() - REQUESTS as u64;
    wait::say(&format!("crash: {ROWS} equal rows, {kills} kills, {repeated} repeated calls"));
    assert_eq!(upstream.rows(), REQUESTS);
    assert!(repeated <= kills * CALLS, "{repeated} repeated calls after {kills} kills");
    // Each call is paid for once, at the token count that the upstream gives for it.
    let tokens = ended["usage"]["total_tokens"].as_u64().expect("a number");
    let of_one = upstream_tokens(&content);
    assert_eq!(tokens, of_one * REQUESTS as u64, "{ended}");
}

/// The tokens that the upstream counted for one call.
fn upstream_tokens(content: &[u8]) -> u64 {
    let line = content.split(|byte| *byte == b'\n').next().expect("a line");
    let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
    line["response"]["body"]["usage"]["total_tokens"].as_u64().expect("a number")
}
