//! From a create to its results: the batch object, lists, rows one by one, files.

use serde_json::{Value, json};

use crate::client::{Client, TIMEOUT, id, line, row};
use crate::support::daemon::Daemon;
use crate::support::http::{Form, Request};
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::wait::poll;

const MODEL: &str = "gpt-5-mini";

/// Compares a body with its snapshot, without the parts that differ from run to run.
pub fn same(name: &str, body: &Value) {
    insta::with_settings!({filters => vec![
        (r"batch_[0-9A-Z]{26}", "batch_[ULID]"),
        (r"batch_[0-9a-z]{26}", "batch_[id]"),
        (r"G-[0-9A-Z]{26}", "G-[ULID]"),
        (r"file-[0-9a-z]{26}", "file-[id]"),
        (r#""[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}""#, r#""[UUID]""#),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "[time]"),
        (r": 1[78]\d{8}(,|\n)", ": \"[seconds]\"$1"),
    ]}, { insta::assert_json_snapshot!(name, body) });
}

#[test]
fn a_batch_has_its_fields_from_its_create_to_its_end() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let body = json!({
        "model": MODEL, "endpoint": "/v1/responses", "session_id": "run-7", "metadata": { "job": "geo" }, "debug": true, "beta": 1,
        "requests": [
            {"custom_id": "a", "body": {"input": "Name a river.", "max_output_tokens": 32}},
            {"custom_id": "b", "url": "/responses", "body": {"input": "Name a lake.", "max_output_tokens": 32}},
        ],
    });
    let created = client.create(&body);
    same("created", &created);
    let id = id(&created);
    let ended = client.ended(&id);
    same("ended", &ended);
    assert_eq!(client.get(&format!("/v1/batches/{id}?anything=1")).expect(200), ended, "a query is ignored");
    let results = client.results(&id);
    assert_eq!(results.iter().map(|line| line["custom_id"].clone()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(results[0]["response"]["body"]["object"], "response");
    same("requests", &client.get(&format!("/v1/batches/{id}/requests")).expect(200));
    let listed = client.get("/v1/batches").expect(200);
    same("list", &listed);
    // Every path has an alias, and links keep the alias.
    let alias = client.get(&format!("/v1/batch/{id}")).expect(200);
    assert!(alias["polling_url"].as_str().is_some_and(|url| url.ends_with(&format!("/v1/batch/{id}"))), "{alias}");
    // The batch object is in the dialect of the batch, whichever key asks for it.
    assert_eq!(daemon.get(&format!("/v1/batches/{id}")).expect(200)["lifecycle_status"], "completed");
    assert_eq!(daemon.get(&format!("/openai/v1/batches/{id}")).expect(200)["request_counts"]["completed"], 2);
    let answer = client.get(&format!("/v1/batches/{id}"));
    assert!(
        answer.header("x-request-id").is_some_and(|id| id.starts_with("G-") && id.len() == 2 + 26),
        "{:?}",
        answer.header("x-request-id")
    );
}

#[test]
fn rows_come_as_prompts_items_and_files_of_both_kinds() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let done = |body: Value| {
        let batch = client.ended(&id(&client.create(&body)));
        assert_eq!(batch["status"], "completed", "{batch}");
        batch["request_counts"]["completed"].as_u64()
    };
    assert_eq!(done(json!({ "model": MODEL, "prompts": ["One?", "Two?"], "system": "Be brief.", "max_tokens": 64 })), Some(2));
    assert_eq!(done(json!({ "model": MODEL, "items": [{"id": "x", "text": "One?"}], "temperature": 0.5 })), Some(1));
    assert_eq!(
        done(json!({ "requests": [{"body": {"model": "text-embedding-3-small", "input": "x"}}], "endpoint": "embeddings" })),
        Some(1)
    );
    let lines = format!("{}\r\n{}\n", line("a", MODEL), line("b", MODEL));
    let form = Form::default().field("purpose", "batch").file("file", "in.jsonl", lines.as_bytes());
    let file = client.send(Request::post("/v1/files?provider=openai").form(form)).expect(200);
    assert_eq!((&file["object"], &file["purpose"], &file["status"]), (&json!("file"), &json!("batch"), &json!("processed")));
    let batch = client.create(&json!({ "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "36 hours" }));
    assert_eq!((&batch["completion_window"], &batch["input_file_id"]), (&json!("36h"), &file["id"]));
    assert_eq!(client.ended(&id(&batch))["request_counts"]["completed"], 2);
    // A file in the form that the Python client sends: a `data:` URL, or the text, as JSON.
    let encoded = base64(lines.as_bytes());
    for content in [format!("data:application/jsonl;base64,{encoded}"), lines.clone()] {
        let file = client.post("/v1/batches/files", &json!({ "purpose": "batch", "file": content })).expect(200);
        assert_eq!(file["bytes"], lines.len());
        assert_eq!(client.get(&format!("/v1/batches/files/{}/content", file["id"].as_str().expect("an id"))).text(), lines);
        assert_eq!(done(json!({ "input_file_id": file["id"] })), Some(2));
    }
    let empty = client.post("/v1/files", &json!({ "purpose": "batch", "file": "" })).expect(400);
    assert_eq!(empty["error"]["reason"], "batch_file_empty");
    assert_eq!(client.get("/v1/files").expect(200)["object"], "list");
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u32| char::from(DIGITS[(value & 63) as usize]);
    let encode = |chunk: &[u8]| {
        let value = chunk.iter().chain([&0, &0]).take(3).fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        let digits = [18, 12, 6, 0].map(|shift| digit(value >> shift));
        digits.into_iter().take(chunk.len() + 1).chain("==".chars().take(3 - chunk.len())).collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

#[test]
fn a_create_with_a_key_of_its_own_happens_once() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let create = |body: &Value| client.send(Request::post("/v1/batches").header("idempotency-key", "nightly-1").json(body));
    let body = json!({ "model": MODEL, "prompts": ["One?"] });
    let first = create(&body).expect(200);
    assert_eq!(create(&body).expect(200)["id"], first["id"]);
    assert_eq!(create(&json!({ "model": MODEL, "prompts": ["Two?"] })).status(), 409);
    let twice = [client.create(&body), client.create(&body)].map(|batch| id(&batch));
    assert_ne!(twice[0], twice[1], "without a key, twice is two batches");
}

#[test]
fn lists_are_filtered_and_rows_are_told_by_their_status() {
    // One row is refused, one takes its time, and one waits for the slow row until the batch is
    // cancelled.
    let upstream = FakeUpstream::start(|call| match call.row.as_bytes().first() {
        Some(b'f') => Reply::error(400),
        Some(b's') => Reply::ok(call).after(std::time::Duration::from_secs(3)),
        _ => Reply::ok(call),
    });
    // The slow row is to have its time.
    let daemon = Daemon::with_upstream(&upstream.url(), &["--in-flight-limit", "1", "--cancel-grace-local", "30s"]);
    let client = Client::new(&daemon);
    let rows: Vec<_> = ["a", "fail", "b", "slow", "later"].iter().map(|id| row(id, "a-model")).collect();
    let id_of_it = id(&client.create(&json!({ "requests": rows })));
    assert_eq!(client.get("/v1/batches?status=pending,running").expect(200)["data"].as_array().map(Vec::len), Some(1));
    let early = client.get(&format!("/v1/batches/{id_of_it}/results")).expect(409);
    assert_eq!((&early["error"], early.get("request_id").is_some()), (&json!("not_ready"), true));
    let counts = || client.batch(&id_of_it)["request_counts"].clone();
    poll(TIMEOUT, || (counts() == json!({ "total": 5, "completed": 2, "failed": 1 })).then_some(())).expect("three rows are done");
    let running = client.batch(&id_of_it);
    assert_eq!(
        (&running["progress"], &running["lifecycle_status"], running["cancel_url"].is_string()),
        (&json!(60), &json!("running"), true)
    );
    let rows = |query: &str| {
        let listed = client.get(&format!("/v1/batches/{id_of_it}/requests{query}")).expect(200);
        listed["data"]
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| format!("{} {}", row["custom_id"], row["status"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(""), ["a completed", "fail failed", "b completed", "slow in_progress", "later in_progress"]);
    assert_eq!(rows("?status=failed"), ["fail failed"]);
    assert_eq!(rows("?status=completed&offset=1"), ["b completed"]);
    assert_eq!(rows("?limit=2&offset=1"), ["fail failed", "b completed"]);
    assert_eq!(rows("?status=nothing"), Vec::<String>::new());
    let failed = client.get(&format!("/v1/batches/{id_of_it}/requests?status=failed")).expect(200)["data"][0].clone();
    assert_eq!((&failed["response_status"], failed["error_body"]["message"].is_string()), (&json!(400), true), "{failed}");

    let cancelling = client.post(&format!("/v1/batches/{id_of_it}/cancel"), &json!({})).expect(200);
    assert_eq!((&cancelling["status"], &cancelling["lifecycle_status"]), (&json!("cancelling"), &json!("running")));
    let cancelled = client.ended(&id_of_it);
    assert_eq!((&cancelled["status"], &cancelled["cancel_url"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(client.post(&format!("/v1/batches/{id_of_it}/cancel"), &json!({})).expect(200)["status"], "cancelled", "as it is");
    assert_eq!(rows("?status=cancelled"), ["later cancelled"]);
    let lines = client.results(&id_of_it);
    assert_eq!(
        lines.iter().map(|line| line["custom_id"].clone()).collect::<Vec<_>>(),
        ["a", "b", "slow", "fail", "later"],
        "the output, then the errors"
    );

    let other = id(&client.create(&json!({ "requests": [row("z", "a-model")] })));
    client.ended(&other);
    let list = |query: &str| {
        client.get(&format!("/v1/batches{query}")).expect(200)["data"].as_array().expect("batches").iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(list("?status=cancelled").concat(), id_of_it);
    assert_eq!(list("?statuses=completed,failed").concat(), other);
    assert_eq!(list("?status=completed,cancelled&limit=1").concat(), other, "the one that changed last");
    assert_eq!(list("?status=nonsense").len(), 2, "all unknown: no filter");
}
