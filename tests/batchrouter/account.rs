//! Accounts, keys and credits: the guide to authentication, the quickstart, the terms about
//! credits.

use serde_json::{Value, json};

use crate::client::{Client, TIMEOUT, amount, items};
use crate::support::daemon::Daemon;
use crate::support::http::{Request, Response};
use crate::support::wait::poll;

fn as_key<'a>(daemon: &'a Daemon, key: &Value) -> Client<'a> {
    Client { daemon, key: key.as_str().expect("a key").to_owned() }
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_default()
}

/// Adds an organisation with credits; returns a client with its key, and the organisation's id.
pub fn prepaid<'a>(daemon: &'a Daemon, credits: &str) -> (Client<'a>, String) {
    let made = daemon.post("/admin/organisations", &json!({ "name": "Acme", "credits": credits })).expect(201);
    (as_key(daemon, &made["api_key"]), made["org_id"].as_str().expect("an id").to_owned())
}

#[test]
fn an_agent_registers_itself_and_its_keys_come_and_go() {
    let daemon = Daemon::start();
    let registered = daemon.send(Request::post("/v1/auth/agent-register")).expect(201);
    let key = registered["api_key"].as_str().expect("a key");
    assert!(key.starts_with("br_live_") && key.len() == 8 + 24, "{registered}");
    let agent = as_key(&daemon, &registered["api_key"]);
    let account = agent.get("/v1/auth/account").expect(200);
    assert_eq!(account["org_id"], registered["org_id"]);
    assert!(amount(&account["credit_balance"]) > 0.0, "{account}");
    let made = agent.post("/v1/auth/account/api-keys", &json!({ "name": "nightly", "expires_at": "2099-03-01T00:00:00Z" })).expect(201);
    assert_eq!((&made["name"], &made["expires_at"]), (&json!("nightly"), &json!("2099-03-01T00:00:00.000Z")));
    let listed = agent.get("/v1/auth/account/api-keys").expect(200);
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    assert!(!listed.to_string().contains(made["api_key"].as_str().expect("a key")), "the secret is shown once");
    // Rotation: the new key works. The old key works until it is revoked, and never again, also
    // after a restart.
    let (new, id) = (as_key(&daemon, &made["api_key"]), made["api_key_id"].as_str().expect("an id").to_owned());
    new.get("/v1/batches").expect(200);
    let stranger = as_key(&daemon, &daemon.send(Request::post("/v1/auth/agent-register")).expect(201)["api_key"]);
    assert_eq!(code(&stranger.send(Request::new("DELETE", &format!("/v1/auth/account/api-keys/{id}"))).expect(404)), "not_found");
    agent.send(Request::new("DELETE", &format!("/v1/auth/account/api-keys/{id}"))).expect(200);
    assert_eq!(code(&new.get("/v1/batches").expect(401)), "unauthorized");
    assert_eq!(
        code(&agent.post("/v1/auth/account/api-keys", &json!({ "expires_at": "2020-01-01T00:00:00Z" })).expect(400)),
        "invalid_request"
    );
    let on_disk = std::fs::read(daemon.data_dir().join("store/db")).expect("the store");
    for secret in [key, made["api_key"].as_str().expect("a key")] {
        assert!(!on_disk.windows(secret.len()).any(|part| part == secret.as_bytes()), "a secret is in the store");
    }
}

#[test]
fn keys_of_both_beginnings_are_taken_and_expire_when_they_say() {
    let daemon = Daemon::start();
    let agent = as_key(&daemon, &daemon.send(Request::post("/v1/auth/agent-register")).expect(201)["api_key"]);
    // "Omitted means they never expire"; a key that names a time works until then.
    let lasting = agent.post("/v1/auth/account/api-keys", &json!({})).expect(201);
    assert_eq!((&lasting["expires_at"], &lasting["name"]), (&Value::Null, &Value::Null));
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1_500);
    let made = agent.post("/v1/auth/account/api-keys", &json!({ "expires_at": soon.to_string() })).expect(201);
    let short = as_key(&daemon, &made["api_key"]);
    short.get("/v1/auth/account").expect(200);
    poll(TIMEOUT, || (short.get("/v1/auth/account").status() == 401).then_some(())).expect("it expires");
    as_key(&daemon, &lasting["api_key"]).get("/v1/auth/account").expect(200);

    // "Legacy `ob_live_` keys stay valid while active": the daemon recognises such a key only
    // because the key is known to it.
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "br_live_000000000000000000000001\nob_live_000000000000000000000002\n").expect("it can be written");
    let daemon = Daemon::with(&["--api-keys-file", &file.path().to_string_lossy()]);
    for (key, status) in
        [("br_live_000000000000000000000001", 200), ("ob_live_000000000000000000000002", 200), ("br_live_000000000000000000000003", 401)]
    {
        let client = Client { daemon: &daemon, key: key.to_owned() };
        let answer = client.get("/v1/auth/account").expect(status);
        assert_eq!(code(&answer), if status == 401 { "unauthorized" } else { "" });
        // The envelope is BatchRouter's, because the key belongs to that dialect.
        assert_eq!(client.get("/v1/batches").expect(status)["error"].get("type"), None);
    }
    // "Bearer on every endpoint except the public ones."
    for path in ["/v1/auth/account", "/v1/auth/account/api-keys", "/v1/auth/account/delivery-webhook", "/v1/batches"] {
        assert_eq!(daemon.get(path).status(), 401, "{path}");
    }
    for path in ["/v1/catalog/models", "/v1/catalog/workflow-products", "/v1/providers", "/v1/pricing/fees", "/v1/health"] {
        assert_eq!(daemon.get(path).status(), 200, "{path}");
    }
}

#[test]
fn nobody_registers_where_keys_say_who_may_call_and_no_web_page_does() {
    let keys = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(keys.path(), "br_live_000000000000000000000001\n").expect("it can be written");
    // A daemon with keys that listens on loopback stands behind a server that lets others in.
    let daemon = Daemon::with(&["--api-keys-file", &keys.path().to_string_lossy()]);
    assert_eq!(code(&daemon.send(Request::post("/v1/auth/agent-register")).expect(403)), "forbidden");
    let operator = Client { daemon: &daemon, key: "br_live_000000000000000000000001".to_owned() };
    let home = json!({ "url": "http://127.0.0.1:9/", "secret": "long enough" });
    operator.send(Request::new("PUT", "/v1/auth/account/delivery-webhook").json(&home)).expect(400);
    let made = operator.post("/admin/organisations", &json!({ "name": "Acme" })).expect(201);
    let other = as_key(&daemon, &made["api_key"]);
    other.get("/v1/batches").expect(200);
    other.get("/readyz?verbose").expect(403);
    operator.get("/readyz?verbose").expect(200);

    let open = Daemon::start();
    let page = Request::post("/v1/auth/agent-register").header("origin", "https://evil.example");
    assert_eq!(code(&open.send(page).expect(403)), "origin_not_allowed");
    open.send(Request::post("/v1/auth/agent-register").header("origin", "http://localhost:3000")).expect(201);
}

#[test]
fn what_belongs_to_one_organisation_does_not_exist_for_another() {
    let daemon = Daemon::start();
    let ((own, _), (other, _)) = (prepaid(&daemon, "10.00"), prepaid(&daemon, "10.00"));
    let quote = own.quote(&json!({ "items": items(1, "gpt-4o-mini") }));
    let id = own.submit(&items(1, "gpt-4o-mini"), &json!({}));
    let batch = own.ended(&id);
    let file = batch["output_file_id"].as_str().expect("a file");
    let forbidden = |answer: Response| assert_eq!(code(&answer.expect(403)), "forbidden");
    let unknown = |answer: Response, word: &str| assert_eq!(code(&answer.expect(404)), word);
    unknown(other.get(&format!("/v1/quotes/{}", quote["quote_id"].as_str().expect("an id"))), "quote_not_found");
    for path in ["", "/results", "/artifact-url", "/billing-receipt"] {
        unknown(other.get(&format!("/v1/batches/{id}{path}")), "not_found");
    }
    unknown(other.post(&format!("/v1/batches/{id}/cancel"), &json!({})), "not_found");
    unknown(other.try_create(&json!({ "quote_id": quote["quote_id"], "items": items(1, "gpt-4o-mini") })), "quote_not_found");
    for path in
        [format!("/v1/openai/v1/batches/{id}"), format!("/v1/openai/v1/files/{file}"), format!("/v1/openai/v1/files/{file}/content")]
    {
        other.get(&path).expect(404);
        assert_eq!(own.get(&path).status(), 200, "{path}");
    }
    assert_eq!(other.get("/v1/batches").expect(200)["data"], json!([]));
    assert_eq!(other.get("/v1/openai/v1/files").expect(200)["data"], json!([]));
    assert_eq!(own.get("/v1/batches").expect(200)["data"].as_array().map(Vec::len), Some(1));
    let files = |of: &Client<'_>| of.get("/v1/openai/v1/files").expect(200)["data"].as_array().map_or(0, Vec::len);
    let before = files(&own);
    assert!(before > 0);
    for path in ["/admin/organisations", "/admin/lanes", "/metrics"] {
        forbidden(other.get(path));
    }
    // Rows without a quote would incur costs that were never reserved.
    let input = own.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes("{}\n")).expect(201);
    let rows = Daemon::batch_request(input["file_id"].as_str().expect("an id"), "/v1/responses");
    own.send(Request::post("/openai/v1/batches").json(&rows)).expect(402);
    own.send(Request::post(&format!("/v1/openai/v1/batches/{id}/retry"))).expect(402);
    assert_eq!(files(&own), before + 1);
    own.send(Request::new("DELETE", &format!("/v1/openai/v1/files/{}", input["file_id"].as_str().expect("an id")))).expect(200);
    assert_eq!(files(&own), before, "what is deleted is in no list");
}

#[test]
fn credits_are_reserved_and_settled_and_a_batch_that_they_do_not_cover_is_not_made() {
    let daemon = Daemon::start();
    let (client, org) = prepaid(&daemon, "0.00005");
    let order = items(10, "gpt-4o-mini");
    let quote = client.quote(&json!({ "items": order }));
    assert_eq!(quote["funding_preview"]["can_fund"], false, "a quote is free, and says so");
    let before = client.get("/v1/auth/account").expect(200);
    assert_eq!(amount(&before["credit_balance"]), 0.000_05, "and reserves nothing");
    let body = json!({ "quote_id": quote["quote_id"], "items": order });
    let refused = client.create_as("order-0001", &body).expect(402);
    assert_eq!(code(&refused), "insufficient_credits");
    assert_eq!(client.get("/v1/batches").expect(200)["data"], json!([]), "nothing is dispatched");
    daemon.post(&format!("/admin/organisations/{org}/credits"), &json!({ "grant": "1.00" })).expect(200);
    // The idempotency key was not used up, and neither was the quote.
    let id = client.create_as("order-0001", &body).expect(202)["batch"]["id"].as_str().expect("an id").to_owned();
    client.ended(&id);
    let receipt = client.get(&format!("/v1/batches/{id}/billing-receipt")).expect(200)["billing_receipt"].clone();
    let account = client.get("/v1/auth/account").expect(200);
    let micros = |money: &Value| (amount(money) * 1e6).round();
    let (credits, balance) = (&receipt["credits"], micros(&account["credit_balance"]));
    assert_eq!(micros(&credits["reserved"]), micros(&credits["charged"]) + micros(&credits["released"]));
    assert_eq!(balance, 1_000_050.0 - micros(&credits["charged"]));
    assert_eq!(micros(&account["credits"]["reserved"]), 0.0);

    // The item count of a file is known only once its items are counted: the reservation of the
    // quote is raised then.
    let lines: String = items(2_000, "gpt-4o").iter().map(|item| format!("{item}\n")).collect();
    let file = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(lines)).expect(201);
    let (poor, _) = prepaid(&daemon, "0.001");
    let own = poor.send(
        Request::post("/v1/files")
            .header("content-type", "application/x-ndjson")
            .bytes(items(2_000, "gpt-4o-mini").iter().map(|item| format!("{item}\n")).collect::<String>()),
    );
    let sample = poor.quote(&json!({ "items": items(1, "gpt-4o-mini") }))["quote_id"].clone();
    let created = poor.try_create(&json!({ "quote_id": sample, "input_file_id": own.expect(201)["file_id"] })).expect(202);
    let batch = poor.ended(created["batch"]["id"].as_str().expect("an id"));
    assert_eq!((&batch["status"], &batch["errors"][0]["code"]), (&json!("failed"), &json!("insufficient_credits")));
    assert_eq!(micros(&poor.get("/v1/auth/account").expect(200)["credit_balance"]), 1_000.0, "all of it is released");
    let wrong = client.quote(&json!({ "items": items(1, "gpt-4o") }))["quote_id"].clone();
    let created = client.try_create(&json!({ "quote_id": wrong, "input_file_id": file["file_id"], "input_item_count": 3 })).expect(202);
    let batch = client.ended(created["batch"]["id"].as_str().expect("an id"));
    assert_eq!(batch["errors"][0]["path"], "input_item_count");
    let ceiling = json!({ "items": items(1, "gpt-4o"), "max_price": "0.001" });
    let sample = client.quote(&ceiling)["quote_id"].clone();
    let fifty: String = items(50, "gpt-4o").iter().map(|item| format!("{item}\n")).collect();
    let file = client.send(Request::post("/v1/files").header("content-type", "application/x-ndjson").bytes(fifty)).expect(201);
    let refused = client.try_create(&json!({ "quote_id": sample, "items": items(50, "gpt-4o") })).expect(400);
    assert_eq!(refused["error"]["details"]["preflight"]["issues"][0]["code"], "price_ceiling", "the limit is for all items");
    let created = client.try_create(&json!({ "quote_id": sample, "input_file_id": file["file_id"] })).expect(202);
    let batch = client.ended(created["batch"]["id"].as_str().expect("an id"));
    assert_eq!(
        (&batch["status"], &batch["errors"][0]["code"]),
        (&json!("failed"), &json!("price_ceiling")),
        "also when they are in a file"
    );
}

#[test]
fn what_a_deleted_batch_was_charged_stays_charged() {
    let daemon = Daemon::start();
    let (acme, _) = prepaid(&daemon, "5");
    let (other, _) = prepaid(&daemon, "5");
    let body = json!({ "items": items(2, "gpt-4o-mini") });
    let made = acme.create_as("order-00000001", &body).expect(202);
    let (id, quote) = (made["batch"]["id"].as_str().expect("an id"), made["quote"]["quote_id"].as_str().expect("an id"));
    let path = format!("/v1/batches/{id}");
    acme.ended(id);
    let account = acme.get("/v1/auth/account").expect(200);
    assert!(amount(&account["credits"]["charged"]) > 0.0, "{account}");
    let link = acme.get(&format!("{path}/artifact-url")).expect(200);
    let delete = |client: &Client<'_>| client.send(Request::new("DELETE", &path));
    assert_eq!(code(&delete(&other).expect(404)), "not_found");
    assert_eq!(delete(&acme).expect(200), json!({ "id": id, "object": "batch", "deleted": true }));
    for gone in [path.clone(), format!("{path}/results"), format!("{path}/billing-receipt"), format!("/v1/quotes/{quote}")] {
        assert!(acme.get(&gone).status() == 404, "{gone}: {}", acme.get(&gone).text());
    }
    let url = link["artifact_url"].as_str().or(link["url"].as_str()).unwrap_or_else(|| panic!("{link}"));
    let link = &url[url.find("/v1/").expect("a path")..];
    assert_eq!(daemon.get(link).status(), 404, "{}", daemon.get(link).text());
    assert_eq!(code(&delete(&acme).expect(404)), "not_found");
    assert_eq!(acme.get("/v1/auth/account").expect(200), account);
    assert_eq!(code(&acme.create_as("order-00000001", &body).expect(409)), "idempotency_conflict");
    assert_eq!(acme.get("/v1/batches").expect(200)["data"], json!([]));
}
