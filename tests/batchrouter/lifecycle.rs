//! From the first poll to the receipt: the guide to results, and the observed form of rows and
//! receipts.

use serde_json::{Value, json};

use crate::client::{Client, TIMEOUT, amount, item, items};
use crate::support::api::lines;
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::wait::{SOON, poll};

/// BatchRouter's stages in order.
const STAGES: [&str; 7] = ["pending", "queued", "routing", "dispatched", "processing", "completing", "completed"];

#[test]
fn a_batch_goes_through_its_stages_in_their_order_also_when_it_is_killed() {
    const KILLS: usize = 4;
    let mut daemon = Daemon::with(&["--in-flight-limit", "16"]);
    let mut seen = Vec::new();
    let id = Client::new(&daemon).submit(&items(300, "gpt-4o-mini"), &json!({}));
    for round in 0..10_000 {
        let status = Client::new(&daemon).batch(&id)["status"].as_str().expect("a status").to_owned();
        let stage = STAGES.iter().position(|stage| *stage == status).unwrap_or_else(|| panic!("{status} is no stage"));
        assert!(seen.last().is_none_or(|last| *last <= stage), "{status} after {seen:?}");
        seen.push(stage);
        if stage == STAGES.len() - 1 {
            break;
        }
        if round % 40 == 20 && round / 40 < KILLS {
            daemon.kill9();
            daemon.restart();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let client = Client::new(&daemon);
    let batch = client.ended(&id);
    assert_eq!(batch["counts"]["completed"], 300);
    assert_eq!(batch["batch"]["status"], "completed", "the same under `batch`, for older clients");
    let numbers: Vec<_> = client.results(&id, 7).iter().map(|row| row["sequence_no"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>(), "each once, in the order of the input");
    let credits = client.get(&format!("/v1/batches/{id}?include_billing_receipt=true")).expect(200)["billing_receipt"]["credits"].clone();
    let micros = |name: &str| (amount(&credits[name]) * 1e6).round();
    assert_eq!(micros("reserved"), micros("charged") + micros("released"), "{credits}");
}

#[test]
fn results_rows_artifact_and_receipt_have_what_was_observed() {
    let daemon = Daemon::with(&["--fee-percent", "5.9"]);
    let client = Client::new(&daemon);
    let mixed = vec![
        item("chat", "gpt-4o-mini"),
        json!({"customer_item_id": "text", "operation": "responses", "model": "gpt-4o-mini", "input": {"input": "hello"}}),
        json!({"customer_item_id": "vector", "operation": "embeddings", "model": "text-embedding-3-small", "input": {"input": "hello"}}),
        json!({"customer_item_id": "image", "operation": "vision", "model": "gpt-4o-mini", "input": {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is on the label?"}, {"type": "image_url", "image_url": {"url": "https://example.org/label.png"}}]}]}}),
    ];
    let id = client.submit(&mixed, &json!({}));
    let batch = client.ended(&id);
    let rows = client.results(&id, 3);
    let told = |row: &Value| {
        format!("{} {} {} {}", row["customer_item_id"], row["operation"], row["status"], row["output"]["object"]).replace('"', "")
    };
    let told: Vec<_> = rows.iter().map(told).collect();
    assert_eq!(
        told,
        [
            "chat responses completed chat.completion",
            "text responses completed response",
            "vector embeddings completed list",
            "image vision completed chat.completion"
        ]
    );
    let row = &rows[0];
    for field in
        ["custom_id", "batch_item_id", "sequence_no", "provider", "provider_model", "attempt", "usage", "cost", "error", "completed_at"]
    {
        assert!(row.get(field).is_some(), "{field}: {row}");
    }
    let (cost, charge, margin) =
        (amount(&row["cost"]["provider_cost"]), amount(&row["cost"]["customer_charge"]), amount(&row["cost"]["platform_margin"]));
    assert!(cost > 0.0 && (charge - cost * 1.059).abs() < 2e-8 && (charge - cost - margin).abs() < 2e-8, "{}", row["cost"]);

    // "A signed URL to download everything": it works without a key, for a limited time, and only
    // unaltered.
    let artifact = client.get(&format!("/v1/batches/{id}/artifact-url")).expect(200);
    let url = artifact["url"].as_str().expect("a URL");
    let path = &url[url.find("/v1/").expect("a path")..];
    let whole = daemon.send(Request::get(path));
    assert_eq!((whole.status(), whole.header("content-type")), (200, Some("application/x-ndjson")));
    let parsed: Vec<Value> = whole.text().lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    assert_eq!(parsed, rows);
    let forged = path.replace("expires=1", "expires=2");
    assert_eq!(daemon.send(Request::get(&forged)).expect(403)["error"]["code"], "forbidden");

    let receipt = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200)["billing_receipt"].clone();
    let lanes: Vec<_> = receipt["provider_lanes"]
        .as_array()
        .expect("lanes")
        .iter()
        .map(|lane| format!("{} {}", lane["operation"], lane["item_count"]))
        .collect();
    assert_eq!(lanes, ["\"responses\" 2", "\"embeddings\" 1", "\"vision\" 1"]);
    let charged: f64 = receipt["provider_lanes"].as_array().expect("lanes").iter().map(|lane| amount(&lane["final_settled_price"])).sum();
    let settled = amount(&receipt["pricing"]["final_settled_price"]);
    assert!(settled >= charged - 1e-8 && settled < charged + 1e-6, "whole micro-dollars, rounded up: {settled} for {charged}");
    assert!(receipt["rejected_lanes"].as_array().is_some_and(|lanes| !lanes.is_empty()), "every lane that did not run");

    // "An unmodified OpenAI SDK pointed there can poll batch status and download results."
    let openai = daemon.get(&format!("/v1/openai/v1/batches/{id}")).expect(200);
    assert_eq!((&openai["status"], &openai["object"]), (&json!("completed"), &json!("batch")));
    assert_eq!(openai["request_counts"], json!({"total": 4, "completed": 4, "failed": 0}));
    let content = daemon.content(openai["output_file_id"].as_str().expect("a file"));
    let ids: Vec<_> = lines(&content).iter().map(|line| line.value["custom_id"].clone()).collect();
    assert_eq!(ids, ["chat", "text", "vector", "image"]);
    assert_eq!(batch["output_file_id"].as_str().map(|id| &id[..5]), Some("file_"));
}

#[test]
fn results_wait_for_the_end_and_a_batch_can_be_cancelled_once() {
    let daemon = Daemon::with(&["--in-flight-limit", "1"]);
    let client = Client::new(&daemon);
    let id = client.submit(&items(2_000, "gpt-4o-mini"), &json!({}));
    let early = client.get(&format!("/v1/batches/{id}/results")).expect(409);
    assert_eq!(early["error"]["code"], "results_not_ready");
    assert_eq!(client.get(&format!("/v1/batches/{id}/artifact-url")).expect(409)["error"]["code"], "results_not_ready");
    assert_eq!(client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(409)["error"]["code"], "results_not_ready");
    let running = client.get(&format!("/v1/batches/{id}?include_billing_receipt=true")).expect(200);
    assert_eq!(running["billing_receipt"], Value::Null, "embedded when the batch has ended, and not before");
    poll(SOON, || (client.batch(&id)["counts"]["completed"] != 0).then_some(())).expect("rows run");
    client.post(&format!("/v1/batches/{id}/cancel"), &json!({})).expect(200);
    let batch = client.ended(&id);
    assert_eq!(batch["status"], "cancelled");
    let (done, cancelled) =
        (batch["counts"]["completed"].as_u64().expect("a count"), batch["counts"]["cancelled"].as_u64().expect("a count"));
    assert!(done > 0 && cancelled > 0 && done + cancelled == 2_000, "{}", batch["counts"]);
    let again = client.post(&format!("/v1/batches/{id}/cancel"), &json!({})).expect(409);
    assert_eq!(again["error"]["code"], "batch_terminal", "terminal states never change");
    let statuses: Vec<_> = client.results(&id, 1_000).iter().map(|row| row["status"].clone()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == "cancelled").count() as u64, cancelled);
    // Rows that ran are charged, and the rest of the reservation is released.
    let receipt = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200)["billing_receipt"].clone();
    assert!(amount(&receipt["credits"]["charged"]) > 0.0 && amount(&receipt["credits"]["released"]) > 0.0, "{}", receipt["credits"]);
}

#[test]
fn what_has_failed_before_a_batch_is_cancelled_stays_failed() {
    // The provider refuses rows whose name ends in `0`, and the other rows go on until the batch is cancelled.
    let upstream = FakeUpstream::start(|call| match call.row.ends_with('0') {
        true => Reply::error(400),
        false => Reply::ok(call).after(std::time::Duration::from_millis(20)),
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &["--in-flight-limit", "2"]);
    let client = Client::new(&daemon);
    let id = client.submit(&items(1_000, "a-model"), &json!({}));
    let counts = |batch: &Value| ["failed", "cancelled"].map(|name| batch["counts"][name].as_u64().expect("a count"));
    let seen = poll(TIMEOUT, || Some(counts(&client.batch(&id))).filter(|[failed, _]| *failed > 2)).expect("rows fail");
    assert_eq!(seen[1], 0);
    client.post(&format!("/v1/batches/{id}/cancel"), &json!({})).expect(200);
    let [failed, cancelled] = counts(&client.ended(&id));
    assert!(failed >= seen[0] && cancelled > 900, "{failed} failed and {cancelled} cancelled after {seen:?}");
    let statuses = client.results(&id, 1_000);
    let of = |word: &str| statuses.iter().filter(|row| row["status"] == word).count() as u64;
    assert_eq!((of("failed"), of("cancelled")), (failed, cancelled));
}

#[test]
fn lists_are_pages_and_foreign_ids_are_told_apart() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let mut ids: Vec<_> = (0..5).map(|_| client.submit(&items(1, "gpt-4o-mini"), &json!({}))).collect();
    ids.reverse();
    let first = client.get("/v1/batches?limit=3").expect(200);
    let second = client.get(&format!("/v1/batches?limit=3&cursor={}", first["next_cursor"].as_str().expect("a cursor"))).expect(200);
    let listed: Vec<_> = [&first, &second].iter().flat_map(|page| page["data"].as_array().expect("an array").clone()).collect();
    assert_eq!(listed.iter().map(|batch| batch["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>(), ids);
    assert_eq!(second["next_cursor"], Value::Null);
    for path in ["/v1/batches/bat_00000000000000000000000000000007", "/v1/batches/bat_00000000000000000000000000000007/results"] {
        let missing = client.get(path).expect(404);
        assert_eq!(
            (&missing["error"]["code"], missing["error"].get("type")),
            (&json!("not_found"), None),
            "its envelope, because its key asks"
        );
    }
    assert_eq!(client.get(&format!("/v1/batches/{}/results?limit=0", ids[0])).expect(400)["error"]["code"], "invalid_request");
    client.ended(&ids[0]);
    assert_eq!(client.get(&format!("/v1/batches/{}/results?cursor=x", ids[0])).expect(400)["error"]["code"], "invalid_request");
}
