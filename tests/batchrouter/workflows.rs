//! Packaged workflows: listed, quoted, and run with the settings that they carry for items.

use serde_json::json;

use crate::client::{Client, amount};
use crate::support::daemon::Daemon;

#[test]
fn a_workflow_is_listed_quoted_and_run() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let listed = daemon.get("/v1/catalog/workflow-products").expect(200);
    let slugs: Vec<_> = listed["data"].as_array().expect("a list").iter().map(|product| product["slug"].clone()).collect();
    assert_eq!(slugs, ["summary", "ticket-sentiment"]);
    let product = daemon.get("/v1/catalog/workflow-products/ticket-sentiment").expect(200);
    assert_eq!(product["workflow"], "ticket-sentiment@v1");
    let quote =
        |count: u32| client.post("/v1/quotes/workflow", &json!({ "workflow": product["workflow"], "estimated_items": count })).expect(200);
    let (one, ten) = (quote(1), quote(10));
    let total = |quote: &serde_json::Value| quote["pricing_estimate"]["total"].as_str().expect("a price").parse::<f64>().expect("a number");
    assert!((total(&ten) - 10.0 * total(&one)).abs() < 1e-7, "{} and {}", total(&one), total(&ten));
    // The filled-in template is an item; the quote names the models that serve it.
    let template = product["preset_manifest"]["item_template"].to_string();
    let fill = |id: &str, text: &str| {
        serde_json::from_str(&template.replace("{{customer_item_id}}", id).replace("{{text}}", text)).expect("an item")
    };
    let items: Vec<serde_json::Value> = vec![fill("a", "Great, it broke again."), fill("b", "Thank you!")];
    let created = client.try_create(&json!({ "quote_id": one["quote_id"], "items": items })).expect(202);
    let id = created["batch"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(client.ended(&id)["status"], "completed");
    assert!(client.results(&id, 10).iter().all(|row| amount(&row["cost"]["provider_cost"]) > 0.0));
    let unknown = client.post("/v1/quotes/workflow", &json!({ "workflow": "summary@v9" })).expect(404);
    assert!(unknown["error"]["message"].as_str().is_some_and(|message| message.contains("`summary@v1`")), "{unknown}");
    let many = client.post("/v1/quotes/workflow", &json!({ "workflow": "summary@v1", "estimated_items": 5_001 })).expect(400);
    assert_eq!(many["error"]["code"], "invalid_request");
    daemon.get("/v1/catalog/workflow-products/nothing").expect(404);
}
