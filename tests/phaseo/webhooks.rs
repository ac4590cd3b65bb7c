//! Webhook endpoints and their messages: the reference of webhooks, and how receivers can treat
//! messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, id, row};
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{Call, FakeUpstream, Reply, hmac_sha256};
use crate::support::wait::{SOON, poll};

const MODEL: &str = "gpt-5-mini";

fn daemon() -> Daemon {
    Daemon::with(&["--webhook-retry-base", "20ms"])
}

/// The message of a call, once its headers and its signature were found right.
fn told(call: &Call, secret: &str) -> Value {
    let header = |name: &str| call.header(name).unwrap_or_else(|| panic!("{name}: {:?}", call.headers));
    let message: Value = serde_json::from_slice(&call.body).expect("a message");
    let seconds = header("x-phaseo-timestamp");
    let signed = [seconds.as_bytes(), b".", &call.body].concat();
    assert_eq!(header("x-phaseo-signature"), hmac_sha256(secret.as_bytes(), &signed));
    assert_eq!(header("user-agent"), "Phaseo-Async-Webhook/1.0");
    for (name, value) in [
        ("x-phaseo-event-id", &message["id"]),
        ("x-phaseo-event-type", &message["type"]),
        ("x-phaseo-delivery-key", &message["delivery"]["key"]),
    ] {
        assert_eq!(json!(header(name)), *value, "{name}");
    }
    assert_eq!(header("x-phaseo-attempt"), message["delivery"]["attempt"].to_string());
    assert_eq!((header("x-phaseo-max-attempts"), seconds.to_owned()), ("4", message["created_at"].to_string()));
    message
}

fn endpoint(client: &Client<'_>, body: &Value) -> (String, String) {
    let made = client.post("/v1/webhook-endpoints", body).expect(201);
    (id(&made), made["signing_secret"].as_str().expect("a secret").to_owned())
}

#[test]
fn endpoints_are_made_changed_tried_out_and_deleted() {
    let receiver = FakeUpstream::start(|call| match call.path.as_str() {
        "/bad" => Reply::new(500, "no"),
        _ => Reply::new(200, "thanks"),
    });
    let daemon = daemon();
    let client = Client::new(&daemon);
    let made = client.post("/v1/webhook-endpoints", &json!({ "url": format!("{}/hook", receiver.url()) })).expect(201);
    let secret = made["signing_secret"].as_str().expect("a secret");
    let letters = secret.strip_prefix("whsec_").expect("the prefix");
    assert!(letters.len() == 44 && letters.bytes().all(|letter| letter.is_ascii_alphanumeric()), "one key in every base64: {made}");
    assert_eq!((&made["name"], &made["status"], &made["hasSecret"]), (&json!("Async webhooks"), &json!("active"), &json!(true)));
    assert_eq!(made["events"].as_array().map(Vec::len), Some(6));
    let path = format!("/v1/webhook-endpoints/{}", id(&made));
    assert!(!client.get(&path).text().contains("whsec_"), "the secret is shown once");
    assert_eq!(client.get("/v1/webhook-endpoints").expect(200)["data"].as_array().map(Vec::len), Some(1));
    let tried = client.send(Request::post(&format!("{path}/test"))).expect(200);
    assert_eq!((&tried["ok"], &tried["status_code"], &tried["response_body_preview"]), (&json!(true), &json!(200), &json!("thanks")));
    let call = receiver.called(1).remove(0);
    assert_eq!((call.header("x-phaseo-event-type"), call.header("x-phaseo-max-attempts")), (Some("webhook.test"), Some("1")));
    let patch = |body: Value| client.send(Request::new("PATCH", &path).json(&body));
    let changed =
        patch(json!({ "name": "Nightly", "url": format!("{}/bad", receiver.url()), "events": ["batch.progress", "job.expired"] }))
            .expect(200);
    assert_eq!((&changed["name"], &changed["events"]), (&json!("Nightly"), &json!(["batch.progress", "job.expired"])));
    let tried = client.send(Request::post(&format!("{path}/test"))).expect(200);
    assert_eq!((&tried["ok"], &tried["status_code"]), (&json!(false), &json!(500)));
    let rotated = client.send(Request::post(&format!("{path}/rotate-secret"))).expect(200);
    assert_ne!(rotated["signing_secret"], made["signing_secret"]);
    for (field, reason) in [
        (json!({}), "webhook_url_required"),
        (json!({ "url": "nonsense" }), "webhook_url_invalid"),
        (json!({ "url": "https://example.org:65536/" }), "webhook_url_invalid"),
        (json!({ "url": "https://[example.org]/" }), "webhook_url_invalid"),
        (json!({ "url": "http://example.org/" }), "webhook_url_must_use_https"),
        (json!({ "url": "https://10.0.0.1/" }), "webhook_url_private_network_not_allowed"),
        (json!({ "url": "https://example.org/", "name": "n".repeat(121) }), "webhook_name_invalid"),
        (json!({ "url": "https://example.org/", "events": ["batch.done"] }), "webhook_events_invalid"),
    ] {
        let refused = client.post("/v1/webhook-endpoints", &field).expect(400);
        assert_eq!(
            (&refused["error"]["type"], &refused["error"]["details"]["reason"]),
            (&json!("validation_error"), &json!(reason)),
            "{field}"
        );
    }
    let gone = client.send(Request::new("DELETE", &path)).expect(200);
    assert_eq!((&gone["deleted"], &gone["object"]), (&json!(true), &json!("webhook_endpoint")));
    assert_eq!(client.get("/v1/webhook-endpoints").expect(200)["data"], json!([]));
    assert_eq!(client.get("/v1/webhook-endpoints?include_deleted=true").expect(200)["data"][0]["status"], "deleted");
    assert_eq!(patch(json!({ "name": "x" })).expect(404)["error"]["type"], "not_found");
    // The store holds no secret.
    let on_disk = std::fs::read(daemon.data_dir().join("store/db")).expect("the store");
    assert!(!on_disk.windows(secret.len()).any(|part| part == secret.as_bytes()));
}

#[test]
fn a_batch_tells_of_its_life_once_and_in_order() {
    let receiver = FakeUpstream::start(|_| Reply::new(200, "ok"));
    let slow = FakeUpstream::start(|call| Reply::ok(call).after(Duration::from_millis(150)));
    let daemon = Daemon::with_upstream(&slow.url(), &["--in-flight-limit", "1", "--webhook-retry-base", "20ms"]);
    let client = Client::new(&daemon);
    let all = ["created", "status_changed", "batch.progress", "JOB.completed", "nonsense"];
    let (endpoint, secret) = endpoint(&client, &json!({ "url": receiver.url() }));
    let rows: Vec<_> = (0..20).map(|n| row(&n.to_string(), "a-model")).collect();
    let created = client.create(&json!({ "requests": rows, "webhook": { "endpoint_id": endpoint, "events": all }, "session_id": "s" }));
    let ended = client.ended(&id(&created));
    poll(SOON, || {
        client.batch(&id(&created))["webhook"]["delivery"]["delivered_event_types"]
            .as_array()
            .is_some_and(|keys| keys.iter().any(|key| key == "batch.completed"))
            .then_some(())
    })
    .expect("all is told");
    let messages: Vec<_> = receiver.kept().iter().map(|call| told(call, &secret)).collect();
    let keys: Vec<_> = messages.iter().map(|message| message["delivery"]["key"].as_str().expect("a key").to_owned()).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "each once: {keys:?}");
    let has = |key: &str| keys.iter().any(|known| known == key);
    assert!(has("batch.created") && has("batch.status_changed:pending:in_progress") && has("batch.completed"), "{keys:?}");
    assert!(keys.iter().filter(|key| key.starts_with("batch.progress:")).count() >= 3, "{keys:?}");
    let last = messages.iter().find(|message| message["type"] == "batch.completed").expect("the end");
    assert_eq!(last["id"], format!("evt_batch_{}_batch_completed", id(&created)));
    assert_eq!(
        (&last["data"]["id"], &last["data"]["status"], &last["data"]["session_id"]),
        (&created["id"], &json!("completed"), &json!("s"))
    );
    let change = messages.iter().find(|message| message["type"] == "batch.status_changed").expect("a change");
    assert_eq!(change["status_change"]["previous_status"], "pending");
    assert_eq!((&ended["webhook"]["endpoint_id"], &ended["webhook"]["url"]), (&json!(endpoint), &Value::Null));
    assert!(!client.get(&format!("/v1/batches/{}", id(&created))).text().contains("whsec_"));
}

#[test]
fn receivers_of_every_kind_are_told_by_their_own_terms() {
    let receiver = FakeUpstream::start(|_| Reply::new(204, ""));
    let daemon = Daemon::with(&["--webhook-retry-base", "20ms", "--webhook-standard-headers", "on"]);
    let client = Client::new(&daemon);
    // A webhook that the create names itself, with a secret and without; the usual events.
    let rows = json!([row("a", MODEL)]);
    client.create(&json!({ "requests": rows, "webhook": { "url": format!("{}/signed", receiver.url()), "secret": "my secret" } }));
    client.create(&json!({ "requests": rows, "webhook": { "url": format!("{}/plain", receiver.url()), "events": ["completed"] } }));
    // A shorthand for a managed endpoint, and the events of the endpoint.
    let (managed, secret) = endpoint(&client, &json!({ "url": format!("{}/managed", receiver.url()) }));
    client.create(&json!({ "requests": rows, "webhook_endpoint_id": managed }));
    let of = |path: &str| receiver.kept().into_iter().filter(|call| call.path == path).collect::<Vec<_>>();
    poll(SOON, || (of("/signed").len() >= 2 && of("/plain").len() == 1 && of("/managed").len() == 1).then_some(())).expect("all are told");
    assert!(of("/plain")[0].header("x-phaseo-signature").is_none(), "unsigned without a secret");
    assert!(of("/signed").iter().all(|call| told(call, "my secret")["type"] != "batch.created"), "not among the usual ones");
    let call = &of("/managed")[0];
    assert_eq!(told(call, &secret)["type"], "batch.completed");
    // The headers of Standard Webhooks come beside those of the dialect.
    let standard = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| call.header(name).unwrap_or_default().to_owned());
    assert!(standard[0].starts_with("evt_batch_") && standard[2].starts_with("v1,"), "{standard:?}");

    for (webhook, reason) in [
        (json!({ "webhook": 7 }), "invalid_batch_webhook"),
        (json!({ "webhook": {} }), "batch_webhook_endpoint_required"),
        (json!({ "webhook": { "endpoint_id": managed, "events": "all" } }), "invalid_batch_webhook"),
        (json!({ "webhook": { "endpoint_id": managed, "events": ["video.completed"] } }), "invalid_batch_webhook"),
        (json!({ "webhook": { "url": "https://10.0.0.1/" } }), "invalid_batch_webhook"),
        (json!({ "webhook_endpoint_id": "we_00000000000000000000000007" }), "batch_webhook_endpoint_not_found_or_inactive"),
    ] {
        let mut body = webhook.clone();
        body["requests"] = rows.clone();
        assert_eq!(client.post("/v1/batches", &body).expect(400)["reason"], reason, "{webhook}");
    }
    let strict = Daemon::with(&["--webhook-endpoints", "managed"]);
    let refused =
        Client::new(&strict).post("/v1/batches", &json!({ "requests": rows, "webhook": { "url": receiver.url(), "secret": "s" } }));
    assert_eq!(refused.expect(400)["reason"], "batch_webhook_endpoint_required");
}

#[test]
fn tests_of_a_slow_receiver_are_few_at_a_time_and_the_rest_is_told_when_to_come_back() {
    let slow = FakeUpstream::start(|_| Reply::new(204, "").after(Duration::from_secs(3)));
    let well = FakeUpstream::start(|_| Reply::new(200, "ok"));
    let daemon = daemon();
    let client = Client::new(&daemon);
    let (id, _) = endpoint(&client, &json!({ "url": slow.url() }));
    let (other, _) = endpoint(&client, &json!({ "url": well.url().replace("127.0.0.1", "localhost") }));
    let path = format!("/v1/webhook-endpoints/{id}/test");
    std::thread::scope(|scope| {
        let tests: Vec<_> = (0..4).map(|_| scope.spawn(|| client.send(Request::post(&path)))).collect();
        slow.called(4);
        for path in [&path, &format!("/v1/webhook-endpoints/{other}/test")] {
            let refused = client.send(Request::post(path));
            assert_eq!(refused.header("retry-after"), Some("5"));
            let error = refused.expect(429)["error"].clone();
            assert_eq!((&error["type"], &error["reason"]), (&json!("rate_limit_error"), &json!("webhook_tests_limit_reached")), "{error}");
            assert!(error["message"].as_str().is_some_and(|message| message.contains("try again")), "{error}");
        }
        for test in tests {
            assert_eq!(test.join().expect("an answer").expect(200)["ok"], true);
        }
    });
    // The places are free again.
    assert_eq!(client.send(Request::post(&format!("/v1/webhook-endpoints/{other}/test"))).expect(200)["ok"], true);
    assert_eq!((slow.kept().len(), well.kept().len()), (4, 1));
}

#[test]
fn receivers_that_fail_hear_the_same_event_again_also_after_kills() {
    let heard: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let receiver = FakeUpstream::start(move |call| {
        let count = {
            let mut heard = heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let count = heard.entry(call.path.clone()).or_default();
            *count += 1;
            *count
        };
        match (call.path.as_str(), count) {
            ("/500", 1..=2) => Reply::error(500),
            ("/moved", 1..=2) => Reply::new(307, "").header("location", "http://169.254.169.254/latest"),
            ("/reset", 1..=2) => Reply::reset(),
            ("/never", _) => Reply::error(503),
            // Longer than the time between two kills.
            ("/slow", _) => Reply::new(200, "ok").after(Duration::from_millis(900)),
            _ => Reply::new(200, "ok"),
        }
    });
    let mut daemon = daemon();
    let paths = ["/500", "/moved", "/reset", "/never", "/slow", "/well"];
    let (mut secrets, mut ids) = (BTreeMap::new(), BTreeMap::new());
    for path in paths {
        let client = Client::new(&daemon);
        let (endpoint, secret) = endpoint(&client, &json!({ "url": format!("{}{path}", receiver.url()), "events": ["batch.completed"] }));
        secrets.insert(path, secret);
        ids.insert(path, id(&client.create(&json!({ "requests": [row("a", MODEL)], "webhook_endpoint_id": endpoint }))));
    }
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        daemon.kill9();
        daemon.restart();
    }
    let client = Client::new(&daemon);
    let state = |path: &str| client.batch(&ids[path])["webhook"]["delivery"].clone();
    let is_over = |path: &str| matches!(state(path)["last_attempt_status"].as_str(), Some("delivered" | "failed_permanently"));
    poll(SOON, || paths.iter().all(|path| is_over(path)).then_some(())).unwrap_or_else(|| panic!("{:?}", paths.map(state)));
    for path in paths {
        let heard: Vec<_> = receiver.kept().into_iter().filter(|call| call.path == path).collect();
        let messages: Vec<_> = heard.iter().map(|call| told(call, &secrets[path])).collect();
        assert!(messages.iter().all(|message| message["id"] == messages[0]["id"] && message["data"] == messages[0]["data"]), "{path}");
        // Four attempts, and one more message for each kill that came between an answer and its
        // record.
        assert!(messages.len() <= 4 + 3, "{path}: {}", messages.len());
        let delivered = state(path)["delivered_event_types"].clone();
        assert_eq!(delivered, if path == "/never" { json!([]) } else { json!(["batch.completed"]) }, "{path}");
    }
    assert_eq!(state("/never")["last_attempt_status"], "failed_permanently");
    assert_eq!(state("/never")["last_response_status"], 503);
    // An endpoint that is deleted while messages wait for it receives no more.
    let receivers = client.get("/v1/webhook-endpoints").expect(200)["data"].clone();
    assert_eq!(receivers.as_array().map(Vec::len), Some(6));
}

/// The call takes as long as a receiver may take to answer.
#[test]
fn a_receiver_that_is_down_or_does_not_answer_is_tried_again() {
    // The port is bound, so that no other process gets it, and not listening.
    let nobody = tokio::net::TcpSocket::new_v4().expect("a socket");
    nobody.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let first = std::sync::atomic::AtomicBool::new(true);
    let receiver = FakeUpstream::start(move |_| match first.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => Reply::stall(),
        false => Reply::new(200, "ok"),
    });
    let daemon = daemon();
    let client = Client::new(&daemon);
    let create = |url: String| {
        let (endpoint, secret) = endpoint(&client, &json!({ "url": url, "events": ["batch.completed"] }));
        (id(&client.create(&json!({ "requests": [row("a", MODEL)], "webhook_endpoint_id": endpoint }))), secret)
    };
    let ((down, _), (silent, secret)) =
        (create(format!("http://{}/hook", nobody.local_addr().expect("its address"))), create(receiver.url()));
    let ended = |id: &str, status: &str| {
        let delivery = || client.batch(id)["webhook"]["delivery"].clone();
        poll(SOON + SOON, || Some(delivery()).filter(|delivery| delivery["last_attempt_status"] == status))
            .unwrap_or_else(|| panic!("{}", delivery()))
    };
    let down = ended(&down, "failed_permanently");
    assert_eq!((&down["total_attempts"], &down["last_response_status"]), (&json!(4), &Value::Null), "{down}");
    assert!(down["last_error_message"].as_str().is_some_and(|message| message.contains("connect")), "{down}");
    let silent = ended(&silent, "delivered");
    assert_eq!((&silent["total_attempts"], &silent["delivered_events"]), (&json!(2), &json!(1)), "{silent}");
    let messages: Vec<_> = receiver.kept().iter().map(|call| told(call, &secret)).collect();
    assert_eq!(messages.len(), 2);
    assert!(messages[0]["id"] == messages[1]["id"] && messages[0]["data"] == messages[1]["data"], "the same event");
}

#[test]
fn a_name_that_leads_home_is_not_called_where_others_reach_the_daemon() {
    let strict = Daemon::with(&["--webhook-targets", "public", "--webhook-retry-base", "5ms"]);
    let client = Client::new(&strict);
    let (endpoint, _) = endpoint(&client, &json!({ "url": "https://localhost:9/", "events": ["completed"] }));
    let batch = id(&client.create(&json!({ "requests": [row("a", MODEL)], "webhook_endpoint_id": endpoint })));
    let state = poll(SOON, || {
        let state = client.batch(&batch)["webhook"]["delivery"].clone();
        (state["last_attempt_status"] == "failed_permanently").then_some(state)
    });
    let state = state.expect("it is given up");
    assert!(state["last_error_message"].as_str().is_some_and(|error| error.contains("only this machine or its network")), "{state}");
    assert_eq!(state["total_attempts"], 4);
}
