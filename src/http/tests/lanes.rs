//! `/admin/lanes`: holding and releasing lanes, and where else the holds are visible.

use serde_json::json;

use super::*;

async fn ask(bench: &Bench, action: &str, lane: &str) -> Reply {
    bench.post(&format!("/admin/lanes/{action}"), &json!({ "lane": lane })).await
}

/// The message, whether anything changed, and each hold that bears on the lane.
fn described(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    let holds = body["holds"].as_array().unwrap().iter().map(|held| format!("{}={}", held["lane"], held["hold"]));
    format!("{} {} [{}]", body["changed"], body["message"].as_str().unwrap(), holds.collect::<Vec<_>>().join(", "))
}

#[tokio::test]
async fn lanes_are_held_and_let_go() {
    let bench = Bench::new().await;
    const LLAMA: &str = "groq/meta-llama/llama-4-scout-17b-16e-instruct";
    let mut shown = Vec::new();
    for (action, lane) in [
        ("pause", "groq"),
        ("pause", "groq"),
        ("drain", LLAMA),
        ("resume", "groq/llama-3.1-8b-instant"),
        ("resume", "groq"),
        ("pause", "groq"),
        ("drain", "groq"),
        ("resume", LLAMA),
        ("resume", "groq"),
        ("resume", "groq"),
    ] {
        shown.push(format!("{action} {lane}\n{}", described(&ask(&bench, action, lane).await)));
    }
    insta::assert_snapshot!(shown.join("\n"));
    assert!(bench.api.service.executor.lane_holds().is_empty());
}

#[tokio::test]
async fn a_held_lane_is_listed_although_no_row_has_gone_there() {
    let bench = Bench::new().await;
    assert_eq!(bench.get("/admin/lanes").await.json(), json!({"object": "list", "data": [], "holds": []}));
    ask(&bench, "drain", "groq/llama-3.1-8b-instant").await;
    bench.pass(60);
    ask(&bench, "pause", "openai").await;
    bench.pass(60);
    // A hold that is repeated keeps its `since`.
    ask(&bench, "pause", "openai").await;
    insta::assert_json_snapshot!(bench.get("/admin/lanes").await.json());
}

#[tokio::test]
async fn lanes_that_do_not_exist_are_refused_with_what_was_probably_meant() {
    let bench = Bench::new().await;
    let mut shown = Vec::new();
    for (action, body) in [
        ("pause", json!({"lane": "grok"})),
        ("pause", json!({"lane": "nobody-at-all"})),
        ("drain", json!({"lane": "nobody-at-all/model"})),
        ("drain", json!({"lane": "groq/llama-3.1-8b"})),
        ("resume", json!({"lane": "groq/llama-4-scout"})),
        ("pause", json!({"lane": "simulated/gpt-4o-mini"})),
        ("pause", json!({"lane": "groq/"})),
        ("pause", json!({"lane": 7})),
        ("pause", json!({})),
        ("pause", json!({"lane": "groq", "until": "tomorrow"})),
    ] {
        let reply = bench.post(&format!("/admin/lanes/{action}"), &body).await;
        let error = &reply.json()["error"];
        let message = error["message"].as_str().unwrap();
        shown.push(format!("{action} {body}\n{} {} {}: {message}", reply.status.as_u16(), error["code"], error["param"]));
    }
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[tokio::test]
async fn operators_need_a_key_where_everybody_does() {
    let bench = Bench::with(|api| api.access = Access::keys(&["alpha".into()])).await;
    assert_eq!(bench.get("/admin/lanes").await.status, 401);
    assert_eq!(ask(&bench, "pause", "groq").await.status, 401);
    assert!(bench.api.service.executor.lane_holds().is_empty());
}

#[tokio::test]
async fn the_public_catalog_shows_at_once_that_a_lane_is_held() {
    let bench = Bench::new().await;
    let offering = async || {
        let body = bench.get("/v1/catalog/models?provider=simulated").await.json();
        let model = body["data"].as_array().unwrap().iter().find(|model| model["slug"] == "simulated-instant").unwrap().clone();
        let own = &model["provider_offerings"][0];
        (model["is_available"].clone(), own["capacity_status"].clone(), own["available_queue_items"].as_u64().unwrap())
    };
    let (available, status, room) = offering().await;
    assert!(available == true && status == "active" && room > 0);
    for action in ["pause", "drain"] {
        ask(&bench, action, "simulated/simulated-instant").await;
        assert_eq!(offering().await, (json!(false), json!("paused"), 0), "{action}");
    }
    ask(&bench, "resume", "simulated/simulated-instant").await;
    assert_eq!(offering().await.0, true);
}
