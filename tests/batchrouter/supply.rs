//! Which lanes are routable supply, and for how long: the guides to models and catalog, and to SLA
//! and routing.

use serde_json::{Value, json};

use crate::client::{Client, item, items};
use crate::lanes::{Two, selected};
use crate::support::http::Request;
use crate::support::upstream::Reply;
use crate::support::wait::{SOON, poll};

/// The reason why a quote did not select a provider's lane.
fn reason(quote: &Value, provider: &str) -> String {
    let lane = quote["quote_lanes"].as_array().expect("lanes").iter().find(|lane| lane["provider"] == provider);
    lane.unwrap_or_else(|| panic!("{provider}: {quote}"))["rejection_reason"].as_str().unwrap_or("selected").to_owned()
}

#[test]
fn a_lane_that_does_not_answer_or_is_paused_stays_in_the_catalog_and_out_of_quotes() {
    let two = Two::new(Reply::ok);
    let daemon = two.daemon();
    // The cheap provider's server is gone.
    drop(two.cheap);
    let client = Client::new(&daemon);
    let quote = || client.quote(&json!({ "items": items(1, "m") }));
    assert_eq!(selected(&quote()), ["cheap"], "nobody has asked it yet: it is routed to");
    // Rows whose ceiling excludes the dear lane wait for the cheap lane.
    client.submit(&items(20, "m"), &json!({}));
    let stale = poll(SOON, || Some(quote()).filter(|quote| selected(quote) == ["dear"])).expect("the other lane is chosen");
    assert_eq!(reason(&stale, "cheap"), "stale_heartbeat");
    let listed = client.get("/v1/catalog/models").expect(200)["data"][0].clone();
    let freshness = |n: usize| listed["provider_offerings"][n]["capacity_freshness"]["status"].clone();
    assert_eq!((freshness(0), freshness(1), &listed["is_available"]), (json!("stale_heartbeat"), json!("unknown"), &json!(true)));
    // A lane that an operator holds is no supply either: with both lanes gone there is nothing to
    // quote.
    daemon.post("/admin/lanes/pause", &json!({ "lane": "dear" })).expect(200);
    let refused = client.post("/v1/quotes/model", &json!({ "items": items(1, "m") }));
    assert!(matches!(refused.status(), 400 | 503), "{}", refused.text());
    assert_eq!(client.get("/v1/catalog/models").expect(200)["data"][0]["is_available"], false);
}

#[test]
fn a_lane_that_cannot_be_done_within_the_tier_is_rejected() {
    let two = Two::new(Reply::ok);
    two.seeds.change("providers/cheap.toml", "in_flight = 8", "in_flight = 8\nrequests_per_minute = 1");
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let quote = |tier: &str| client.quote(&json!({ "items": items(300, "m"), "sla_tier": tier }));
    // 300 items at one a minute take 5 hours.
    assert_eq!(selected(&quote("standard")), ["cheap"]);
    let priority = quote("priority");
    assert_eq!((selected(&priority), reason(&priority, "cheap").as_str()), (vec!["dear"], "sla_unattainable"));
}

#[test]
fn a_batch_whose_deadline_passes_expires_with_what_was_done() {
    // `slow-…` rows stall until long after the deadline.
    let two = Two::new(|call| match call.row.starts_with("slow") {
        true => Reply::stall(),
        false => Reply::ok(call),
    });
    let daemon = two.seeds.daemon(&["--sla-priority", "2s"]);
    let client = Client::new(&daemon);
    let mixed = [item("quick", "m"), item("slow-1", "m")];
    let id = client.submit(&mixed, &json!({ "sla_tier": "priority" }));
    let batch = client.ended(&id);
    assert_eq!(batch["status"], "expired");
    assert_eq!((&batch["counts"]["completed"], &batch["counts"]["failed"]), (&json!(1), &json!(1)));
    let rows = client.results(&id, 10);
    assert_eq!((&rows[0]["status"], &rows[1]["status"]), (&json!("completed"), &json!("expired")));
    let receipt = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200)["billing_receipt"].clone();
    assert_eq!(receipt["provider_lanes"][0]["completed_items"], 1, "what was done is charged");
    let again = client.send(Request::post(&format!("/v1/batches/{id}/cancel"))).expect(409);
    assert_eq!(again["error"]["code"], "batch_terminal");
}
