//! `batchd lanes` and `batchd batches`, against a running daemon.

use std::time::Duration;

use super::support::daemon::{Daemon, temp_dir};
use super::support::upstream::{FakeUpstream, Reply};
use super::support::{rows, wait};
use super::{command, exits, finish, run, text};

/// Runs a command of `batchd` against the daemon; returns its exit code and output.
fn ask(daemon: &Daemon, args: &[&str]) -> (i32, String) {
    let url = format!("http://{}", daemon.addr());
    let output = run(daemon.dir(), &[args, &["--url", &url]].concat());
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr)).replace(&url, "[url]");
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn a_hold_outlives_the_daemon() {
    let mut daemon = Daemon::start();
    let told = |daemon: &Daemon, args: &[&str]| {
        let (code, said) = ask(daemon, args);
        assert_eq!(code, 0, "{said}");
        said
    };
    assert_eq!(told(&daemon, &["lanes", "list"]), "no such lane has had a row since the daemon started, and none is held\n");
    assert_eq!(told(&daemon, &["lanes", "pause", "simulated"]), "`simulated` is paused: its rows wait, calls in flight finish\n");
    daemon.kill9();
    daemon.restart();
    let listed = told(&daemon, &["lanes", "list", "simulated", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one line of JSON");
    assert_eq!((&listed["holds"][0]["lane"], &listed["holds"][0]["hold"]), (&"simulated".into(), &"paused".into()), "{listed}");
    assert_eq!(told(&daemon, &["lanes", "pause", "simulated"]), "`simulated` was paused already\n");
    assert_eq!(told(&daemon, &["lanes", "resume", "simulated"]), "`simulated` is no longer held\n");
    assert_eq!(told(&daemon, &["lanes", "resume", "simulated"]), "`simulated` was not held\n");
}

#[test]
fn a_drain_waits_for_calls_in_flight() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_secs(4)));
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let id = daemon.submit(rows::many(6, "m"));
    let calling = wait::poll(wait::A_WHILE, || (upstream.most_in_flight() == 6).then_some(()));
    assert!(calling.is_some(), "no calls: {}", daemon.batch(&id));
    let (code, said) = ask(&daemon, &["lanes", "drain", "upstream", "--no-wait"]);
    assert_eq!((code, upstream.answered()), (0, 0), "{said}");
    let (code, said) = ask(&daemon, &["lanes", "drain", "upstream"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(upstream.answered(), 6, "{said}");
    assert!(said.contains("`upstream` was drained already\nnothing is in flight on `upstream`\n"), "{said}");
    let (_, listed) = ask(&daemon, &["lanes", "list"]);
    assert!(listed.starts_with("lane ") && listed.contains("\nupstream  drained") && listed.contains("\n\nheld "), "{listed}");
    assert!(daemon.get("/metrics").text().contains("batchd_lane_held{provider=\"upstream\",model=\"\"} 1\n"));
}

#[test]
fn batches_are_paused_resumed_and_given_a_priority() {
    let upstream = FakeUpstream::start(|_| Reply::stall());
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let id = daemon.submit(rows::many(2, "m"));
    daemon.wait_for(&id, wait::A_WHILE, "in progress", |batch| batch["status"] == "in_progress");
    let said = [["pause", &id, ""], ["priority", &id, "urgent"], ["resume", &id, ""]].map(|args| {
        let args: Vec<_> = ["batches"].into_iter().chain(args).filter(|arg| !arg.is_empty()).collect();
        ask(&daemon, &args)
    });
    let is = |rest: &str| (0, format!("{id} is in_progress{rest}\n"));
    assert_eq!(said, [is(", paused; its priority is normal"), is(", paused; its priority is urgent"), is("; its priority is urgent")]);
    let (code, said) = ask(&daemon, &["batches", "pause", &id, "--json"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(daemon.batch(&id)["batchd"]["paused"], true);
}

#[test]
fn a_batch_that_has_ended_is_deleted() {
    let daemon = Daemon::start();
    let [first, second] = [(); 2].map(|()| daemon.complete(rows::many(1, rows::INSTANT))["id"].as_str().expect("an id").to_owned());
    assert_eq!(ask(&daemon, &["batches", "delete", &first]), (0, format!("{first} is deleted\n")));
    let (code, said) = ask(&daemon, &["batches", "delete", &second, "--json"]);
    assert_eq!((code, said.trim()), (0, &*format!(r#"{{"deleted":true,"id":"{second}","object":"batch"}}"#)));
    assert_eq!(ask(&daemon, &["batches", "delete", &second]).0, 2);
    assert_eq!(daemon.get("/v1/batches").expect(200)["data"], serde_json::json!([]));
}

#[test]
fn what_a_daemon_does_not_do_is_told_with_an_exit_code() {
    let dir = temp_dir();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "sk-first\n").expect("a file of keys");
    let daemon = Daemon::with(&["--api-keys-file", &keys.to_string_lossy()]);
    let url = format!("http://{}/", daemon.addr());
    let with_key = |key: &str, args: &[&str]| {
        let mut command = command(dir.path(), &[args, &["--url", &url]].concat());
        command.env("BATCHD_API_KEY", key);
        let output = finish(command, None);
        let said = text(&output.stderr).replace(url.trim_end_matches('/'), "[url]");
        format!("{} {} {said}", args.join(" "), output.status.code().unwrap_or(-1))
    };
    let nothing = "batch_00000000000000000000000000";
    let said = [
        with_key("", &["lanes", "list"]),
        with_key("sk-wrong", &["lanes", "list"]),
        with_key("two keys", &["lanes", "list"]),
        with_key("sk-first", &["lanes", "pause", "simulatd"]),
        with_key("sk-first", &["lanes", "drain", "simulated/"]),
        with_key("sk-first", &["batches", "pause", nothing]),
        with_key("sk-first", &["batches", "pause", "file-00000000000000000000000000"]),
        with_key("sk-first", &["batches", "priority", nothing, "highest"]),
    ];
    insta::assert_snapshot!("lanes_refusals", said.join("\n"));
    exits(&run(dir.path(), &["lanes", "list", "--url", "http://127.0.0.1:1"]), 1);
    exits(&run(dir.path(), &["lanes", "list", "--url", "https://batch.example"]), 2);
}
