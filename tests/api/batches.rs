//! `/v1/batches`: the life of a batch as a client sees it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::{self, CHAT, counts, id_of, is_terminal};
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::{rows, wait};

#[test]
fn a_batch_runs_to_its_end_and_says_so() {
    let daemon = Daemon::start();
    let input = daemon.upload(rows::many(100, rows::INSTANT));
    let mut request = Daemon::batch_request(&input, CHAT);
    request["metadata"] = json!({"team": "search", "run": "1"});
    let created = daemon.post("/v1/batches", &request).expect(200);
    assert!(id_of(&created).starts_with("batch_"), "{created}");
    assert_eq!(created["object"], "batch");
    assert_eq!(created["endpoint"], CHAT);
    assert_eq!(created["input_file_id"], input);
    assert_eq!(created["completion_window"], "24h");
    assert_eq!(created["metadata"], json!({"team": "search", "run": "1"}));
    assert!(created["output_file_id"].is_null() && created["error_file_id"].is_null() && created["errors"].is_null(), "{created}");
    assert_eq!(created["expires_at"].as_i64().unwrap() - created["created_at"].as_i64().unwrap(), 86_400);

    let batch = daemon.wait_ended(&id_of(&created), wait::A_WHILE);
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(counts(&batch), (100, 100, 0));
    assert_eq!(batch["metadata"], created["metadata"]);
    assert_eq!(batch["model"], rows::INSTANT);
    assert!(batch["error_file_id"].is_null(), "no row failed: {batch}");
    let moments: Vec<i64> = ["created_at", "in_progress_at", "finalizing_at", "completed_at"]
        .iter()
        .map(|name| batch[*name].as_i64().expect("a time"))
        .collect();
    assert!(moments.is_sorted(), "{batch}");
    let usage = &batch["usage"];
    let tokens = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name} in {batch}"));
    assert!(tokens("input_tokens") > 0 && tokens("output_tokens") > 0, "{usage}");
    assert_eq!(tokens("total_tokens"), tokens("input_tokens") + tokens("output_tokens"));

    let output = daemon.output(&batch);
    let expected: Vec<String> = (0..100).map(rows::name).collect();
    assert_eq!(api::ids(&output), expected, "output is in input order");
    for line in &output {
        assert_eq!(line.status(), Some(200));
        assert!(line.value["error"].is_null());
        assert!(line.value["response"]["request_id"].is_string());
        assert_eq!(line.value["response"]["body"]["object"], "chat.completion");
    }
}

#[test]
fn every_operation_that_the_simulator_knows_runs() {
    let daemon = Daemon::start();
    for (endpoint, body, object) in [
        (CHAT, json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}), "chat.completion"),
        ("/v1/responses", json!({"model": "gpt-4o-mini", "input": "hi"}), "response"),
        ("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": ["a", "b"]}), "list"),
    ] {
        let input = daemon.upload(rows::row("one", endpoint, &body));
        let batch = id_of(&daemon.post("/v1/batches", &Daemon::batch_request(&input, endpoint)).expect(200));
        let batch = daemon.wait_ended(&batch, wait::A_WHILE);
        assert_eq!(counts(&batch), (1, 1, 0), "{endpoint}: {batch}");
        assert_eq!(daemon.output(&batch)[0].value["response"]["body"]["object"], object, "{endpoint}");
    }
}

#[test]
fn good_and_bad_rows_part_into_two_files() {
    let daemon = Daemon::with(&["--retry-base", "1ms", "--max-attempts", "2"]);
    let lines = [
        rows::chat("good", rows::INSTANT, &json!({})),
        rows::faulty("refused", rows::INSTANT, "refuse"),
        rows::faulty("recovers", rows::INSTANT, "status=503;times=1"),
        rows::faulty("broken", rows::INSTANT, "status=500;times=99"),
    ];
    let batch = daemon.complete(rows::file(&lines));
    assert_eq!(counts(&batch), (4, 2, 2));
    assert_eq!(api::ids(&daemon.output(&batch)), ["good", "recovers"]);
    let errors = daemon.errors(&batch);
    assert_eq!(api::ids(&errors), ["refused", "broken"]);
    assert_eq!(errors[0].status(), Some(400));
    assert_eq!(errors[1].status(), Some(500));
    assert_eq!(errors[1].error_code(), Some("server_error"));
}

#[test]
fn a_batch_without_a_single_success_has_no_output_file() {
    let daemon = Daemon::start();
    let batch = daemon.complete(rows::faulty("refused", rows::INSTANT, "refuse"));
    assert_eq!(counts(&batch), (1, 0, 1));
    assert!(batch["output_file_id"].is_null() && batch["error_file_id"].is_string(), "{batch}");
}

#[test]
fn a_create_is_checked_before_anything_is_kept() {
    let daemon = Daemon::start();
    let input = daemon.upload(rows::many(1, rows::INSTANT));
    let good = Daemon::batch_request(&input, CHAT);
    for field in ["input_file_id", "endpoint", "completion_window"] {
        let mut request = good.clone();
        request.as_object_mut().unwrap().remove(field);
        let answer = daemon.post("/v1/batches", &request).expect(400);
        assert_eq!(answer["error"]["code"], "missing_required_parameter", "{answer}");
        assert_eq!(answer["error"]["param"], field);
    }
    let pairs = |n: usize| Value::Object((0..n).map(|n| (format!("k{n}"), json!("v"))).collect());
    for (field, value) in [
        ("endpoint", json!("/v1/audio")),
        ("endpoint", json!(7)),
        ("endpoint", json!("/v1/chat/completions/")),
        ("completion_window", json!("1w")),
        ("completion_window", json!("0m")),
        ("completion_window", json!("31d")),
        ("completion_window", json!(24)),
        ("metadata", pairs(17)),
        ("metadata", json!({"k".repeat(65): "v"})),
        ("metadata", json!({"k": "v".repeat(513)})),
        ("metadata", json!({"k": 7})),
        ("metadata", json!([])),
        ("output_expires_after", json!({"anchor": "created_at", "seconds": 3599})),
        ("output_expires_after", json!({"anchor": "now", "seconds": 3600})),
        ("output_expires_after", json!({"seconds": 3600})),
    ] {
        let mut request = good.clone();
        request[field] = value.clone();
        let answer = daemon.post("/v1/batches", &request);
        assert_eq!(answer.status(), 400, "{field} {value}: {}", answer.text());
        let param = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
        assert!(param.starts_with(field), "{field} {value}: {}", answer.text());
    }
    for (input, what) in
        [("file-00000000000000000000000000", "unknown"), ("nonsense", "malformed"), ("batch_00000000000000000000000000", "a batch")]
    {
        let answer = daemon.post("/v1/batches", &Daemon::batch_request(input, CHAT));
        assert!(matches!(answer.status(), 400 | 404), "{what}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], "input_file_id", "{what}: {}", answer.text());
    }
    assert_eq!(daemon.get("/v1/batches").expect(200)["data"], json!([]));
}

#[test]
fn limits_are_inclusive_and_windows_come_in_minutes_hours_and_days() {
    let daemon = Daemon::start();
    let input = daemon.upload(rows::many(1, rows::INSTANT));
    for (window, seconds) in [("24h", 86_400), ("1m", 60), ("90m", 5_400), ("30d", 2_592_000)] {
        let mut request = Daemon::batch_request(&input, CHAT);
        request["completion_window"] = json!(window);
        let batch = daemon.post("/v1/batches", &request).expect(200);
        assert_eq!(batch["completion_window"], window);
        assert_eq!(batch["expires_at"].as_i64().unwrap() - batch["created_at"].as_i64().unwrap(), seconds);
    }
    let mut request = Daemon::batch_request(&input, CHAT);
    let metadata: Value = Value::Object((0..16).map(|n| (format!("{n:064}"), json!("é".repeat(512)))).collect());
    request["metadata"] = metadata.clone();
    request["output_expires_after"] = json!({"anchor": "created_at", "seconds": 3600});
    let batch = daemon.post("/v1/batches", &request).expect(200);
    assert_eq!(batch["metadata"], metadata);
    let batch = daemon.wait_ended(&id_of(&batch), wait::A_WHILE);
    let output = daemon.get(&format!("/v1/files/{}", batch["output_file_id"].as_str().unwrap())).expect(200);
    assert_eq!(output["expires_at"].as_i64().unwrap() - output["created_at"].as_i64().unwrap(), 3_600);
}

#[test]
fn only_a_file_for_batches_is_an_input() {
    let daemon = Daemon::start();
    let form = crate::support::http::Form::default().field("purpose", "vision").file("file", "a", b"{}");
    let file = id_of(&daemon.send(Request::post("/v1/files").form(form)).expect(200));
    let answer = daemon.post("/v1/batches", &Daemon::batch_request(&file, CHAT)).expect(400);
    assert_eq!(answer["error"]["code"], "invalid_value");
    assert_eq!(answer["error"]["param"], "input_file_id");
}

#[test]
fn an_idempotency_key_makes_one_batch() {
    let mut daemon = Daemon::start();
    let input = daemon.upload(rows::many(1, rows::INSTANT));
    let body = Daemon::batch_request(&input, CHAT);
    let create =
        |daemon: &Daemon, key: &str, body: &Value| daemon.send(Request::post("/v1/batches").header("idempotency-key", key).json(body));
    let first = id_of(&create(&daemon, "key-1", &body).expect(200));
    assert_eq!(id_of(&create(&daemon, "key-1", &body).expect(200)), first);
    assert_ne!(id_of(&create(&daemon, "key-2", &body).expect(200)), first);
    let mut other = body.clone();
    other["completion_window"] = json!("48h");
    assert_eq!(create(&daemon, "key-1", &other).error_code(409), "idempotency_key_reused");
    daemon.restart();
    assert_eq!(id_of(&create(&daemon, "key-1", &body).expect(200)), first, "the key survives a restart");
    assert_eq!(daemon.get("/v1/batches").expect(200)["data"].as_array().unwrap().len(), 2);
}

#[test]
fn racing_creates_with_one_key_make_one_batch() {
    let daemon = Daemon::start();
    let input = daemon.upload(rows::many(1, rows::INSTANT));
    let body = Daemon::batch_request(&input, CHAT);
    let made: Vec<String> = std::thread::scope(|scope| {
        let create = || daemon.send(Request::post("/v1/batches").header("idempotency-key", "race").json(&body));
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        // A racing create may also be asked to come back later, but it never gets a second batch.
        racers.into_iter().map(|racer| racer.join().unwrap()).filter(|a| a.status() == 200).map(|a| id_of(&a.json())).collect()
    });
    assert!(!made.is_empty() && made.iter().all(|id| *id == made[0]), "{made:?}");
    assert_eq!(daemon.get("/v1/batches").expect(200)["data"].as_array().unwrap().len(), 1);
}

#[test]
fn lists_are_newest_first_and_paged() {
    let daemon = Daemon::start();
    let input = daemon.upload(rows::many(1, rows::INSTANT));
    let mut made: Vec<String> = (0..25).map(|_| daemon.create(&input)).collect();
    made.reverse();
    let page = |query: &str| daemon.get(&format!("/v1/batches{query}")).expect(200);
    let ids = |list: &Value| list["data"].as_array().expect("data").iter().map(id_of).collect::<Vec<_>>();

    let first = page("");
    assert_eq!(first["object"], "list");
    assert_eq!(ids(&first), made[..20], "twenty by default");
    assert_eq!(first["has_more"], true);
    assert_eq!(first["first_id"], made[0]);
    assert_eq!(first["last_id"], made[19]);
    let second = page(&format!("?after={}", made[19]));
    assert_eq!(ids(&second), made[20..]);
    assert_eq!(second["has_more"], false);
    assert_eq!(ids(&page("?limit=100")), made);
    assert_eq!(page("?limit=25")["has_more"], false);
    let past = page(&format!("?after={}", made[24]));
    assert_eq!(past["data"], json!([]));
    assert_eq!(past["has_more"], false);
}

#[test]
fn a_cancelled_batch_accounts_for_every_row() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(40)));
    let daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-concurrency", "4"]);
    let id = daemon.submit(rows::many(400, "m"));
    daemon.wait_for(&id, wait::A_WHILE, "under way", |batch| counts(batch).1 >= 10);
    let answer = daemon.post_empty(&format!("/v1/batches/{id}/cancel")).expect(200);
    assert!(matches!(answer["status"].as_str(), Some("cancelling" | "cancelled")), "{answer}");
    assert!(answer["cancelling_at"].is_i64(), "{answer}");
    // Impatient users cancel twice.
    let again = daemon.post_empty(&format!("/v1/batches/{id}/cancel"));
    assert!(matches!(again.status(), 200 | 409), "{}", again.text());

    let batch = daemon.wait_ended(&id, wait::A_WHILE);
    assert_eq!(batch["status"], "cancelled");
    assert!(batch["cancelled_at"].is_i64(), "{batch}");
    let calls = upstream.calls();
    let (output, errors) = (daemon.output(&batch), daemon.errors(&batch));
    assert!(output.len() >= 10, "what was done is kept");
    assert_eq!(output.len() + errors.len(), 400, "every row is accounted for");
    assert_eq!(counts(&batch), (400, output.len() as u64, errors.len() as u64));
    assert!(errors.iter().all(|line| line.error_code() == Some("batch_cancelled")), "{:?}", errors.first());
    assert!(calls < 400, "cancelling stops new calls");
    assert_eq!(daemon.post_empty(&format!("/v1/batches/{id}/cancel")).error_code(409), "conflict");
    assert_eq!(upstream.calls(), calls, "nothing runs after the end");
}

#[test]
fn what_has_ended_cannot_be_cancelled() {
    let daemon = Daemon::start();
    let batch = id_of(&daemon.complete(rows::many(1, rows::INSTANT)));
    assert_eq!(daemon.post_empty(&format!("/v1/batches/{batch}/cancel")).error_code(409), "conflict");
    assert_eq!(daemon.batch(&batch)["status"], "completed");
}

#[test]
fn results_can_be_read_while_the_batch_runs() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(20)));
    let daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-concurrency", "8"]);
    let id = daemon.submit(rows::many(400, "m"));
    let early = wait::poll(wait::A_WHILE, || {
        let lines = api::lines(&daemon.results(&id));
        (!lines.is_empty()).then_some(lines)
    });
    let early = early.expect("results before the end");
    let status = daemon.batch(&id)["status"].clone();
    assert!(!is_terminal(&status), "400 rows of 20 ms at 8 at a time had ended before the first result was seen");

    let batch = daemon.wait_ended(&id, wait::A_WHILE);
    let all = daemon.results(&id);
    assert_eq!(all, daemon.content(batch["output_file_id"].as_str().unwrap()), "no row failed, so the results are the output");
    let last = api::lines(&all);
    for line in early {
        let now = last.iter().find(|l| l.custom_id == line.custom_id).expect("a result that was shown stays");
        assert_eq!(now.value, line.value);
    }
    let head = daemon.get(&format!("/v1/batches/{id}/results")).head;
    assert!(head.header("content-type").is_some_and(|kind| kind.starts_with("application/x-ndjson")), "{head:?}");
}

#[test]
fn batches_share_the_daemon() {
    let upstream = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(5)));
    let daemon = Daemon::with_upstream(&upstream.url(), &["--upstream-concurrency", "4"]);
    let large = daemon.submit(rows::many(5_000, "m"));
    daemon.wait_for(&large, wait::A_WHILE, "under way", |batch| counts(batch).1 > 0);
    let small = daemon.submit(rows::many(10, "m"));
    let ended = daemon.wait_ended(&small, wait::A_WHILE);
    assert_eq!(counts(&ended), (10, 10, 0));
    assert!(!is_terminal(&daemon.batch(&large)["status"]), "the small batch waited for the large one");
}

#[test]
fn counts_and_results_outlive_a_restart() {
    let mut daemon = Daemon::start();
    let batch = daemon.complete(rows::many(50, rows::INSTANT));
    let output = daemon.content(batch["output_file_id"].as_str().unwrap());
    assert!(daemon.sigterm_and_wait(wait::SOON).success());
    daemon.restart();
    assert_eq!(daemon.batch(&id_of(&batch)), batch);
    assert_eq!(daemon.content(batch["output_file_id"].as_str().unwrap()), output);
}

#[test]
#[ignore = "waits for a completion window of one minute"]
fn rows_that_the_window_leaves_behind_expire() {
    let upstream = FakeUpstream::start(|call| if call.row == "row-0" { Reply::ok(call) } else { Reply::stall() });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let input = daemon.upload(rows::many(5, "m"));
    let mut request = Daemon::batch_request(&input, CHAT);
    request["completion_window"] = json!("1m");
    let id = id_of(&daemon.post("/v1/batches", &request).expect(200));
    let batch = daemon.wait_ended(&id, Duration::from_secs(120));
    assert_eq!(batch["status"], "expired");
    assert!(batch["expired_at"].is_i64(), "{batch}");
    assert_eq!(counts(&batch), (5, 1, 4));
    assert!(daemon.errors(&batch).iter().all(|line| line.error_code() == Some("batch_expired")));
}
