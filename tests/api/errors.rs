//! The envelope of every kind of error, as clients and users read it.

use serde_json::{Value, json};

use crate::support::api::CHAT;
use crate::support::daemon::Daemon;
use crate::support::http::{self, Form, Request, Response};
use crate::support::rows;

const NO_FILE: &str = "file-00000000000000000000000000";
const NO_BATCH: &str = "batch_00000000000000000000000000";

/// Checks the properties that every error has, and returns the part that a snapshot shows.
fn envelope(what: &str, response: &Response) -> Value {
    let body = response.json();
    assert!(response.status() >= 400, "{what}: {} {body}", response.status());
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{what}: {body}"));
    let mut names: Vec<&str> = error.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["code", "message", "param", "type"], "{what}");
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{what}: {body}");
    assert!(error["type"].is_string() && error["code"].is_string(), "{what}: {body}");
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("application/json")), "{what}: {:?}", response.head);
    let code = error["code"].as_str().unwrap_or_default();
    assert!(batchd::domain::error::Code::ALL.iter().any(|known| known.as_str() == code), "{what}: `{code}` is not in the list of codes");
    json!({"request": what, "status": response.status(), "error": error})
}

#[test]
fn every_kind_of_bad_request_is_answered_with_one_envelope() {
    let daemon = Daemon::start();
    let batch = crate::support::api::id_of(&daemon.complete(rows::many(1, rows::INSTANT)));
    let file = daemon.upload(rows::many(1, rows::INSTANT));
    let create = Daemon::batch_request(&file, CHAT);
    let with = |field: &str, value: Value| {
        let mut request = create.clone();
        request[field] = value;
        Request::post("/v1/batches").json(&request)
    };
    let cases: Vec<(&str, u16, &str, Request)> = vec![
        ("an unknown route", 404, "unknown_url", Request::get("/v1/nothing")),
        ("an unknown root", 404, "unknown_url", Request::get("/nothing")),
        ("a wrong method on a collection", 405, "method_not_allowed", Request::new("PUT", "/v1/batches")),
        ("a wrong method on an object", 405, "method_not_allowed", Request::new("PATCH", &format!("/v1/files/{file}"))),
        ("a batch that does not exist", 404, "not_found", Request::get(&format!("/v1/batches/{NO_BATCH}"))),
        ("a file that does not exist", 404, "not_found", Request::get(&format!("/v1/files/{NO_FILE}"))),
        ("content that does not exist", 404, "not_found", Request::get(&format!("/v1/files/{NO_FILE}/content"))),
        ("a file id for a batch", 404, "not_found", Request::get(&format!("/v1/batches/{file}"))),
        ("a batch id for a file", 404, "not_found", Request::get(&format!("/v1/files/{batch}"))),
        ("an id that is none", 404, "not_found", Request::get("/v1/batches/nonsense")),
        ("an id with an escape", 404, "not_found", Request::get("/v1/files/file-%2e%2e%2fetc")),
        ("a model that does not exist", 404, "model_not_found", Request::get("/v1/models/gpt-4o-mni")),
        ("a limit of zero", 400, "invalid_value", Request::get("/v1/batches?limit=0")),
        ("a limit over the largest", 400, "invalid_value", Request::get("/v1/batches?limit=101")),
        ("a limit that is no number", 400, "invalid_value", Request::get("/v1/files?limit=ten")),
        ("an order that is none", 400, "invalid_value", Request::get("/v1/files?order=up")),
        ("a purpose that is none", 400, "invalid_value", Request::get("/v1/files?purpose=fun")),
        ("a cursor that is no id", 400, "invalid_value", Request::get("/v1/batches?after=nonsense")),
        ("a cursor of another kind", 400, "invalid_value", Request::get(&format!("/v1/batches?after={file}"))),
        (
            "a body that is not JSON",
            400,
            "invalid_json",
            Request::post("/v1/batches").header("content-type", "application/json").bytes("{"),
        ),
        ("a body that is no object", 400, "invalid_value", Request::post("/v1/batches").json(&json!([]))),
        ("no body at all", 400, "invalid_json", Request::post("/v1/batches").header("content-type", "application/json")),
        ("a create as text", 415, "unsupported_media_type", Request::post("/v1/batches").header("content-type", "text/plain").bytes("{}")),
        ("a file as JSON", 415, "unsupported_media_type", Request::post("/v1/files").json(&json!({}))),
        (
            "a form without a boundary",
            400,
            "invalid_multipart",
            Request::post("/v1/files").header("content-type", "multipart/form-data").bytes("x"),
        ),
        (
            "a form that is none",
            400,
            "invalid_multipart",
            Request::post("/v1/files").header("content-type", "multipart/form-data; boundary=x").bytes("no boundary here"),
        ),
        (
            "a form that ends early",
            400,
            "invalid_multipart",
            Request::post("/v1/files")
                .header("content-type", "multipart/form-data; boundary=x")
                .bytes("--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbat"),
        ),
        ("a field that is not known", 400, "unknown_parameter", with("urgency", json!(1))),
        ("an endpoint that is none", 400, "invalid_value", with("endpoint", json!("/v1/nothing"))),
        ("a window that is none", 400, "invalid_value", with("completion_window", json!("tomorrow"))),
        ("metadata that is no object", 400, "invalid_value", with("metadata", json!("x"))),
        ("an end that cannot be cancelled", 409, "conflict", Request::post(&format!("/v1/batches/{batch}/cancel"))),
    ];
    let mut wrong = Vec::new();
    let mut shown = Vec::new();
    for (what, status, code, request) in cases {
        let response = daemon.send(request);
        let envelope = envelope(what, &response);
        if response.status() != status || envelope["error"]["code"] != code {
            wrong.push(format!("{what}: {status} {code} expected, got {envelope}"));
        }
        if status == 405 {
            assert!(response.header("allow").is_some_and(|methods| methods.contains("GET")), "{what}: {:?}", response.head);
        }
        shown.push(envelope);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    insta::with_settings!({filters => vec![
        (r"(batch_|file-)[0-9a-hjkmnp-tv-z]{26}", "${1}ID"),
    ]}, {
        insta::assert_json_snapshot!(shown);
    });
}

#[test]
fn a_body_that_ends_early_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start();
    let form = Form::default().field("purpose", "batch").file("file", "a.jsonl", &[b'x'; 5_000]);
    let kind = form.content_type();
    let whole = form.into_bytes();
    let head = format!("POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", whole.len());
    let mut request = head.into_bytes();
    request.extend_from_slice(&whole[..2_000]);
    let answer = http::raw(daemon.addr(), &request, true).expect("an answer or a close");
    if !answer.is_empty() {
        let response = http::parse(&answer).expect("an HTTP answer");
        assert_eq!(envelope("a file cut short", &response)["error"]["code"], "incomplete_body");
        assert_eq!(response.status(), 400);
    }

    let request =
        format!("POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n10\r\nshort");
    let answer = http::raw(daemon.addr(), request.as_bytes(), true).expect("an answer or a close");
    if !answer.is_empty() {
        assert_eq!(http::parse(&answer).expect("an HTTP answer").status(), 400);
    }
    assert_eq!(daemon.get("/v1/files").expect(200)["data"], json!([]), "half a file is no file");
}

#[test]
fn what_is_not_http_harms_nobody() {
    let daemon = Daemon::start();
    let long = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "y".repeat(1 << 20));
    for (what, bytes) in [
        ("garbage", &b"\x16\x03\x01\x00\xff nonsense\r\n\r\n"[..]),
        ("an endless header", long.as_bytes()),
        ("two lengths", b"POST /v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
        ("a length that is none", b"POST /v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-length: two\r\n\r\n{}"),
        ("nothing", b""),
    ] {
        let answer = http::raw(daemon.addr(), bytes, true).unwrap_or_default();
        if let Ok(response) = http::parse(&answer) {
            assert!((400..500).contains(&response.status()), "{what}: {:?}", response.head);
        }
        assert_eq!(daemon.get("/healthz").status(), 200, "after {what}");
    }
}

#[test]
fn a_body_over_the_limit_of_a_json_call_is_refused() {
    let daemon = Daemon::start();
    let mut request = Daemon::batch_request(NO_FILE, CHAT);
    request["metadata"] = json!({"k": "v".repeat(16 << 20)});
    let response = daemon.post("/v1/batches", &request);
    assert_eq!(envelope("a huge create", &response)["error"]["code"], "request_too_large");
    assert_eq!(response.status(), 413);
}

#[test]
fn health_and_readiness_are_plain() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/healthz").status(), 200);
    assert_eq!(daemon.get("/readyz").status(), 200);
}

#[test]
fn models_are_listed_and_found_by_name() {
    let daemon = Daemon::start();
    let list = daemon.get("/v1/models").expect(200);
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().expect("data");
    for name in ["gpt-4o-mini", "text-embedding-3-small", rows::INSTANT] {
        let listed = models.iter().find(|model| model["id"] == name).unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!(listed["object"], "model");
        assert!(listed["created"].is_i64() && listed["owned_by"].is_string(), "{listed}");
        assert_eq!(daemon.get(&format!("/v1/models/{name}")).expect(200), *listed);
    }
    let answer = daemon.get("/v1/models/gpt-4o-mni").expect(404);
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("gpt-4o-mini")), "a suggestion: {answer}");
}

#[test]
fn a_request_id_of_the_client_is_kept_or_replaced_but_never_missing() {
    let daemon = Daemon::start();
    let first = daemon.get("/v1/models").header("x-request-id").map(str::to_owned);
    let second = daemon.get("/v1/models").header("x-request-id").map(str::to_owned);
    assert_ne!(first, second);
    daemon.send(Request::get("/v1/nothing").header("x-request-id", "mine"));
}
