//! Rows of several endpoints in one file, and batches in which faulty rows fail alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::{self, counts, id_of};
use crate::support::daemon::Daemon;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::{rows, wait};

fn request(input: &str, endpoint: &str, invalid: Option<&str>) -> Value {
    let mut request = Daemon::batch_request(input, endpoint);
    if let Some(invalid) = invalid {
        request["on_invalid_rows"] = json!(invalid);
    }
    request
}

fn run(daemon: &Daemon, content: impl AsRef<[u8]>, endpoint: &str, invalid: Option<&str>) -> Value {
    let input = daemon.upload(content);
    let batch = daemon.post("/v1/batches", &request(&input, endpoint, invalid)).expect(200);
    assert_eq!(batch["endpoint"], endpoint);
    assert_eq!(batch["batchd"]["on_invalid_rows"], invalid.unwrap_or("fail_batch"));
    daemon.wait_ended(&id_of(&batch), wait::A_WHILE)
}

#[test]
fn rows_of_several_endpoints_run_each_at_its_own() {
    let upstream = FakeUpstream::healthy();
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let paths = ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"];
    let lines: Vec<_> = (0..30).map(|n| rows::row(&rows::name(n), paths[n % 3], &json!({"model": "m", "user": rows::name(n)}))).collect();
    let batch = run(&daemon, rows::file(&lines), "mixed", None);
    assert_eq!((&batch["status"], counts(&batch)), (&json!("completed"), (30, 30, 0)));
    assert_eq!(batch["model"], "m");
    for (n, call) in (0..30).flat_map(|n| upstream.kept_of(&rows::name(n)).into_iter().map(move |call| (n, call))) {
        assert_eq!(call.path, paths[n % 3]);
    }
    let objects = ["chat.completion", "list", "response"];
    for (n, line) in daemon.output(&batch).iter().enumerate() {
        assert_eq!(line.value["response"]["body"]["object"], objects[n % 3]);
    }

    let batch = run(&daemon, rows::file(&[lines[0].clone(), rows::row("x", "/v1/chat", &json!({"model": "m"}))]), "mixed", None);
    let said = batch["errors"]["data"][0]["message"].as_str().unwrap_or_default();
    assert!(said.starts_with("`url` must be one of `/v1/responses`, `/v1/chat/completions`"), "{batch}");
    let one = run(&daemon, rows::file(&lines), "/v1/responses", None);
    assert_eq!((&one["status"], &one["errors"]["data"][0]["code"]), (&json!("failed"), &json!("invalid_url")));
}

/// A file with every kind of faulty row among good ones, and what becomes of each row: the code of
/// its fault, or nothing.
fn faulty() -> (Vec<u8>, Vec<(String, Option<&'static str>)>) {
    let body = json!({"model": rows::INSTANT, "messages": []});
    let chat = |id: &str| rows::chat(id, rows::INSTANT, &json!({}));
    let lines: Vec<(Vec<u8>, &str, Option<&str>)> = vec![
        (chat("first").into(), "first", None),
        (b"not json".to_vec(), "line-2", Some("invalid_json_line")),
        (Vec::new(), "", None),
        (chat("first").into(), "first", Some("duplicate_custom_id")),
        (rows::row("elsewhere", "/v1/embeddings", &body).into(), "elsewhere", Some("invalid_url")),
        (chat("post").replace("\"POST\"", "7").into(), "post", Some("invalid_method")),
        (rows::chat("unknown", "gpt-4o-mni", &json!({})).into(), "unknown", Some("model_not_found")),
        (rows::chat("vectors", "text-embedding-3-small", &json!({})).into(), "vectors", Some("unsupported_endpoint")),
        (rows::chat("long", rows::INSTANT, &json!({"pad": "x".repeat(2_000)})).into(), "line-8", Some("row_too_long")),
        (rows::chat("two faults", "x", &json!({"model": 7, "stream": true})).into(), "two faults", Some("stream_not_supported")),
        (chat("last").into(), "last", None),
    ];
    let mut text = Vec::new();
    let mut fates = Vec::new();
    for (line, id, fault) in lines {
        text.extend_from_slice(&line);
        text.push(b'\n');
        if !id.is_empty() {
            fates.push((id.to_owned(), fault));
        }
    }
    (text, fates)
}

#[test]
fn faulty_rows_fail_alone_and_say_why() {
    let daemon = Daemon::with(&["--max-row-bytes", "2000"]);
    let (text, fates) = faulty();
    let batch = run(&daemon, &text, api::CHAT, Some("fail_rows"));
    assert_eq!((&batch["status"], counts(&batch)), (&json!("completed"), (10, 2, 8)));
    assert_eq!(api::ids(&daemon.output(&batch)), ["first", "last"]);
    let errors = daemon.errors(&batch);
    let found: Vec<_> = errors.iter().map(|line| (line.custom_id.clone(), line.error_code())).collect();
    let expected: Vec<_> = fates.into_iter().filter(|(_, fault)| fault.is_some()).collect();
    assert_eq!(found, expected);
    let messages: Vec<_> = errors.iter().map(|line| line.value["error"]["message"].as_str().unwrap_or_default()).collect();
    insta::assert_snapshot!(messages.join("\n"));
    assert!(errors.iter().all(|line| line.value["response"].is_null()));
    let strict = run(&daemon, &text, api::CHAT, Some("fail_batch"));
    assert_eq!((&strict["status"], strict["errors"]["data"].as_array().map(Vec::len)), (&json!("failed"), Some(9)));

    // Once more, and nothing has changed about them.
    let again = daemon.post_empty(&format!("/v1/batches/{}/retry", id_of(&batch))).expect(200);
    assert_eq!(again["batchd"]["on_invalid_rows"], "fail_rows");
    let again = daemon.wait_ended(&id_of(&again), wait::A_WHILE);
    // The row that was a duplicate is none any more; the one that is too long stays behind.
    assert_eq!(counts(&again), (7, 1, 6), "{again}");

    let all = run(&daemon, "{}\n".repeat(3_000), api::CHAT, Some("fail_rows"));
    assert_eq!((&all["status"], counts(&all)), (&json!("completed"), (3_000, 0, 3_000)));
    for content in ["", "[]", "a,b\n1,2\n"] {
        let batch = run(&daemon, content, api::CHAT, Some("fail_rows"));
        assert_eq!(batch["status"], "failed", "no row of {content:?} can be told from another");
    }
    let input = daemon.upload(&text);
    let answer = daemon.post("/v1/batches", &request(&input, api::CHAT, Some("skip"))).expect(400);
    assert_eq!(answer["error"]["param"], "on_invalid_rows");
}

#[test]
fn faulty_rows_stay_faulty_through_a_kill() {
    const ROWS: usize = 3_000;
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(20)));
    let mut daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let line = |n: usize| match n % 10 {
        3 => "not json".to_owned(),
        7 => rows::chat(&rows::name(n - 1), "m", &json!({})),
        _ => rows::chat(&rows::name(n), "m", &json!({})),
    };
    let input = daemon.upload(rows::file(&(0..ROWS).map(line).collect::<Vec<_>>()));
    let batch = id_of(&daemon.post("/v1/batches", &request(&input, api::CHAT, Some("fail_rows"))).expect(200));
    for answered in [100, 1_000] {
        wait::poll(wait::A_WHILE, || (upstream.answered() > answered).then_some(())).expect("rows run");
        daemon.kill9();
        daemon.restart();
    }
    let batch = daemon.wait_ended(&batch, wait::A_WHILE);
    assert_eq!(counts(&batch), (ROWS as u64, 2_400, 600));
    let mut codes = BTreeMap::new();
    for line in daemon.errors(&batch) {
        *codes.entry(line.error_code().unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(codes, BTreeMap::from([("duplicate_custom_id".to_owned(), 300), ("invalid_json_line".to_owned(), 300)]));
}
