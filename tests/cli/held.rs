//! `batchd run` before a provider that refuses every request: nothing is lost, and the next run of
//! the same command goes on.

use super::*;

/// A server that takes one key.
fn locked(status: u16, refusal: &'static str) -> FakeUpstream {
    FakeUpstream::start(move |call| match call.header("authorization") {
        Some("Bearer right") => Reply::ok(call),
        _ => Reply::new(status, refusal),
    })
}

fn run_with(dir: &Path, upstream: &FakeUpstream, key: &str) -> Output {
    let mut command = command(dir, &["run", "in.jsonl", "-o", "out.jsonl", "--upstream", &upstream.url(), "--data-dir", "state"]);
    command.env("BATCHD_UPSTREAM_API_KEY", key);
    finish(command, None)
}

#[test]
fn a_run_that_a_provider_refuses_says_what_to_change_and_goes_on_from_there() {
    for (name, status, refusal) in [
        ("held_key", 401, r#"{"error":{"message":"Incorrect API key provided: sk-ab***yz.","code":"invalid_api_key"}}"#),
        ("held_quota", 429, r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#),
        ("held_model", 404, r#"{"error":{"message":"The model `gpt-4o-mini` does not exist","code":"model_not_found"}}"#),
        ("held_path", 404, r#"{"detail":"Not Found"}"#),
    ] {
        let dir = temp_dir();
        std::fs::write(dir.path().join("in.jsonl"), rows::many(300, "gpt-4o-mini")).unwrap();
        let upstream = locked(status, refusal);
        let output = run_with(dir.path(), &upstream, "wrong");
        exits(&output, 2);
        let said = text(&output.stderr);
        let said = said.split_once("batchd: ").map_or(said.as_str(), |(_, said)| said);
        insta::assert_snapshot!(name, hide_paths(said, dir.path()));
        let calls = upstream.calls();
        assert!(calls <= 40, "{calls} calls");
        let output = run_with(dir.path(), &upstream, "right");
        exits(&output, 0);
        let results = std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
        assert_eq!(results.lines().filter(|line| line.contains("\"status_code\":200")).count(), 300);
        assert_eq!(upstream.calls() - calls, 300);
    }
}

#[test]
fn a_key_file_is_read_again_while_its_key_is_refused() {
    let upstream = locked(401, r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#);
    let keys = temp_dir();
    let file = keys.path().join("key");
    std::fs::write(&file, "wrong\n").unwrap();
    let daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-api-key-file", file.to_str().unwrap()]);
    let id = daemon.submit(rows::many(20, "m"));
    daemon.wait_for(&id, wait::A_WHILE, "held", |batch| batch["batchd"]["waiting"][0]["reason"] == "key_refused");
    std::fs::write(&file, "right\n").unwrap();
    assert_eq!(daemon.post_empty("/admin/catalog/reload").status(), 200);
    let batch = daemon.wait_ended(&id, wait::A_WHILE);
    assert_eq!(counts(&batch), (20, 20, 0), "{batch}");
}
