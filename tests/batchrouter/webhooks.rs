//! Messages to receivers: the guide to webhooks, and how receivers can misbehave.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, items};
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{FakeUpstream, Reply, hmac_sha256};
use crate::support::wait::{SOON, poll};

const SECRET: &str = "a-long-random-shared-secret";

fn daemon() -> Daemon {
    Daemon::with(&["--webhook-retry-base", "50ms"])
}

fn order(receiver: &FakeUpstream, path: &str) -> Value {
    json!({ "items": items(1, "gpt-4o-mini"), "webhook": { "url": format!("{}{path}", receiver.url()), "secret": SECRET } })
}

fn create(client: &Client<'_>, body: &Value) -> String {
    client.try_create(body).expect(202)["batch"]["id"].as_str().expect("an id").to_owned()
}

/// Counts a call to a path and returns how many there have been, including this one.
fn count(heard: &Mutex<BTreeMap<String, u32>>, path: &str) -> u32 {
    let mut heard = heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let count = heard.entry(path.to_owned()).or_default();
    *count += 1;
    *count
}

fn signature(body: &[u8]) -> String {
    hmac_sha256(SECRET.as_bytes(), body)
}

#[test]
fn a_batch_that_has_ended_is_told_once_to_its_own_receiver_or_that_of_the_organisation() {
    let (own, default) = (FakeUpstream::start(|_| Reply::new(204, "")), FakeUpstream::start(|_| Reply::new(200, "ok")));
    let daemon = daemon();
    let client = Client::new(&daemon);
    let set = Request::new("PUT", "/v1/auth/account/delivery-webhook");
    client.send(set.json(&json!({ "url": format!("{}/all?x=1", default.url()), "secret": SECRET }))).expect(200);
    let id = create(&client, &order(&own, "/mine"));
    let call = own.called(1).remove(0);
    assert_eq!((call.path.as_str(), call.header("content-type")), ("/mine", Some("application/json")));
    assert_eq!(call.header("x-batchrouter-signature"), Some(signature(&call.body).as_str()), "lower-case hexadecimal, and nothing else");
    let told: Value = serde_json::from_slice(&call.body).expect("a message");
    assert_eq!((&told["batch_id"], &told["event"], &told["data"]["items_completed"]), (&json!(id), &json!("batch.completed"), &json!(1)));
    assert!(told["id"].as_str().is_some_and(|id| id.starts_with("evt_")), "{told}");
    let link = told["output_file_url"].as_str().expect("a link");
    assert_eq!(daemon.send(Request::get(&link[link.find("/v1/").expect("a path")..])).text().lines().count(), 1);
    // A batch without its own webhook uses the default. Every way to end is reported, whichever API
    // created the batch.
    let plain = json!({ "items": items(1, "gpt-4o-mini") });
    create(&client, &plain);
    let big = client.submit(&items(2_000, "gpt-4o-mini"), &json!({}));
    client.post(&format!("/v1/batches/{big}/cancel"), &json!({})).expect(200);
    let mut events: Vec<_> =
        default.called(2).iter().map(|call| serde_json::from_slice::<Value>(&call.body).expect("a message")["event"].clone()).collect();
    events.sort_by_key(Value::to_string);
    assert_eq!(events, ["batch.cancelled", "batch.completed"]);
    let row = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}]}}"#;
    daemon.submit(row);
    default.called(3);
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!((own.kept().len(), default.kept().len()), (1, 3), "once each");
    client.send(Request::new("DELETE", "/v1/auth/account/delivery-webhook")).expect(200);
    assert_eq!(client.get("/v1/auth/account/delivery-webhook").expect(200)["url"], Value::Null);
}

#[test]
fn a_receiver_that_fails_hears_the_same_again_also_after_kills() {
    // The receiver fails in every way there is, twice per failing path, and then answers well.
    let heard: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let receiver = FakeUpstream::start(move |call| match (call.path.as_str(), count(&heard, &call.path)) {
        ("/500", 1..=2) => Reply::error(500),
        ("/moved", 1..=2) => Reply::new(307, "").header("location", "http://169.254.169.254/latest"),
        ("/reset", 1..=2) => Reply::reset(),
        _ => Reply::new(200, "ok"),
    });
    let mut daemon = daemon();
    let mut ids = BTreeMap::new();
    for path in ["/500", "/moved", "/reset", "/well"] {
        ids.insert(path, create(&Client::new(&daemon), &order(&receiver, path)));
    }
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(250));
        daemon.kill9();
        daemon.restart();
    }
    let count = |path: &str| receiver.kept().iter().filter(|call| call.path == path).count();
    poll(SOON, || ids.keys().all(|path| count(path) >= if *path == "/well" { 1 } else { 3 }).then_some(())).expect("all is delivered");
    std::thread::sleep(Duration::from_millis(1_200));
    for (path, id) in &ids {
        let heard: Vec<_> = receiver.kept().into_iter().filter(|call| call.path == *path).collect();
        assert!(heard.iter().all(|call| call.body == heard[0].body), "{path}: the same bytes, each time");
        let told: Value = serde_json::from_slice(&heard[0].body).expect("a message");
        assert_eq!(told["batch_id"], json!(id));
        // Two failures, the success, and one more message for each kill that came between an answer
        // and its record.
        assert!(heard.len() <= 6, "{path}: {}", heard.len());
    }
}

#[test]
fn receivers_that_may_not_be_called_are_refused() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    for url in [
        "http://example.org/hook",
        "ftp://example.org/",
        "https://10.0.0.1/",
        "http://169.254.169.254/",
        "https://user:word@example.org/",
        "https://example.org:65536/",
        "https://[example.org]/",
        "example.org",
    ] {
        let body = json!({ "items": items(1, "gpt-4o-mini"), "webhook": { "url": url, "secret": SECRET } });
        assert_eq!(client.try_create(&body).expect(400)["error"]["code"], "invalid_request", "{url}");
    }
    // "Secret 8–256 characters", for a batch and for the organisation.
    for (length, is_right) in [(7, false), (8, true), (256, true), (257, false)] {
        let webhook = json!({ "url": "http://127.0.0.1:9/hook", "secret": "s".repeat(length) });
        let set = client.send(Request::new("PUT", "/v1/auth/account/delivery-webhook").json(&webhook));
        assert_eq!(set.status(), if is_right { 200 } else { 400 }, "{length}");
        let body = json!({ "items": items(1, "gpt-4o-mini"), "webhook": webhook });
        assert_eq!(client.try_create(&body).status(), if is_right { 202 } else { 400 }, "{length}");
    }
    // Where other clients can reach the daemon, this machine is not allowed as a receiver either.
    let strict = Daemon::with(&["--webhook-targets", "public"]);
    let client = Client::new(&strict);
    let body = json!({ "url": "http://127.0.0.1:9/", "secret": SECRET });
    client.send(Request::new("PUT", "/v1/auth/account/delivery-webhook").json(&body)).expect(400);
    // A name that points to this machine is detected when it is resolved.
    let body = json!({ "items": items(1, "gpt-4o-mini"), "webhook": { "url": "https://localhost:9/", "secret": SECRET } });
    create(&client, &body);
    poll(SOON, || strict.log_tail().contains("only this machine or its network can reach").then_some(())).expect("it is told in the log");
}
