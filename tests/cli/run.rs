//! What `batchd run` tells a person: what is simulated, what it would cost, what failed, what a
//! stop leaves behind; and what it does not overwrite.

use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::support::api::{self, Line};
use super::support::daemon::{signal, temp_dir, wait_exit};
use super::support::upstream::{FakeUpstream, Reply};
use super::support::{rows, wait};
use super::{command, exits, finish, run, text, write};

fn output(dir: &Path) -> Vec<Line> {
    api::lines(&std::fs::read(dir.join("out.jsonl")).expect("the output"))
}

#[test]
fn every_price_of_a_simulation_says_so_and_what_would_be_real() {
    let dir = temp_dir();
    write(dir.path(), "in.jsonl", &rows::many(5, "gpt-4o-mini"));
    let simulated = |args: &[&str]| {
        let mut command = command(dir.path(), args);
        command.env("OPENAI_API_KEY", "sk-not-for-us");
        finish(command, None)
    };
    let ran = simulated(&["run", "in.jsonl", "-o", "out.jsonl"]);
    exits(&ran, 0);
    let priced = simulated(&["run", "in.jsonl", "--dry-run"]);
    exits(&priced, 0);
    for said in [text(&ran.stderr), text(&priced.stdout)] {
        let prices: Vec<_> = said.lines().filter(|line| line.contains("US$")).collect();
        assert!(prices.len() >= 2 && prices.iter().all(|line| line.contains("SIMULATED US$")), "{said}");
    }
    assert!(text(&priced.stderr).contains("BATCHD_OPENAI_API_KEY"), "{}", text(&priced.stderr));
    let said = text(&ran.stderr);
    for part in ["BATCHD_OPENAI_API_KEY", "OPENAI_API_KEY is set and deliberately not used", "--upstream URL"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!said.contains("sk-not-for-us"));

    let upstream = FakeUpstream::start(Reply::ok);
    let real = run(dir.path(), &["run", "in.jsonl", "--upstream", &upstream.url()]);
    exits(&real, 0);
    assert!(!text(&real.stderr).contains("SIMULATED"), "{}", text(&real.stderr));
}

#[test]
fn a_dry_run_checks_and_prices_and_sends_nothing() {
    let upstream = FakeUpstream::start(Reply::ok);
    let dir = temp_dir();
    let mut lines = vec![rows::chat("a", "gpt-4o-mini", &json!({"max_tokens": 100})), rows::chat("b", "gpt-4o-mini", &json!({}))];
    lines.push(rows::chat("c", "of-my-own", &json!({})));
    write(dir.path(), "in.jsonl", &rows::file(&lines));
    // With a key for a hosted service, its list price is shown; no call is made.
    let mut priced = command(dir.path(), &["run", "in.jsonl", "-o", "out.jsonl", "--dry-run"]);
    priced.env("BATCHD_OPENAI_API_KEY", "sk-x");
    let priced = finish(priced, None);
    exits(&priced, 0);
    insta::assert_snapshot!("dry_run", text(&priced.stdout));
    let free = run(dir.path(), &["run", "in.jsonl", "--dry-run", "--upstream", &upstream.url()]);
    assert!(text(&free.stdout).contains("3 rows can run, at a price that is not known"), "{}", text(&free.stdout));

    lines.push("{\"custom_id\": \"d\", \"method\": \"POST\",, }".to_owned());
    lines.push(rows::chat("e", "gpt-4o-mini", &json!({"stream": true})));
    write(dir.path(), "in.jsonl", &rows::file(&lines));
    let refused = run(dir.path(), &["run", "in.jsonl", "--dry-run"]);
    exits(&refused, 2);
    insta::assert_snapshot!("dry_run_refused", text(&refused.stderr));
    assert_eq!(upstream.calls(), 0);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["in.jsonl"], "neither an output nor a store");
}

#[test]
fn a_file_without_any_known_url_is_told_line_by_line_what_is_wrong() {
    let dir = temp_dir();
    let bare = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}).to_string();
    let lines: Vec<String> = std::iter::repeat_n(bare, 30).collect();
    write(dir.path(), "in.jsonl", &rows::file(&lines));
    let refused = run(dir.path(), &["run", "in.jsonl"]);
    exits(&refused, 2);
    let said = text(&refused.stderr);
    for part in ["line 1: the line is only the body of a request", "\"url\": \"/v1/chat/completions\"", "(unsupported_format)"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(said.lines().count() < 30, "{said}");
}

#[test]
fn only_failed_rows_run_again_and_their_latest_results_take_their_places() {
    // Row 3 is refused twice, row 7 once.
    let upstream = FakeUpstream::start(|call| match (call.row.as_str(), call.attempt) {
        ("row-3", 1 | 2) | ("row-7", 1) => Reply::error(400),
        _ => Reply::ok(call),
    });
    let dir = temp_dir();
    write(dir.path(), "in.jsonl", &rows::many(10, "m"));
    let again = |more: &[&str]| run(dir.path(), &[&["run", "in.jsonl", "-o", "out.jsonl", "--upstream", &upstream.url()], more].concat());
    let failed =
        |lines: &[Line]| lines.iter().filter(|line| line.status() != Some(200)).map(|line| line.custom_id.clone()).collect::<Vec<_>>();
    let expected: Vec<String> = (0..10).map(rows::name).collect();

    exits(&again(&[]), 1);
    assert_eq!(failed(&output(dir.path())), ["row-3", "row-7"]);
    let second = again(&["--retry-failed"]);
    exits(&second, 1);
    let lines = output(dir.path());
    assert_eq!(api::ids(&lines), expected);
    assert_eq!(failed(&lines), ["row-3"]);
    assert!(text(&second.stderr).contains("9 succeeded, 1 failed"), "{}", text(&second.stderr));
    // Without the flag, nothing is called: the results are those of both runs.
    exits(&again(&[]), 1);
    assert_eq!(failed(&output(dir.path())), ["row-3"]);
    assert_eq!(upstream.calls(), 12);
    exits(&again(&["--retry-failed"]), 0);
    let lines = output(dir.path());
    assert_eq!(api::ids(&lines), expected);
    assert!(failed(&lines).is_empty());
    assert_eq!(upstream.calls(), 13);
    exits(&again(&["--retry-failed"]), 0);
    assert_eq!(upstream.calls(), 13, "nothing has failed any more");
}

#[test]
fn a_file_of_others_is_overwritten_only_by_force() {
    let dir = temp_dir();
    write(dir.path(), "in.jsonl", &rows::many(3, rows::INSTANT));
    write(dir.path(), "out.jsonl", "precious\n");
    let args = ["run", "in.jsonl", "-o", "out.jsonl"];
    let refused = run(dir.path(), &args);
    exits(&refused, 2);
    assert!(text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap(), "precious\n");

    exits(&run(dir.path(), &[&args[..], &["--force"]].concat()), 0);
    assert_eq!(output(dir.path()).len(), 3);
    exits(&run(dir.path(), &args), 0);
    // Another input is another run, whose results would replace these.
    write(dir.path(), "in.jsonl", &rows::many(4, rows::INSTANT));
    exits(&run(dir.path(), &args), 2);
    assert_eq!(output(dir.path()).len(), 3);
}

/// Starts a run of `count` rows whose standard error is read when it ends.
fn start(dir: &Path, count: usize, upstream: &FakeUpstream) -> Child {
    write(dir, "in.jsonl", &rows::many(count, "m"));
    let url = upstream.url();
    let mut command = command(dir, &["run", "in.jsonl", "-o", "out.jsonl", "--upstream", &url, "--upstream-concurrency", "8"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("batchd starts")
}

fn ended(mut child: Child) -> Output {
    assert!(wait_exit(&mut child, wait::A_WHILE).is_some(), "it should have ended");
    child.wait_with_output().expect("its output")
}

#[test]
fn an_interrupted_run_waits_for_its_calls_and_leaves_what_is_done() {
    let slow = Arc::new(AtomicBool::new(true));
    let upstream = FakeUpstream::start({
        let slow = slow.clone();
        move |call| if slow.load(Ordering::Relaxed) { Reply::ok(call).after(Duration::from_millis(700)) } else { Reply::ok(call) }
    });
    let dir = temp_dir();
    let child = start(dir.path(), 40, &upstream);
    let calling = wait::poll(wait::A_WHILE, || (upstream.answered() >= 8 && upstream.most_in_flight() == 8).then_some(()));
    assert!(calling.is_some(), "no calls");
    signal(child.id(), "INT");
    let interrupted = ended(child);
    exits(&interrupted, 130);
    let (said, done) = (text(&interrupted.stderr), output(dir.path()).len());
    assert_eq!(upstream.calls(), done as u64, "each call that was made has its result in the output:\n{said}");
    for part in ["calls in flight", "a second ^C stops at once", &format!("{done} succeeded"), &format!("{done} of 40 rows are done")] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }

    slow.store(false, Ordering::Relaxed);
    exits(&ended(start(dir.path(), 40, &upstream)), 0);
    assert_eq!((output(dir.path()).len(), upstream.calls()), (40, 40));
}

#[test]
fn a_second_interrupt_stops_at_once_and_keeps_what_is_done() {
    let upstream = FakeUpstream::start(|call| if call.row == "row-0" { Reply::ok(call) } else { Reply::stall() });
    let dir = temp_dir();
    let child = start(dir.path(), 9, &upstream);
    assert!(wait::poll(wait::A_WHILE, || (upstream.calls() == 9 && upstream.answered() == 1).then_some(())).is_some(), "no calls");
    signal(child.id(), "INT");
    std::thread::sleep(Duration::from_millis(300));
    let asked = tokio::time::Instant::now();
    signal(child.id(), "INT");
    let interrupted = ended(child);
    exits(&interrupted, 130);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(api::ids(&output(dir.path())), ["row-0"]);
    assert!(text(&interrupted.stderr).contains("8 not finished"), "{}", text(&interrupted.stderr));
}

#[test]
fn a_dry_run_takes_packed_input_and_rows_of_several_endpoints() {
    let dir = temp_dir();
    let embed =
        json!({"custom_id": "b", "method": "POST", "url": "/v1/embeddings", "body": {"model": "text-embedding-3-small", "input": "x"}});
    let lines = rows::file(&[rows::chat("a", "gpt-4o-mini", &json!({"max_tokens": 100})), embed.to_string()]);
    let dry = |name: &str| {
        let mut command = command(dir.path(), &["run", name, "--dry-run", "--data-dir", "state"]);
        command.env("BATCHD_OPENAI_API_KEY", "sk-x");
        finish(command, None)
    };
    write(dir.path(), "in.jsonl", &lines);
    let plain = dry("in.jsonl");
    exits(&plain, 0);
    let said = text(&plain.stdout);
    assert!(said.contains("2 rows can run, for about US$") && said.contains("openai/text-embedding-3-small"), "{said}");
    assert!(!dir.path().join("state").exists(), "nothing is stored");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, lines.as_bytes()).unwrap();
    std::fs::write(dir.path().join("in.jsonl.gz"), gzip.finish().unwrap()).unwrap();
    std::fs::write(dir.path().join("in.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    for name in ["in.jsonl.gz", "in.zst"] {
        let packed = dry(name);
        exits(&packed, 0);
        assert_eq!(text(&packed.stdout), said, "{name}");
    }
    std::fs::write(dir.path().join("cut.gz"), &std::fs::read(dir.path().join("in.jsonl.gz")).unwrap()[..40]).unwrap();
    let cut = dry("cut.gz");
    exits(&cut, 2);
    assert!(text(&cut.stderr).contains("packed with gzip and cannot be unpacked"), "{}", text(&cut.stderr));
    assert_eq!(std::fs::read_dir(dir.path().join("state/run")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_model_that_the_server_does_not_list_is_told_once() {
    let (dir, upstream) = (temp_dir(), FakeUpstream::healthy());
    upstream.list_models(&["qwen3-8b", "nomic-embed-text"]);
    write(dir.path(), "in.jsonl", &rows::many(3, "qwen3-8"));
    let output = run(dir.path(), &["run", "in.jsonl", "-o", "out.jsonl", "--upstream", &upstream.url()]);
    exits(&output, 0);
    let warnings = text(&output.stderr).lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(warnings, ["warning: provider `upstream` does not list the model `qwen3-8`; did you mean `qwen3-8b`?"]);
}
