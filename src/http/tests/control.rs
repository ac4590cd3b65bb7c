//! Priorities, fallbacks and pauses of batches.

use serde_json::json;

use super::*;
use crate::domain::batch::{BatchState, Fallback};
use crate::domain::id::BatchId;
use crate::domain::money::MaxPrice;

async fn create(bench: &Bench, file: &str, wishes: &Value) -> Reply {
    create_keyed(bench, file, wishes, None).await
}

async fn create_keyed(bench: &Bench, file: &str, wishes: &Value, key: Option<&str>) -> Reply {
    let mut order = json!({"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"});
    order.as_object_mut().unwrap().extend(wishes.as_object().unwrap().clone());
    let headers = [("content-type", "application/json"), ("idempotency-key", key.unwrap_or("unused"))];
    bench.call("POST", "/v1/batches", &headers[..if key.is_some() { 2 } else { 1 }], order.to_string()).await
}

#[tokio::test]
async fn what_a_create_wishes_is_kept_and_shown() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let price = |input: Option<&str>, output: Option<&str>, request: Option<&str>| {
        let amount = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        Fallback::Within(MaxPrice { input: amount(input), output: amount(output), request: amount(request) })
    };
    for (wishes, priority, fallback) in [
        (json!({}), "normal", Fallback::NotDearer),
        (json!({"priority": "urgent", "provider": {}}), "urgent", Fallback::NotDearer),
        (json!({"priority": null, "provider": {"allow_fallbacks": true}}), "normal", Fallback::NotDearer),
        (json!({"priority": "low", "provider": {"allow_fallbacks": false, "max_price": null}}), "low", Fallback::Never),
        (json!({"provider": {"max_price": {"prompt": "0.50"}}}), "normal", price(Some("0.5"), None, None)),
        (
            json!({"provider": {"allow_fallbacks": true, "max_price": {"completion": "1e-3", "request": 0}}}),
            "normal",
            price(None, Some("0.001"), Some("0")),
        ),
    ] {
        let batch = create(&bench, &file, &wishes).await;
        assert_eq!(batch.json()["batchd"]["priority"], priority, "{wishes}: {}", batch.text());
        let stored = bench.api.service.store.batch(batch.id().parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(stored.spec.fallback, fallback, "{wishes}");
    }
    // No float has this many digits.
    let body = format!(
        "{{\"input_file_id\":\"{file}\",\"endpoint\":\"/v1/responses\",\"completion_window\":\"24h\",\
         \"provider\":{{\"max_price\":{{\"prompt\":0.1234567890123456789012345678,\"completion\":25E-1}}}}}}"
    );
    let id = bench.call("POST", "/openai/v1/batches", &[("content-type", "application/json")], body).await.id();
    let stored = bench.api.service.store.batch(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(stored.spec.fallback, price(Some("0.1234567890123456789012345678"), Some("2.5"), None));
}

#[tokio::test]
async fn wishes_that_cannot_be_meant_say_why() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let mut shown = Vec::new();
    for wishes in [
        json!({"priority": "highest"}),
        json!({"priority": 5}),
        json!({"provider": "groq"}),
        json!({"provider": {"order": ["groq"]}}),
        json!({"provider": {"allow_fallbacks": "no"}}),
        json!({"provider": {"allow_fallbacks": false, "max_price": {"prompt": 1}}}),
        json!({"provider": {"max_price": {}}}),
        json!({"provider": {"max_price": 1}}),
        json!({"provider": {"max_price": {"image": 1}}}),
        json!({"provider": {"max_price": {"prompt": -1}}}),
        json!({"provider": {"max_price": {"prompt": "cheap"}}}),
        json!({"provider": {"max_price": {"completion": 1_000_001}}}),
        json!({"provider": {"max_price": {"request": [1]}}}),
    ] {
        let reply = create(&bench, &file, &wishes).await;
        assert_eq!(reply.status, 400, "{wishes}");
        let error = &reply.json()["error"];
        shown.push(format!("{wishes}\n{} {}: {}", error["code"], error["param"], error["message"].as_str().unwrap()));
    }
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[tokio::test]
async fn a_key_is_bound_to_what_is_wished_and_not_to_its_spelling() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let ask = async |wishes: Value, key| create_keyed(&bench, &file, &wishes, Some(key)).await;
    let plain = ask(json!({}), "plain").await.id();
    assert_eq!(ask(json!({"priority": "normal", "provider": {"allow_fallbacks": true}}), "plain").await.id(), plain);
    assert_eq!(ask(json!({"priority": "high"}), "plain").await.status, 409);
    let priced = |text: &str| json!({"priority": "high", "provider": {"max_price": {"prompt": text}}});
    let wished = ask(priced("0.5"), "wished").await.id();
    assert_eq!(ask(priced("5.00e-1"), "wished").await.id(), wished);
    assert_eq!(ask(priced("0.51"), "wished").await.status, 409);
    // By the time of the repeated request, the batch may run in another way.
    bench.post(&format!("/v1/batches/{wished}"), &json!({"priority": "low"})).await;
    assert_eq!(ask(priced("0.5"), "wished").await.json()["batchd"]["priority"], "low");
}

#[tokio::test]
async fn a_running_batch_is_paused_resumed_and_given_another_priority() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let id = create(&bench, &file, &json!({"priority": "high"})).await.id();
    let path = format!("/v1/batches/{id}");
    let ours = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let batch = reply.json();
        (batch["batchd"]["priority"].as_str().unwrap().to_owned(), batch["batchd"]["paused"].as_bool().unwrap())
    };
    let state = |priority: &str, paused| (priority.to_owned(), paused);
    assert_eq!(ours(&bench.post(&path, &json!({"paused": true})).await), state("high", true));
    assert_eq!(ours(&bench.post(&format!("/openai{path}"), &json!({"priority": "low"})).await), state("low", true));
    assert_eq!(ours(&bench.call("POST", &format!("{path}/resume"), &[], "").await), state("low", false));
    assert_eq!(ours(&bench.call("POST", &format!("{path}/resume"), &[], "").await), state("low", false), "again is no error");
    assert_eq!(ours(&bench.call("POST", &format!("{path}/pause"), &[], "").await), state("low", true));
    assert_eq!(ours(&bench.post(&path, &json!({"paused": false, "priority": "urgent"})).await), state("urgent", false));
    assert_eq!(ours(&bench.get(&path).await), state("urgent", false));
}

#[tokio::test]
async fn changes_that_cannot_be_made_say_why() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let (open, ended) = (create(&bench, &file, &json!({})).await.id(), create(&bench, &file, &json!({})).await.id());
    let id: BatchId = ended.parse().unwrap();
    bench.api.service.store.batch_refused(id, BatchState::Failed { at: bench.api.service.clock.now() }, Vec::new()).await.unwrap();
    let mut shown = Vec::new();
    for (path, body) in [
        (open.clone(), json!({})),
        (open.clone(), json!({"paused": "yes"})),
        (open.clone(), json!({"priority": "most"})),
        (open, json!({"metadata": {}})),
        (ended.clone(), json!({"paused": true})),
        (format!("{ended}/pause"), json!({})),
        ("batch_00000000000000000000000007".into(), json!({"priority": "low"})),
        ("batch_00000000000000000000000007/resume".into(), json!({})),
    ] {
        let reply = bench.post(&format!("/v1/batches/{path}"), &body).await;
        shown.push(format!("{path} {body}\n{} {}", reply.status.as_u16(), reply.text()));
    }
    insta::assert_snapshot!(stable(&shown.join("\n\n")));
}
