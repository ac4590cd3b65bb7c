//! Every body of this dialect as it goes over the wire, field by field. The documented fields are
//! in the reference of each page; the other fields were observed, or are ours.

use serde_json::{Value, json};

use crate::client::{Client, item};
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::wait::{SOON, poll};

/// Compares a body with its snapshot, without the parts that differ from run to run.
fn same(name: &str, body: &Value) {
    insta::with_settings!({filters => vec![
        (r"(qlock|bat|file|key|org|item|evt|err)_[0-9a-f]{32}", "${1}_[hex]"),
        (r"br_live_[0-9a-f]{24}", "br_live_[secret]"),
        (r"br_live_[0-9a-f]{1,8}\b", "br_live_[start]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "[milliseconds]"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "[microseconds]"),
        (r"http://127\.0\.0\.1:\d+/", "http://[daemon]/"),
        (r"expires=\d{10}&signature=[A-Za-z0-9_-]{43}", "expires=[seconds]&signature=[43 characters]"),
        (r#""created": \d{10}"#, r#""created": "[seconds]""#),
        (r#""(id|provider_execution_ref)": "(chatcmpl|resp|req)[-_][^"]+""#, r#""${1}": "[${2}]""#),
    ]}, { insta::assert_json_snapshot!(name, body) });
}

#[test]
fn every_body_has_its_fields() {
    let receiver = FakeUpstream::start(|_| Reply::new(204, ""));
    let daemon = Daemon::with(&["--fee-percent", "5.9"]);
    let client = Client::new(&daemon);

    let agent = daemon.send(Request::post("/v1/auth/agent-register")).expect(201);
    same("agent_registered", &agent);
    let own = Client { daemon: &daemon, key: agent["api_key"].as_str().expect("a key").to_owned() };
    same("key_created", &own.post("/v1/auth/account/api-keys", &json!({ "label": "nightly" })).expect(201));
    same("keys", &own.get("/v1/auth/account/api-keys").expect(200));
    same("account", &own.get("/v1/auth/account").expect(200));
    let webhook = json!({ "url": format!("{}/hook", receiver.url()), "secret": "a-long-random-shared-secret" });
    let kept = own.send(Request::new("PUT", "/v1/auth/account/delivery-webhook").json(&webhook)).expect(200);
    assert!(!kept.to_string().contains("shared-secret"), "it is never told again: {kept}");

    let order = json!({ "items": [item("ticket-7", "gpt-4o-mini")], "metadata": { "run": 7 } });
    let quote = client.quote(&order);
    let body = json!({ "quote_id": quote["quote_id"], "items": order["items"], "metadata": order["metadata"], "webhook": webhook });
    let id = client.try_create(&body).expect(202)["batch"]["id"].as_str().expect("an id").to_owned();
    let batch = client.ended(&id);
    same("batch_ended", &batch["batch"]);
    same("results", &client.get(&format!("/v1/batches/{id}/results")).expect(200));
    same("artifact_url", &client.get(&format!("/v1/batches/{id}/artifact-url")).expect(200));
    let mut receipt = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200);
    let embedded = client.get(&format!("/v1/batches/{id}?include_billing_receipt=true")).expect(200)["billing_receipt"].clone();
    assert_eq!(embedded["credits"], receipt["billing_receipt"]["credits"], "the same, embedded");
    receipt["billing_receipt"]["rejected_lanes"] = json!("as in the quote");
    same("receipt", &receipt);
    let call = poll(SOON, || receiver.kept().into_iter().next()).expect("it is told");
    same("webhook", &serde_json::from_slice(&call.body).expect("a message"));

    let lines = format!("{}\n", item("ticket-7", "gpt-4o-mini"));
    let upload = |path: &str| client.send(Request::post(path).header("content-type", "application/x-ndjson").bytes(lines.clone()));
    same("file_uploaded", &upload("/v1/files").expect(201));
    same("manifest_uploaded", &upload("/v1/batches/input-manifests").expect(201));
    same("refused", &client.get("/v1/batches/bat_00000000000000000000000000000007").expect(404));
}
