//! Messages to receivers: the guide to webhooks, and how receivers can misbehave.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::client::{Client, items};
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{Call, FakeUpstream, Reply, hmac_sha256};
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
    daemon.submit(openai_row(1));
    default.called(3);
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!((own.kept().len(), default.kept().len()), (1, 3), "once each");
    client.send(Request::new("DELETE", "/v1/auth/account/delivery-webhook")).expect(200);
    assert_eq!(client.get("/v1/auth/account/delivery-webhook").expect(200)["url"], Value::Null);
}

fn set_receiver(client: &Client<'_>, url: &str) {
    let set = Request::new("PUT", "/v1/auth/account/delivery-webhook");
    client.send(set.json(&json!({ "url": url, "secret": SECRET }))).expect(200);
}

fn openai_row(n: u32) -> String {
    let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": format!("Count to {n}.")}]});
    json!({"custom_id": n.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string() + "\n"
}

/// Checks the headers of an event of OpenAI's, which are signed under the secret as it is written.
fn event_of(call: &Call) -> Value {
    let event: Value = serde_json::from_slice(&call.body).expect("an event");
    let header = |name: &str| call.header(name).unwrap_or_else(|| panic!("{name}: {:?}", call.headers));
    assert_eq!(json!(header("webhook-id")), event["id"], "the same on every attempt");
    let signed = [header("webhook-id").as_bytes(), b".", header("webhook-timestamp").as_bytes(), b".", &call.body].concat();
    let signatures = header("webhook-signature").split(' ').map(|one| hex_of_base64(one.strip_prefix("v1,").expect("version 1")));
    assert!(signatures.collect::<Vec<_>>().contains(&hmac_sha256(SECRET.as_bytes(), &signed)), "{:?}", call.headers);
    assert_eq!(header("x-batchrouter-signature"), self::signature(&call.body), "checked like all messages to this receiver");
    event
}

fn hex_of_base64(text: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_form_of_a_message_follows_the_dialect_of_its_batch() {
    let receiver = FakeUpstream::start(|_| Reply::new(200, "ok"));
    let daemon = daemon();
    let client = Client::new(&daemon);
    set_receiver(&client, &receiver.url());
    let completed = daemon.submit(openai_row(1));
    let call = receiver.called(1).remove(0);
    let (event, batch) = (event_of(&call), daemon.batch(&completed));
    assert!(event["id"].as_str().is_some_and(|id| id.starts_with("evt_")), "{event}");
    let cost = batch["batchd"]["cost_usd"].clone();
    assert!(cost.as_str().is_some_and(|cost| cost.parse::<f64>().is_ok_and(|cost| cost > 0.0)), "{batch}");
    let data = json!({ "id": completed, "batchd": { "cost_usd": cost } });
    let expected =
        json!({"id": event["id"], "object": "event", "created_at": batch["completed_at"], "type": "batch.completed", "data": data});
    assert_eq!(event, expected);
    // The other ends that a client can bring about.
    let failed = daemon.submit("nonsense\n");
    receiver.called(2);
    let cancelled = daemon.submit((0..2_000).map(openai_row).collect::<String>());
    daemon.post_empty(&format!("/v1/batches/{cancelled}/cancel")).expect(200);
    let events: Vec<_> = receiver.called(3).iter().skip(1).map(event_of).collect();
    let told: Vec<_> = events.iter().map(|event| (event["type"].clone(), event["data"]["id"].clone())).collect();
    assert_eq!(told, [(json!("batch.failed"), json!(failed)), (json!("batch.cancelled"), json!(cancelled))]);
    assert_eq!(events[0]["created_at"], daemon.batch(&failed)["failed_at"]);
    // In OpenAI's words, a batch is completed also if none of its rows succeeded.
    let hopeless = daemon.submit(openai_row(1).replace(r#""messages":"#, r#""metadata":{"simulate":"status=400"},"messages":"#));
    let batch = daemon.wait_ended(&hopeless, SOON);
    let event = event_of(&receiver.called(4)[3]);
    assert_eq!((&batch["status"], &batch["request_counts"]["failed"]), (&json!("completed"), &json!(1)), "{batch}");
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("batch.completed"), &json!(hopeless)));
    // A batch of BatchRouter's has its own form at the same receiver.
    let id = create(&client, &json!({ "items": items(1, "gpt-4o-mini") }));
    let call = receiver.called(5).remove(4);
    let told: Value = serde_json::from_slice(&call.body).expect("a message");
    assert_eq!((&told["event"], &told["batch_id"], &told["object"]), (&json!("batch.completed"), &json!(id), &Value::Null));
    assert_eq!(call.header("webhook-id"), None);
    assert!(told["data"]["cost_usd"].as_str().is_some_and(|cost| cost != "0"), "{told}");
}

#[test]
fn an_event_in_openais_form_is_the_same_on_each_attempt_also_after_kills() {
    let heard: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let receiver = FakeUpstream::start(move |call| match count(&heard, &call.path) {
        1..=3 => Reply::error(500),
        _ => Reply::new(200, "ok"),
    });
    let mut daemon = Daemon::with(&["--webhook-retry-base", "300ms"]);
    set_receiver(&Client::new(&daemon), &receiver.url());
    let id = daemon.submit(openai_row(1));
    for calls in 1..=3 {
        receiver.called(calls);
        daemon.kill9();
        daemon.restart();
    }
    let calls = receiver.called(4);
    let events: Vec<_> = calls.iter().map(event_of).collect();
    assert!(calls.iter().all(|call| call.body == calls[0].body), "{events:?}");
    assert_eq!((&events[0]["type"], &events[0]["data"]["id"]), (&json!("batch.completed"), &json!(id)));
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
