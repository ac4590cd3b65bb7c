//! Creating batches: the guides to submitting and to quotes, and the error pages.

use serde_json::{Value, json};

use crate::client::{Client, item, items};
use crate::support::daemon::Daemon;
use crate::support::http::{Form, Request};

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_default()
}

#[test]
fn a_batch_needs_an_idempotency_key_and_is_made_once_for_each() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let items = items(2, "gpt-4o-mini");
    let quote = client.quote(&json!({ "items": items }));
    let body = json!({ "quote_id": quote["quote_id"], "items": items });
    let without = client.post("/v1/batches", &body).expect(400);
    assert_eq!(code(&without), "missing_idempotency_key");
    for key in ["short", &"x".repeat(129)] {
        assert_eq!(code(&client.create_as(key, &body).expect(400)), "invalid_request", "8 to 128 characters");
    }
    let created = client.create_as("nightly:2026-11-26", &body).expect(202);
    let batch = &created["batch"];
    assert!(batch["id"].as_str().is_some_and(|id| id.starts_with("bat_") && id.len() == 4 + 32), "{batch}");
    assert_eq!((&batch["item_count"], &batch["routing_mode"], &batch["sla_tier"]), (&json!(2), &json!("cheapest"), &json!("standard")));
    assert_eq!(batch["sla_deadline"], quote["sla_deadline"], "computed at quote time, and carried onto the batch");
    // The same key and payload, in any spelling, return the original batch.
    let respelt = serde_json::to_string_pretty(&body).expect("it is JSON");
    let again = Request::post("/v1/batches").header("idempotency-key", "nightly:2026-11-26").header("content-type", "application/json");
    assert_eq!(client.send(again.bytes(respelt)).expect(202)["batch"]["id"], batch["id"]);
    let other = client.create_as("nightly:2026-11-26", &json!({ "quote_id": quote["quote_id"], "items": [items[0]] })).expect(409);
    assert_eq!(code(&other), "idempotency_conflict");
    // The batch is readable at once; a quote makes one batch.
    assert_eq!(client.batch(batch["id"].as_str().expect("an id"))["id"], batch["id"]);
    assert_eq!(code(&client.try_create(&body).expect(409)), "quote_already_used");
    let kept = client.get(&format!("/v1/quotes/{}", quote["quote_id"].as_str().expect("an id"))).expect(200);
    assert_eq!((&kept["quote_lock"]["status"], &kept["quote_lock"]["batch_id"]), (&json!("accepted"), &batch["id"]));
}

#[test]
fn everything_that_is_wrong_is_told_before_anything_is_kept() {
    let daemon = Daemon::with(&["--quote-validity", "1s"]);
    let client = Client::new(&daemon);
    let items = items(2, "gpt-4o-mini");
    let quote = || client.quote(&json!({ "items": items }))["quote_id"].clone();
    let file = "file_00000000000000000000000000000007";
    let both = client.try_create(&json!({ "quote_id": quote(), "items": items, "input_file_id": file })).expect(400);
    let neither = client.try_create(&json!({ "quote_id": quote() })).expect(400);
    for refused in [both, neither] {
        assert_eq!(code(&refused), "preflight_failed");
        assert_eq!(refused["error"]["details"]["preflight"]["issues"].as_array().map(Vec::len), Some(1), "{refused}");
    }
    let mut faulty = items.clone();
    faulty.push(items[0].clone());
    faulty.push(json!({"customer_item_id": "c", "operation": "speech", "model": "gpt-4o-mini", "input": {"messages": []}}));
    let refused = client.try_create(&json!({ "quote_id": quote(), "items": faulty })).expect(400);
    let issues: Vec<_> =
        refused["error"]["details"]["preflight"]["issues"].as_array().expect("issues").iter().map(|i| i["path"].clone()).collect();
    assert_eq!(issues, ["items[2].customer_item_id", "items[3].operation"]);
    let unquoted = client.try_create(&json!({ "quote_id": quote(), "items": [item("a", "gpt-4o")] })).expect(400);
    assert_eq!(unquoted["error"]["details"]["preflight"]["issues"][0]["code"], "model_not_quoted");
    for (status, expected, body) in [
        (404, "quote_not_found", json!({ "quote_id": "qlock_00000000000000000000000000000007", "items": items })),
        (404, "not_found", json!({ "quote_id": quote(), "input_file_id": file })),
        (
            400,
            "invalid_request",
            json!({ "quote_id": quote(), "items": items, "webhook": { "url": "https://a.test/", "secret": "short" } }),
        ),
        (409, "quote_mismatch", json!({ "quote_id": quote(), "items": items, "sla_tier": "priority" })),
        (409, "quote_mismatch", json!({ "quote_id": quote(), "items": items, "required_tools": ["web_search"] })),
        (409, "quote_mismatch", json!({ "quote_id": quote(), "items": items, "provider_preferences": { "zdr": true } })),
    ] {
        assert_eq!(code(&client.try_create(&body).expect(status)), expected, "{body}");
    }
    let old = quote();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(code(&client.try_create(&json!({ "quote_id": old, "items": items })).expect(409)), "quote_expired");
    assert_eq!(client.get("/v1/batches").expect(200)["data"], json!([]), "nothing was kept");
    assert_eq!(daemon.get("/openai/v1/files").expect(200)["data"], json!([]));
    // A create that demands no more than was quoted is accepted: "send the same constraints there
    // again".
    let restated =
        json!({ "quote_id": quote(), "items": items, "sla_tier": "standard", "routing_mode": "cheapest", "privacy_tier": "standard" });
    client.try_create(&restated).expect(202);
}

#[test]
fn more_items_than_come_in_a_request_come_as_a_file() {
    let daemon = Daemon::with(&["--max-inline-items", "3", "--max-inline-bytes", "64KiB", "--max-row-bytes", "1KiB"]);
    let client = Client::new(&daemon);
    let quote = || client.quote(&json!({ "items": items(1, "gpt-4o-mini") }))["quote_id"].clone();
    let four = items(4, "gpt-4o-mini");
    let refused = client.try_create(&json!({ "quote_id": quote(), "items": four })).expect(400);
    assert_eq!(
        (code(&refused), &refused["error"]["message"]),
        ("invalid_request", &json!("items: Array must contain at most 3 element(s)"))
    );
    let long = json!({ "quote_id": quote(), "items": items(1, "gpt-4o-mini"), "metadata": "x".repeat(64 << 10) });
    let refused = client.try_create(&long).expect(413);
    assert_eq!((code(&refused), &refused["error"]["details"]["max_bytes"]), ("request_too_large", &json!(64 << 10)));
    // An item that could not be a row of the batch's file is reported at once, and the quote is not
    // used up.
    let id = quote();
    let mut wide = items(2, "gpt-4o-mini");
    wide[1]["input"]["messages"][0]["content"] = json!("x".repeat(1_024));
    let refused = client.try_create(&json!({ "quote_id": id, "items": wide })).expect(400);
    assert_eq!(refused["error"]["details"]["preflight"]["issues"][0]["path"], "items[1]", "{refused}");
    let lines: String = four.iter().map(|item| format!("{item}\n")).collect();
    let file = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(lines)).expect(201);
    let created = client.try_create(&json!({ "quote_id": id, "input_file_id": file["file_id"] })).expect(202);
    assert_eq!(client.ended(created["batch"]["id"].as_str().expect("an id"))["counts"]["completed"], 4);
}

#[test]
fn what_a_file_asks_beyond_its_sample_is_reserved_too() {
    let daemon = Daemon::start();
    let made = daemon.post("/admin/organisations", &json!({ "name": "Acme", "credits": "0.01" })).expect(201);
    let client = Client { daemon: &daemon, key: made["api_key"].as_str().expect("a key").to_owned() };
    // A cheap sample, and a file whose rows ask for a thousand times as much output.
    let quote = client.quote(&json!({ "items": items(1, "gpt-4o-mini") }))["quote_id"].clone();
    let mut greedy = items(20, "gpt-4o-mini");
    greedy.iter_mut().for_each(|item| item["input"]["max_output_tokens"] = json!(16_000));
    let lines: String = greedy.iter().map(|item| format!("{item}\n")).collect();
    let file = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(lines)).expect(201);
    let created = client.try_create(&json!({ "quote_id": quote, "input_file_id": file["file_id"] })).expect(202);
    let batch = client.ended(created["batch"]["id"].as_str().expect("an id"));
    assert_eq!((&batch["status"], &batch["errors"][0]["code"]), (&json!("failed"), &json!("insufficient_credits")));
}

#[test]
fn items_come_inline_or_as_a_file_in_either_form() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let sample = client.quote(&json!({ "items": items(1, "gpt-4o-mini") }))["quote_id"].clone();
    let openai = json!({"custom_id": "openai", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}});
    let lines = format!("{}\n{openai}\n", item("native", "gpt-4o-mini"));
    let form = Form::default().file("file", "nightly.jsonl", lines.as_bytes());
    let file = client.send(Request::post("/v1/files").form(form)).expect(201);
    assert!(file["file_id"].as_str().is_some_and(|id| id.starts_with("file_")), "{file}");
    assert_eq!((&file["purpose"], &file["filename"]), (&json!("batch"), &json!("nightly.jsonl")));
    let created = client.try_create(&json!({ "quote_id": sample, "input_file_id": file["file_id"], "input_item_count": 2 })).expect(202);
    let batch = client.ended(created["batch"]["id"].as_str().expect("an id"));
    assert_eq!((&batch["status"], &batch["item_count"]), (&json!("completed"), &json!(2)));
    let ids: Vec<_> = client.results(batch["id"].as_str().expect("an id"), 1).iter().map(|row| row["customer_item_id"].clone()).collect();
    assert_eq!(ids, ["native", "openai"]);

    // The quote of a file covers its items; so does the quote that a create without a quote makes.
    let whole = client.quote(&json!({ "input_file_id": file["file_id"], "input_item_count": 2 }));
    let inline =
        client.quote(&json!({ "items": lines.lines().map(|line| serde_json::from_str(line).expect("an item")).collect::<Vec<Value>>() }));
    assert_eq!((&whole["item_count"], &whole["pricing_estimate"]), (&inline["item_count"], &inline["pricing_estimate"]));
    let created = client.try_create(&json!({ "input_file_id": file["file_id"] })).expect(202);
    assert_eq!(created["quote"]["pricing_estimate"], whole["pricing_estimate"]);
    assert_eq!(client.ended(created["batch"]["id"].as_str().expect("an id"))["counts"]["completed"], 2);
    let broken = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes("{}\n{\n7\n")).expect(201);
    let refused = client.post("/v1/quotes/model", &json!({ "input_file_id": broken["file_id"] })).expect(400);
    assert_eq!(refused["error"]["details"]["preflight"]["issues"][0]["path"], "line 2", "{refused}");
    client.post("/v1/quotes/model", &json!({ "input_file_id": "file_00000000000000000000000000000007" })).expect(404);

    // The older form of upload, and the count and hash that it declares.
    let manifest = |count: &str, sha256: &str| {
        let request = Request::post("/v1/batches/input-manifests").header("content-type", "application/x-ndjson");
        client.send(request.header("x-batchrouter-item-count", count).header("x-content-sha256", sha256).bytes(lines.clone()))
    };
    let sha256 = file["sha256"].as_str().expect("a digest");
    assert_eq!(manifest("2", sha256).expect(201)["input_file_id"].as_str().map(str::len), Some(5 + 32));
    assert_eq!(code(&manifest("3", sha256).expect(400)), "invalid_request");
    assert_eq!(code(&manifest("2", &sha256.replace(|c: char| c.is_ascii_digit(), "0")).expect(400)), "invalid_request");

    // A blank line in the file is skipped. An item of a kind that was not quoted fails the batch,
    // which names its line.
    let faulty = format!("{}\n\n{}\n", item("a", "gpt-4o-mini"), item("b", "gpt-4o"));
    let file = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(faulty)).expect(201);
    let quote = client.quote(&json!({ "items": items(1, "gpt-4o-mini") }))["quote_id"].clone();
    let created = client.try_create(&json!({ "quote_id": quote, "input_file_id": file["file_id"] })).expect(202);
    let batch = client.ended(created["batch"]["id"].as_str().expect("an id"));
    let errors: Vec<_> = batch["errors"].as_array().expect("errors").iter().map(|error| error["path"].clone()).collect();
    assert_eq!((&batch["status"], errors), (&json!("failed"), vec![json!("line 3: model")]));
    // The batch has ended without running anything: there are no rows, and there is nothing to wait
    // for.
    let id = batch["id"].as_str().expect("an id");
    assert_eq!(client.get(&format!("/v1/batches/{id}/results")).expect(200), json!({"data": [], "has_more": false, "next_cursor": null}));
    client.get(&format!("/v1/batches/{id}/artifact-url")).expect(200);
}

#[test]
fn a_create_without_a_quote_makes_one_and_returns_it() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let created = client.try_create(&json!({ "items": items(3, "gpt-4o-mini"), "sla_tier": "flex" })).expect(202);
    assert_eq!(created["batch"]["quote_id"], created["quote"]["quote_id"]);
    assert_eq!((&created["batch"]["sla_tier"], &created["quote"]["item_count"]), (&json!("flex"), &json!(3)));
    assert_eq!(client.ended(created["batch"]["id"].as_str().expect("an id"))["status"], "completed");
    let refused = client.try_create(&json!({ "items": items(1, "gpt-4o-mini"), "allowed_regions": ["eu"] })).expect(400);
    let lanes = refused["error"]["details"]["quote_lanes"].as_array().expect("lanes");
    assert!(lanes.iter().any(|lane| lane["rejection_reason"] == "region_unavailable"), "{refused}");
}
