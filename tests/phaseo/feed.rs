//! Following a batch: over a WebSocket, and by server-sent events.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;

use crate::client::{Client, Events, Socket, TIMEOUT, id, row};
use crate::lifecycle::same;
use crate::support::daemon::{Daemon, signal, temp_dir};
use crate::support::http::Request;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::wait::poll;

const MODEL: &str = "gpt-5-mini";
/// How long the row `slow` takes.
const SLOW: Duration = Duration::from_millis(2_500);

fn upstream() -> FakeUpstream {
    FakeUpstream::start(|call| if call.row == "slow" { Reply::ok(call).after(SLOW) } else { Reply::ok(call) })
}

fn in_front_of(upstream: &FakeUpstream) -> Daemon {
    Daemon::with_upstream(&upstream.url(), &["--in-flight-limit", "1"])
}

/// A batch of a quick row and a slow row, once the quick row is done.
fn half_done(client: &Client<'_>) -> String {
    let batch = id(&client.create(&json!({ "requests": [row("quick", "a-model"), row("slow", "a-model")] })));
    poll(TIMEOUT, || (client.batch(&batch)["progress"] == 50).then_some(())).expect("half of it is done");
    batch
}

fn ended(client: &Client<'_>) -> String {
    let batch = id(&client.create(&json!({ "model": MODEL, "prompts": ["One?"] })));
    client.ended(&batch);
    batch
}

#[test]
fn a_running_batch_is_told_until_its_end() {
    let upstream = upstream();
    let daemon = in_front_of(&upstream);
    let client = Client::new(&daemon);
    let batch = half_done(&client);
    let path = format!("/phaseo/v1/async/BATCH/{batch}/ws?interval_ms=1");
    let mut socket = Socket::connect(&client, &path);
    let mut lingering = Socket::connect(&client, &format!("/v1/async/batch/{batch}/ws?interval_ms=9e9&close_on_terminal=OFF"));

    let first = socket.told();
    assert_eq!((&first["type"], &first["data"]["progress"], &first["data"]["id"]), (&json!("job.snapshot"), &json!(50), &json!(batch)));
    same("job_running", &first["data"]);
    let mut last = first;
    while last["data"]["status"] != "completed" {
        let next = socket.told();
        assert_eq!(next["type"], "job.updated");
        assert_ne!(next["data"], last["data"], "the same is not told twice");
        last = next;
    }
    assert_eq!(socket.closed(), (1000, "closed".to_owned()));

    // A socket that asked to linger stays open, and gets early answers to its requests.
    assert_eq!(lingering.told()["data"]["websocket_url"], format!("ws://localhost/v1/async/batch/{batch}/ws"));
    lingering.say(r#"{"type":"refresh"}"#);
    let updated = lingering.told();
    assert_eq!((&updated["type"], &updated["data"]["status"]), (&json!("job.updated"), &json!("completed")));
    for ignored in ["refresh", r#"{"type":"refresh","x":1}"#, "PING", r#"["ping"]"#, r#"{"type":7}"#, "", "{"] {
        lingering.say(ignored);
        assert!(lingering.is_silent(), "{ignored}");
    }
    lingering.say(r#" {"type": "ping"}"#);
    assert_eq!(lingering.told(), json!({ "type": "pong" }));
    lingering.send(Message::binary("ping"));
    lingering.send(Message::Ping((*b"there?").to_vec().into()));
    assert_eq!(lingering.next(), Message::Pong((*b"there?").to_vec().into()));
    lingering.say(&"x".repeat(5 << 10));
    assert_eq!(lingering.closed().0, 1008);

    let mut late = Socket::connect(&client, &path);
    let snapshot = late.told();
    assert_eq!((&snapshot["type"], &snapshot["data"]), (&json!("job.snapshot"), &last["data"]));
    assert_eq!(late.closed(), (1000, "closed".to_owned()));
}

#[test]
fn followers_of_a_batch_that_is_deleted_are_told() {
    let upstream = upstream();
    let daemon = in_front_of(&upstream);
    let client = Client::new(&daemon);
    let delete = |path: &str| client.send(Request::new("DELETE", path));
    let batch = half_done(&client);
    for path in [format!("/v1/batches/{batch}"), format!("/phaseo/v1/batch/{batch}")] {
        let refused = delete(&path).expect(409);
        assert_eq!((&refused["error"], &refused["reason"]), (&json!("not_ready"), &json!("batch_not_terminal")), "{refused}");
    }
    client.ended(&batch);
    let mut lingering = Socket::connect(&client, &format!("/v1/async/batch/{batch}/ws?close_on_terminal=no"));
    assert_eq!(lingering.told()["data"]["status"], "completed");
    assert_eq!(delete(&format!("/v1/batch/{batch}")).expect(200), json!({ "id": batch, "object": "batch", "deleted": true }));
    assert_eq!(lingering.told(), json!({ "type": "job.deleted", "data": { "id": batch, "kind": "batch" } }));
    assert_eq!(lingering.closed(), (1000, "closed".to_owned()));
    for gone in [
        client.get(&format!("/v1/batches/{batch}")),
        client.get(&format!("/v1/batches/{batch}/requests")),
        delete(&format!("/v1/batches/{batch}")),
    ] {
        // The dialect of the deleted batch is unknown.
        assert!(gone.status() == 404, "{}", gone.text());
    }
    let gone = delete(&format!("/phaseo/v1/batches/{batch}")).expect(404);
    assert_eq!(gone["reason"], "batch_not_found_or_not_owned", "{gone}");
}

#[test]
fn jobs_of_every_dialect_have_the_same_keys() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let job = |path: &str| {
        let mut events: Vec<_> = Events::open(&daemon, path, None).collect();
        assert_eq!(events.len(), 1, "{events:?}");
        let event = events.remove(0);
        assert_eq!((event.kind.as_str(), event.id.len()), ("job.snapshot", 32));
        event.data
    };
    let own = ended(&client);
    let told = job(&format!("/v1/batch/{own}/events"));
    same("job_completed", &told);

    let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}});
    let theirs = daemon.submit(format!("{line}\n"));
    poll(TIMEOUT, || (daemon.batch(&theirs)["status"] == "completed").then_some(())).expect("it ends");
    same("job_of_openai", &job(&format!("/v1/batches/{theirs}/events")));

    let item = json!({"customer_item_id": "a", "operation": "responses", "model": MODEL, "input": {"messages": [{"role": "user", "content": "Hi"}], "max_output_tokens": 16}});
    let quote = daemon.post("/v1/quotes/model", &json!({ "items": [item] })).expect(200);
    let order = json!({ "quote_id": quote["quote_id"], "items": [item] });
    let created = daemon.send(Request::post("/v1/batches").header("idempotency-key", "order-00000001").json(&order)).expect(202);
    let theirs = id(&created["batch"]);
    poll(TIMEOUT, || (daemon.batch(&theirs)["status"] == "completed").then_some(())).expect("it ends");
    let quoted = job(&format!("/phaseo/v1/batches/{theirs}/events"));
    assert_eq!((&quoted["id"], &quoted["native_id"], &quoted["request_id"]), (&json!(theirs), &Value::Null, &Value::Null));
    let keys = |job: &Value| job.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&quoted), keys(&told));
}

#[test]
fn a_socket_ends_with_its_key_and_keys_are_read_again() {
    let dir = temp_dir();
    let keys = dir.path().join("keys");
    let (old, new) = ("phaseo_v1_sk_abcdefghijkl_0123456789", "phaseo_v1_sk_abcdefghijkl_9876543210");
    std::fs::write(&keys, format!("{old}\n")).expect("a file of keys");
    let daemon = Daemon::with(&["--api-keys-file", &keys.to_string_lossy()]);
    let client = Client::new(&daemon);
    let batch = ended(&client);
    let mut socket = Socket::connect(&client, &format!("/v1/async/batch/{batch}/ws?close_on_terminal=false"));
    assert_eq!(socket.told()["type"], "job.snapshot");
    // A file without keys changes nothing, and one with another key is in force by itself.
    std::fs::write(&keys, "# none\n").expect("it is written");
    signal(daemon.pid(), "HUP");
    assert_eq!(client.get("/v1/batches").status(), 200);
    std::fs::write(&keys, format!("{new}\n")).expect("it is written");
    assert_eq!(socket.closed(), (1008, "the API key is no longer accepted".to_owned()));
    assert_eq!(client.get("/v1/batches").status(), 401);
    let next = Request::get("/v1/batches").header("authorization", &format!("Bearer {new}"));
    assert_eq!(daemon.send(next).status(), 200);
}

#[test]
fn what_cannot_be_followed_says_why() {
    let dir = temp_dir();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "phaseo_v1_sk_abcdefghijkl_0123456789\n").expect("a file of keys");
    let daemon = Daemon::with(&["--api-keys-file", &keys.to_string_lossy()]);
    let client = Client::new(&daemon);
    let batch = ended(&client);
    let own = format!("/v1/async/batch/{batch}/ws");

    let plain = daemon.get(&own);
    assert_eq!((plain.error_code(426).as_str(), plain.header("upgrade")), ("websocket_upgrade_required", Some("websocket")));
    assert_eq!(daemon.get("/phaseo/v1/async/any/thing/ws").status(), 426);
    let upgrade = |path: &str| Request::get(path).header("upgrade", "WebSocket");
    let keyless = daemon.send(upgrade(&own)).expect(401);
    assert_eq!((&keyless["error"], &keyless["reason"]), (&json!("unauthorised"), &json!("missing_or_invalid_authorization_header")));
    let refused = |path: &str, status: u16| client.send(upgrade(path)).expect(status)["reason"].clone();
    for wrong in [format!("/v1/async/audio/{batch}/ws"), "/v1/async/batch/nothing/ws".into(), "/phaseo/v1/async/batch/%ff/ws".into()] {
        assert_eq!(refused(&wrong, 400), "invalid_async_job_path", "{wrong}");
    }
    let unknown = "batch_01J9Z4M6QF3T8W2B5K7N9R1S0V";
    for missing in [format!("/v1/async/batch/{unknown}/ws"), "/v1/async/Video/video_1/ws".into()] {
        assert_eq!(refused(&missing, 404), "async_job_not_found_or_not_owned", "{missing}");
    }
    assert_eq!(refused(&own, 400), "invalid_websocket_handshake");

    let made = client.post("/admin/organisations", &json!({ "name": "Acme" })).expect(201);
    let other = Client { daemon: &daemon, key: made["api_key"].as_str().expect("a key").to_owned() };
    assert_eq!(other.send(upgrade(&own)).expect(404)["reason"], "async_job_not_found_or_not_owned");
    // A request for the events of a batch is refused in the dialect of the request.
    assert_eq!(other.get(&format!("/v1/batches/{batch}/events")).error_code(404), "not_found");
    assert_eq!(other.get(&format!("/v1/batch/{batch}/events")).expect(404)["reason"], "batch_not_found_or_not_owned");
    assert_eq!(client.get("/v1/batches/nothing/events").expect(404)["reason"], "batch_not_found_or_not_owned");
    assert_eq!(daemon.get(&format!("/phaseo/v1/batches/{batch}/events")).expect(401)["error"], "unauthorised");
}

#[test]
fn events_go_on_after_a_kill_without_telling_anything_twice() {
    let upstream = upstream();
    let mut daemon = in_front_of(&upstream);
    let batch = half_done(&Client::new(&daemon));
    let path = format!("/v1/batches/{batch}/events?interval_ms=1000");
    let mut events = Events::open(&daemon, &path, None);
    for (name, value) in [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")] {
        assert_eq!(events.head.header(name), Some(value));
    }
    let known = events.next().expect("an event");
    assert_eq!((known.kind.as_str(), &known.data["progress"]), ("job.snapshot", &json!(50)));
    daemon.kill9();
    assert_eq!(events.next(), None);

    daemon.restart();
    let other = Events::open(&daemon, &path, Some("of another state")).next().expect("an event");
    assert_eq!((other.kind.as_str(), &other.id), ("job.snapshot", &known.id), "the state is what it was");
    let rest: Vec<_> = Events::open(&daemon, &path, Some(&known.id)).collect();
    assert!(rest.iter().all(|event| event.kind == "job.updated" && event.id != known.id), "{rest:?}");
    let last = rest.last().expect("the end is told");
    assert_eq!(last.data["status"], "completed");
    let again = Events::open(&daemon, &path, Some(&last.id));
    assert_eq!(again.head.status, 204, "whoever knows the end need not come back");
}

#[test]
fn a_stop_takes_leave_of_those_who_follow() {
    let mut daemon = Daemon::start();
    let (mut socket, events) = {
        let client = Client::new(&daemon);
        let batch = ended(&client);
        let socket = Socket::connect(&client, &format!("/v1/async/batch/{batch}/ws?close_on_terminal=no"));
        let running = id(&client.create(&json!({ "requests": [row("a", MODEL)], "completion_window": "24h" })));
        (socket, Events::open(&daemon, &format!("/v1/batches/{running}/events"), None))
    };
    assert_eq!(socket.told()["type"], "job.snapshot");
    daemon.sigterm();
    assert_eq!(socket.closed().0, 1001);
    assert!(events.count() > 0, "the stream ends");
    // This daemon answers no more requests.
    assert!(daemon.wait_stopped(Duration::from_secs(10)).success());
}

#[test]
fn a_socket_takes_a_connection_until_it_is_closed() {
    let daemon = Daemon::with(&["--max-connections", "2"]);
    let client = Client::new(&daemon);
    let batch = ended(&client);
    let path = format!("/v1/async/batch/{batch}/ws?close_on_terminal=0");
    let mut sockets = [Socket::connect(&client, &path), Socket::connect(&client, &path)];
    sockets.iter_mut().for_each(|socket| assert_eq!(socket.told()["type"], "job.snapshot"));
    let mut third = TcpStream::connect(daemon.addr()).expect("the kernel accepts it");
    third.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("it is sent");
    third.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let mut answer = [0; 15];
    assert!(third.read_exact(&mut answer).is_err(), "there is no slot");
    drop(sockets);
    third.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    third.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
