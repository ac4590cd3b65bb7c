//! Why a create is refused: each row of the table in the reference that has a meaning here, in the
//! envelope, with the status and the codes that the reference gives.

use serde_json::{Value, json};

use crate::client::{Client, line, row};
use crate::servers::Two;
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::Reply;

const MODEL: &str = "gpt-5-mini";

/// An answer without the parts that differ from run to run.
fn told(status: u16, body: &Value) -> String {
    let mut body = body.clone();
    for holder in ["", "error"] {
        let members = if holder.is_empty() { Some(&mut body) } else { body.get_mut("error") };
        if let Some(members) = members.and_then(Value::as_object_mut) {
            for name in ["request_id", "generation_id", "workspace_id"] {
                if let Some(value) = members.get_mut(name) {
                    let text = value.as_str().unwrap_or_default();
                    assert!(text.starts_with(if name == "workspace_id" { "org_" } else { "G-" }), "{name}: {text}");
                    *value = json!("[id]");
                }
            }
            members.remove("details");
        }
    }
    format!("{status} {body}")
}

#[test]
fn every_fault_of_a_create_has_its_envelope_and_codes() {
    let daemon = Daemon::with(&["--max-inline-bytes", "64KiB"]);
    let client = Client::new(&daemon);
    let upload = |content: String| {
        client.send(Request::post("/v1/files").json(&json!({ "purpose": "batch", "file": content }))).expect(200)["id"].clone()
    };
    let rows = json!([row("a", MODEL)]);
    let faults = [
        ("not an object", json!([1])),
        ("no input", json!({ "model": MODEL })),
        ("two inputs", json!({ "prompts": ["a"], "requests": rows })),
        ("an empty array", json!({ "requests": [] })),
        ("no array", json!({ "requests": {} })),
        ("a file that is not there", json!({ "input_file_id": "file-00000000000000000000000007" })),
        ("no id of a file", json!({ "input_file_id": "anything" })),
        ("an endpoint that nobody knows", json!({ "endpoint": "/v1/nothing", "requests": rows })),
        ("an endpoint that cannot be priced", json!({ "endpoint": "/v1/images/generations", "requests": rows })),
        ("a window out of range", json!({ "completion_window": "99d", "requests": rows })),
        ("metadata of numbers", json!({ "metadata": { "a": 1 }, "requests": rows })),
        (
            "too much metadata",
            json!({ "metadata": (0..17).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>(), "requests": rows }),
        ),
        ("an expiry out of range", json!({ "output_expires_after": { "anchor": "created_at", "seconds": 1 }, "requests": rows })),
        ("options of an unknown provider", json!({ "provider_options": { "acme": {} }, "requests": rows })),
        ("a sort that nobody knows", json!({ "provider": { "sort": "beauty" }, "requests": rows })),
        ("a session's id that is too long", json!({ "session_id": "s".repeat(257), "requests": rows })),
        ("a fault in a row", json!({ "requests": [row("a", MODEL), row("a", MODEL)] })),
        ("an unknown model", json!({ "requests": [row("a", "no-such-model")] })),
        (
            "an endpoint that no provider of the model serves",
            json!({ "endpoint": "/v1/embeddings", "requests": [{"body": {"model": MODEL, "input": "x"}}] }),
        ),
        ("a provider that does not serve it", json!({ "provider": "groq", "requests": rows })),
        ("a price that no provider keeps to", json!({ "provider": { "max_price": { "prompt": "0.000001" } }, "requests": rows })),
        ("a file whose line is no JSON", json!({ "input_file_id": upload("nonsense\n".into()) })),
        (
            "a file with two endpoints",
            json!({ "input_file_id": upload(format!("{}\n{}\n", line("a", MODEL), json!({"custom_id": "b", "method": "POST", "url": "/v1/responses", "body": {"model": MODEL, "input": "x"}}))) }),
        ),
        ("a file for another endpoint", json!({ "endpoint": "responses", "input_file_id": upload(format!("{}\n", line("a", MODEL))) })),
        ("a file with the same id twice", json!({ "input_file_id": upload(format!("{0}\n{0}\n", line("a", MODEL))) })),
        ("too many rows", json!({ "prompts": vec!["x"; 10_001], "model": MODEL })),
        ("a body that is too long", json!({ "prompts": ["x".repeat(64 << 10)], "model": MODEL })),
    ];
    let mut texts = Vec::new();
    for (name, body) in faults {
        let answer = client.post("/v1/batches", &body);
        assert!(answer.status() >= 400, "{name}: {}", answer.text());
        texts.push(format!("{name}\n{}", told(answer.status(), &answer.json())));
    }
    let broken = client.send(Request::post("/v1/batches").header("content-type", "application/json").bytes("{"));
    texts.push(format!("no JSON\n{}", told(broken.status(), &broken.json())));
    insta::with_settings!({filters => vec![(r"file-[0-9a-z]{26}", "file-[id]")]}, {
        insta::assert_snapshot!(texts.join("\n\n"));
    });
    assert_eq!(client.get("/v1/batches").expect(200)["data"], json!([]), "nothing was kept");
}

#[test]
fn a_batch_that_credits_do_not_cover_is_refused_before_anything_runs() {
    let daemon = Daemon::start();
    let made = daemon.post("/admin/organisations", &json!({ "name": "Acme", "credits": "0.001" })).expect(201);
    let client = Client { daemon: &daemon, key: made["api_key"].as_str().expect("a key").to_owned() };
    let create = |rows: Value| client.send(Request::post("/phaseo/v1/batches").json(&json!({ "requests": rows })));
    let rows: Vec<_> = (0..100).map(|n| row(&n.to_string(), MODEL)).collect();
    let refused = create(json!(rows));
    assert_eq!(refused.status(), 402, "{}", refused.text());
    let error = &refused.json()["error"];
    assert_eq!((&error["type"], &error["reason"]), (&json!("insufficient_funds"), &json!("insufficient_balance")));
    let batch = create(json!([row("a", MODEL)])).expect(200);
    let id = batch["id"].as_str().expect("an id");
    assert!(batch["billing"]["reserved_nanos"].as_u64().is_some_and(|held| held > 0), "{}", batch["billing"]);
    crate::support::wait::poll(crate::client::TIMEOUT, || {
        let batch = client.send(Request::get(&format!("/phaseo/v1/batches/{id}"))).expect(200);
        (batch["billing"]["billed"] == true).then_some(batch)
    })
    .expect("it ends and is settled");
}

#[test]
fn rows_whose_cost_has_no_bound_are_refused() {
    let two = Two::new(Reply::ok, Reply::ok);
    let daemon = two.daemon();
    let made = daemon.post("/admin/organisations", &json!({ "name": "Acme", "credits": "5" })).expect(201);
    let client = Client { daemon: &daemon, key: made["api_key"].as_str().expect("a key").to_owned() };
    let refused = |rows: Value| {
        let lines: String = rows.as_array().expect("rows").iter().map(|row| format!("{row}\n")).collect();
        let file = client.send(Request::post("/phaseo/v1/files").json(&json!({ "purpose": "batch", "file": lines }))).expect(200);
        let answer = client.send(Request::post("/phaseo/v1/batches").json(&json!({ "input_file_id": file["id"] })));
        told(answer.status(), &answer.json())
    };
    let mut unlimited = line("a", "m");
    unlimited["body"].as_object_mut().expect("a body").remove("max_tokens");
    let mut searching = line("a", "m");
    searching["body"]["web_search_options"] = json!({});
    insta::assert_snapshot!([refused(json!([unlimited])), refused(json!([line("a", "unpriced")])), refused(json!([searching]))].join("\n"));
}

#[test]
fn objects_of_another_workspace_do_not_exist() {
    let daemon = Daemon::start();
    let own = Client::new(&daemon);
    let made = daemon.post("/admin/organisations", &json!({ "name": "Acme" })).expect(201);
    let other = Client { daemon: &daemon, key: made["api_key"].as_str().expect("a key").to_owned() };
    let batch = own.create(&json!({ "requests": [row("a", MODEL)] }));
    let id = own.ended(batch["id"].as_str().expect("an id"))["id"].as_str().expect("an id").to_owned();
    let ask = |path: &str| other.send(Request::get(path).header("x-phaseo-client", "test"));
    for path in ["", "/results", "/requests"] {
        let missing = ask(&format!("/phaseo/v1/batches/{id}{path}")).expect(404);
        assert_eq!((&missing["error"], &missing["reason"]), (&json!("not_found"), &json!("batch_not_found_or_not_owned")), "{path}");
    }
    let file = own.batch(&id)["output_file_id"].as_str().expect("a file").to_owned();
    for path in [format!("/phaseo/v1/files/{file}"), format!("/phaseo/v1/batches/files/{file}/content")] {
        assert_eq!(ask(&path).expect(404)["reason"], "file_not_found_or_not_owned");
    }
    assert_eq!(ask("/phaseo/v1/batches").expect(200)["data"], json!([]));
}
