//! The command line: `run`, `serve` and its signals, `config show`, the texts that people read.

mod catalog;
mod crowd;
mod data_dir;
mod held;
mod keys;
mod lanes;
mod quotas;
mod run;
mod store;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part of the shared support")]
mod support;
mod systemd;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::json;

use support::api::{self, counts};
use support::daemon::{Daemon, batchd, signal, temp_dir, wait_exit};
use support::upstream::{FakeUpstream, Reply};
use support::{rows, wait};

/// Runs the command to its end, which must come.
fn finish(mut command: Command, stdin: Option<&str>) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("batchd starts");
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A command that refuses its input may not read it.
        let _ = pipe.write_all(text.as_bytes());
    }
    let pid = child.id();
    let (done, over) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if over.recv_timeout(Duration::from_secs(120)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            wait::say("a command did not end within 120 s");
            signal(pid, "KILL");
        }
    });
    let output = child.wait_with_output().expect("the output of batchd");
    drop(done);
    watchdog.join().expect("the watchdog");
    output
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = batchd(dir);
    command.args(args).env("COLUMNS", "100").env("NO_COLOR", "1").env("TERM", "dumb");
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    finish(command(dir, args), None)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write(dir: &Path, name: &str, content: &str) {
    std::fs::write(dir.join(name), content).expect("an input file");
}

/// Asserts the exit code, and shows the command's output on failure.
fn exits(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout:\n{}\nstderr:\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn run_writes_every_row_in_input_order() {
    let dir = temp_dir();
    write(dir.path(), "in.jsonl", &rows::many(200, rows::INSTANT));
    let output = run(dir.path(), &["run", "in.jsonl", "-o", "out.jsonl"]);
    exits(&output, 0);
    let lines = api::lines(&std::fs::read(dir.path().join("out.jsonl")).unwrap());
    let expected: Vec<String> = (0..200).map(rows::name).collect();
    assert_eq!(api::ids(&lines), expected);
    assert!(output.stdout.is_empty(), "with -o nothing goes to stdout: {}", text(&output.stdout));
}

#[test]
fn run_writes_through_links_into_devices_and_never_over_its_input() {
    let dir = temp_dir();
    write(dir.path(), "in.jsonl", &rows::many(3, rows::INSTANT));
    write(dir.path(), "real.jsonl", "old");
    std::os::unix::fs::symlink("real.jsonl", dir.path().join("link.jsonl")).unwrap();
    exits(&run(dir.path(), &["run", "in.jsonl", "-o", "link.jsonl", "--force"]), 0);
    assert!(dir.path().join("link.jsonl").is_symlink());
    assert_eq!(api::lines(&std::fs::read(dir.path().join("real.jsonl")).unwrap()).len(), 3);

    let output = run(dir.path(), &["run", "in.jsonl", "-o", "/dev/stdout"]);
    exits(&output, 0);
    assert_eq!(api::lines(&output.stdout).len(), 3);

    for target in ["in.jsonl", ".", "no-such-folder/out.jsonl"] {
        exits(&run(dir.path(), &["run", "in.jsonl", "-o", target]), 2);
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("in.jsonl")).unwrap(), rows::many(3, rows::INSTANT));
}

#[test]
fn run_reads_stdin_and_writes_stdout() {
    let dir = temp_dir();
    let output = finish(command(dir.path(), &["run", "-"]), Some(&rows::many(20, rows::INSTANT)));
    exits(&output, 0);
    assert_eq!(api::lines(&output.stdout).len(), 20, "data goes to stdout, and nothing else does");
}

#[test]
fn run_takes_packed_input_and_says_of_each_row_what_is_wrong() {
    let dir = temp_dir();
    std::fs::write(dir.path().join("in.jsonl.zst"), zstd::encode_all(rows::many(20, rows::INSTANT).as_bytes(), 3).unwrap()).unwrap();
    let output = run(dir.path(), &["run", "in.jsonl.zst"]);
    exits(&output, 0);
    assert_eq!(api::lines(&output.stdout).len(), 20);
    write(dir.path(), "azure.jsonl", &rows::many(2, rows::INSTANT).replace("/v1/chat", "/chat").replace("\"POST\"", "\"GET\""));
    let output = run(dir.path(), &["run", "azure.jsonl"]);
    exits(&output, 2);
    let said = text(&output.stderr);
    insta::assert_snapshot!(said.split_once("batchd: ").expect("a message").1);
}

#[test]
fn rows_that_failed_make_exit_code_one_and_are_shown() {
    let dir = temp_dir();
    let lines: Vec<String> = (0..10)
        .map(|n| {
            if n % 5 == 2 {
                rows::faulty(&rows::name(n), rows::INSTANT, "refuse")
            } else {
                rows::chat(&rows::name(n), rows::INSTANT, &json!({}))
            }
        })
        .collect();
    write(dir.path(), "in.jsonl", &rows::file(&lines));
    let output = run(dir.path(), &["run", "in.jsonl", "-o", "out.jsonl"]);
    exits(&output, 1);
    let said = text(&output.stderr);
    for part in ["8", "2", "row-2", "row-7", "400"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let all = api::lines(&std::fs::read(dir.path().join("out.jsonl")).unwrap());
    let expected: Vec<String> = (0..10).map(rows::name).collect();
    assert_eq!(api::ids(&all), expected, "good and bad rows, in input order");
    assert_eq!(all.iter().filter(|line| line.status() == Some(400)).count(), 2);
}

#[test]
fn what_cannot_run_makes_exit_code_two_and_says_why() {
    let dir = temp_dir();
    write(dir.path(), "bad.jsonl", &format!("{}\nnot json\n", rows::chat("a", rows::INSTANT, &json!({}))));
    write(dir.path(), "model.jsonl", &rows::chat("a", "gpt-4o-mni", &json!({})));
    write(dir.path(), "empty.jsonl", "");
    for (args, parts) in [
        (&["run", "none.jsonl"][..], &["none.jsonl"][..]),
        (&["run", "bad.jsonl"], &["line 2", "JSON"]),
        (&["run", "model.jsonl"], &["gpt-4o-mni", "gpt-4o-mini"]),
        (&["run", "empty.jsonl"], &["empty"]),
        (&["run"], &["INPUT"]),
        (&["run", "bad.jsonl", "--no-such-flag"], &["--no-such-flag"]),
        (&["no-such-command"], &["no-such-command"]),
        (&["serve", "--listen", "nowhere"], &["nowhere"]),
        (&["serve", "--upstream", "ftp://x"], &["`upstream`", "`http://`"]),
        (&["serve", "--config", "none.toml"], &["none.toml"]),
    ] {
        let output = run(dir.path(), args);
        exits(&output, 2);
        let said = text(&output.stderr);
        for part in parts {
            assert!(said.contains(part), "{args:?}: {part} is not in:\n{said}");
        }
        assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
    }
    assert!(!dir.path().join("out.jsonl").exists());
}

#[test]
fn a_run_that_was_killed_goes_on_with_the_same_command() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(5)));
    let dir = temp_dir();
    write(dir.path(), "in.jsonl", &rows::many(3_000, "m"));
    let args = ["run", "in.jsonl", "-o", "out.jsonl", "--upstream", &upstream.url(), "--data-dir", "state"];
    let mut child = command(dir.path(), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("batchd starts");
    let under_way = wait::poll(wait::A_WHILE, || (upstream.answered() > 1_000).then_some(()));
    let state = child.try_wait();
    let _ = child.kill();
    let _ = child.wait();
    assert!(under_way.is_some(), "only {} calls; {state:?}", upstream.answered());
    // A partial file, as a run leaves it that is killed while it writes.
    write(dir.path(), &format!("out.jsonl.{}.partial", child.id()), "half");

    exits(&run(dir.path(), &args), 0);
    let lines = api::lines(&std::fs::read(dir.path().join("out.jsonl")).unwrap());
    let expected: Vec<String> = (0..3_000).map(rows::name).collect();
    assert_eq!(api::ids(&lines), expected);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{left:?}");
    let repeated = upstream.calls() - 3_000;
    assert!(repeated < 1_000, "{repeated} calls were repeated, so it began again");
}

#[test]
fn a_second_process_on_the_same_data_is_refused_in_plain_words() {
    let daemon = Daemon::start();
    let data = daemon.data_dir();
    let output = run(daemon.dir(), &["serve", "--listen", "127.0.0.1:0", "--data-dir", &data.to_string_lossy()]);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}", output.status);
    let said = text(&output.stderr);
    assert!(said.contains(&*data.to_string_lossy()), "it names the directory: {said}");
    assert!(said.contains("another") || said.contains("already") || said.contains("in use"), "it says why: {said}");
    assert_eq!(daemon.get("/healthz").status(), 200, "the first is not disturbed");
}

#[test]
fn sigterm_lets_rows_in_flight_finish() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(700)));
    let mut daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-concurrency", "8", "--drain-timeout", "20s"]);
    let id = daemon.submit(rows::many(40, "m"));
    let calling = wait::poll(wait::A_WHILE, || (upstream.most_in_flight() == 8).then_some(()));
    assert!(calling.is_some(), "no calls: {}", daemon.batch(&id));
    let status = daemon.sigterm_and_wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
    let calls = upstream.calls();
    let answered = wait::poll(wait::SOON, || (upstream.answered() == calls).then_some(()));
    assert!(answered.is_some(), "{calls} calls were made and {} waited for", upstream.answered());
    assert!(calls < 40, "a drain starts nothing new");

    daemon.restart();
    assert!(counts(&daemon.batch(&id)).1 >= calls, "what the drain waited for is kept");
    let ended = daemon.wait_ended(&id, wait::A_WHILE);
    assert_eq!(counts(&ended), (40, 40, 0));
    assert_eq!(upstream.calls(), 40, "no call was made twice");
}

#[test]
fn a_drain_ends_at_its_limit() {
    let upstream = FakeUpstream::start(|_| Reply::stall());
    let mut daemon = Daemon::with_upstream(&upstream.url(), &["--drain-timeout", "1s"]);
    daemon.submit(rows::many(3, "m"));
    let calling = wait::poll(wait::A_WHILE, || (upstream.calls() == 3).then_some(()));
    assert!(calling.is_some());
    assert!(daemon.sigterm_and_wait(Duration::from_secs(15)).code().is_some(), "it ends by itself, not by a signal");
}

#[test]
fn an_idle_daemon_stops_at_once_and_can_be_started_on_its_port_again() {
    let mut daemon = Daemon::start();
    let addr = daemon.addr();
    assert_eq!(daemon.sigterm_and_wait(Duration::from_secs(10)).code(), Some(0));
    daemon.restart_on_same_port();
    assert_eq!(daemon.addr(), addr);
    assert_eq!(daemon.get("/readyz").status(), 200);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let dir = temp_dir();
    let mut child = command(dir.path(), &["serve", "--listen", &addr, "--data-dir", "data"]);
    let output = {
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("batchd starts");
        assert!(wait_exit(&mut child, wait::SOON).is_some(), "it should not go on without its port");
        child.wait_with_output().expect("its output")
    };
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains(&addr), "{}", text(&output.stderr));
}

#[test]
fn config_show_tells_every_setting_and_where_it_came_from() {
    let dir = temp_dir();
    let mut command = command(dir.path(), &["config", "show"]);
    // A fixed place, so that the columns of the snapshot do not depend on the machine.
    command.env("BATCHD_MAX_ATTEMPTS", "9").env("HOME", "/home/ada");
    let output = finish(command, None);
    exits(&output, 0);
    let said = text(&output.stdout);
    for setting in ["commit", "in", "upstream", "max", "retry", "drain"] {
        assert!(said.contains(setting), "{setting} is not in:\n{said}");
    }
    assert!(said.contains('9') && said.to_lowercase().contains("env"), "{said}");
    insta::assert_snapshot!("config_show", hide_paths(&said, dir.path()));
}

#[test]
fn a_setting_out_of_range_is_refused_with_its_range() {
    let dir = temp_dir();
    for (flag, value) in
        [("--max-attempts", "0"), ("--commit-interval", "soon"), ("--upstream-concurrency", "0"), ("--in-flight-limit", "0")]
    {
        let output = run(dir.path(), &["serve", "--listen", "127.0.0.1:0", flag, value]);
        exits(&output, 2);
        let said = text(&output.stderr);
        assert!(said.contains(flag.trim_start_matches('-')) || said.contains(&flag[2..].replace('-', "_")), "{flag} {value}: {said}");
    }
}

#[test]
fn help_texts() {
    let dir = temp_dir();
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_serve", &["serve", "--help"]),
        ("help_run", &["run", "--help"]),
        ("help_config", &["config", "--help"]),
        ("help_lanes", &["lanes", "--help"]),
        ("help_lanes_drain", &["lanes", "drain", "--help"]),
        ("help_keys", &["keys", "--help"]),
        ("help_keys_create", &["keys", "create", "--help"]),
        ("help_batches", &["batches", "--help"]),
        ("help_batches_priority", &["batches", "priority", "--help"]),
        ("help_store", &["store", "--help"]),
        ("help_store_salvage", &["store", "salvage", "--help"]),
    ] {
        let output = run(dir.path(), args);
        exits(&output, 0);
        insta::assert_snapshot!(name, hide_paths(&text(&output.stdout), dir.path()));
    }
    let output = run(dir.path(), &["--version"]);
    exits(&output, 0);
    assert_eq!(text(&output.stdout).trim(), format!("batchd {}", env!("CARGO_PKG_VERSION")));
}

fn hide_paths(said: &str, dir: &Path) -> String {
    said.replace(&*dir.to_string_lossy(), "[dir]")
}
