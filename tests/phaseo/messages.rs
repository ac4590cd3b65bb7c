//! Rows for `/v1/messages`: servers that have Anthropic's Messages get them as they are, other
//! servers get them as Chat Completions, and the answers are always messages.

use serde_json::{Value, json};

use crate::client::{Client, id};
use crate::servers::Two;
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{Call, Reply};

fn row(custom_id: &str, more: Value) -> Value {
    let mut body = json!({
        "model": "m", "max_tokens": 16, "system": "Be brief.", "metadata": {"user_id": custom_id},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Name a river."}]}],
    });
    body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/messages", "body": body })
}

fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).expect("a body")
}

#[test]
fn messages_reach_a_server_that_has_them_as_they_are() {
    let two = Two::new(Reply::ok, Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let asked = row("a", json!({"top_k": 3}));
    let batch = client.create(&json!({ "requests": [asked] }));
    assert_eq!((&batch["endpoint"], &batch["provider"]), (&json!("/v1/messages"), &json!("native")), "no other can be asked for it");
    let id = id(&batch);
    let ended = client.ended(&id);
    let calls = two.native.called(1);
    assert_eq!((calls[0].path.as_str(), calls[0].header("anthropic-version")), ("/v1/messages", Some("2023-06-01")));
    assert_eq!(body(&calls[0]), asked["body"]);
    let answer = &client.results(&id)[0]["response"]["body"];
    assert_eq!((&answer["type"], &answer["content"][0]["text"]), (&json!("message"), &json!("hello")), "{answer}");
    // 5 read and 2 written at 5 dollars a million, 4 from the cache at 1.
    assert_eq!(ended["usage"]["input_tokens"], 9, "{ended}");
    assert_eq!(ended["billing"]["total_nanos"], 39_000, "{ended}");
}

#[test]
fn messages_reach_other_servers_as_a_chat_and_come_back_as_messages() {
    let two = Two::new(Reply::ok, |call| match call.row.as_str() {
        "refused" => Reply::error(400),
        "gone" => Reply::error(503),
        _ => Reply::ok(call),
    });
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    // What comes behind it shows that the server is well, so that the failure is the row's own.
    let rows = [row("gone", json!({})), row("a", json!({})), row("refused", json!({}))];
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let file = client.send(Request::post("/v1/files").json(&json!({ "purpose": "batch", "file": lines }))).expect(200);
    let batch = client.create(&json!({ "input_file_id": file["id"], "endpoint": "/messages" }));
    assert_eq!(batch["provider"], "plain", "the cheaper one");
    let id = id(&batch);
    client.ended(&id);
    let sent = two.plain.kept_of("a");
    assert_eq!(sent[0].path, "/v1/chat/completions");
    let expected = json!({
        "model": "m", "max_tokens": 16, "user": "a",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}],
    });
    assert_eq!(body(&sent[0]), expected);
    let results = client.results(&id);
    insta::assert_json_snapshot!(
        results.iter().map(|line| json!([line["custom_id"], line["response"]["body"], line["error"]])).collect::<Vec<_>>()
    );
}

#[test]
fn a_row_that_its_server_fails_is_asked_elsewhere_in_the_form_that_is_taken_there() {
    let two = Two::new(|_| Reply::error(503), Reply::ok);
    let daemon = two.daemon();
    let client = Client::new(&daemon);
    let batch = client.create(&json!({ "provider": { "order": ["native"] }, "requests": [row("a", json!({}))] }));
    assert_eq!(batch["provider"], "native");
    let id = id(&batch);
    assert_eq!(client.ended(&id)["request_counts"]["completed"], 1);
    assert_eq!(two.native.kept().iter().map(|call| call.path.as_str()).collect::<Vec<_>>(), ["/v1/messages"; 2]);
    assert_eq!(two.plain.kept()[0].path, "/v1/chat/completions");
    assert_eq!(client.results(&id)[0]["response"]["body"]["type"], "message");
}

#[test]
fn the_stand_in_answers_messages_and_claude_is_asked_in_them_by_default() {
    let daemon = Daemon::start();
    let client = Client::new(&daemon);
    let model = "claude-sonnet-4-5";
    let say = json!([{"role": "user", "content": "Name a river."}]);
    let create = |body: Value| {
        let batch = client.create(&body);
        let ended = client.ended(&id(&batch));
        assert_eq!(ended["request_counts"]["completed"], ended["request_counts"]["total"], "{ended}");
        let results = client.results(&id(&batch));
        (batch["endpoint"].as_str().expect("an endpoint").to_owned(), results[0]["response"]["body"].clone())
    };
    let (endpoint, answer) = create(json!({ "model": model, "prompts": ["Name a river."], "system": "Be brief." }));
    assert_eq!((endpoint.as_str(), &answer["type"], &answer["role"]), ("/v1/messages", &json!("message"), &json!("assistant")));
    assert!(answer["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{answer}");
    let (endpoint, _) = create(json!({ "model": model, "requests": [{"body": {"messages": say}}] }));
    assert_eq!(endpoint, "/v1/messages");
    let chat = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]);
    let (endpoint, answer) = create(json!({ "model": model, "requests": [{"body": {"messages": chat}}] }));
    assert_eq!((endpoint.as_str(), &answer["object"]), ("/v1/chat/completions", &json!("chat.completion")));
    // A model that has Messages on no server can still be asked for them.
    let (_, answer) = create(json!({ "model": "gpt-5-mini", "endpoint": "/v1/messages", "requests": [{"body": {"messages": say}}] }));
    assert_eq!((&answer["type"], &answer["stop_reason"]), (&json!("message"), &json!("end_turn")), "{answer}");
    let file = client.post("/v1/files", &json!({ "purpose": "batch", "file": format!("{}\n", row("a", json!({}))) })).expect(200);
    // Batches in OpenAI's dialect can have this endpoint, too.
    let other =
        daemon.post("/openai/v1/batches", &json!({ "input_file_id": file["id"], "endpoint": "/v1/messages", "completion_window": "24h" }));
    assert_eq!(other.expect(200)["endpoint"], "/v1/messages");
}
