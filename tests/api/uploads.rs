//! `/v1/uploads`: parts first, one file on completion.

use serde_json::{Value, json};

use crate::support::api::id_of;
use crate::support::daemon::Daemon;
use crate::support::http::{Form, Request, Response};
use crate::support::rows;

fn begin(daemon: &Daemon, bytes: usize) -> String {
    let request = json!({"filename": "in.jsonl", "purpose": "batch", "bytes": bytes, "mime_type": "application/jsonl"});
    id_of(&daemon.post("/v1/uploads", &request).expect(200))
}

fn part(daemon: &Daemon, upload: &str, data: &[u8]) -> Response {
    let form = Form::default().file("data", "part", data);
    daemon.send(Request::post(&format!("/v1/uploads/{upload}/parts")).form(form))
}

fn complete(daemon: &Daemon, upload: &str, body: &Value) -> Response {
    daemon.post(&format!("/v1/uploads/{upload}/complete"), body)
}

#[test]
fn parts_sent_in_any_order_become_the_file_in_the_order_of_completion() {
    let daemon = Daemon::start();
    let text = rows::many(30, rows::INSTANT);
    let (first, rest) = text.as_bytes().split_at(1_000);
    let (second, third) = rest.split_at(1);
    let upload = begin(&daemon, text.len());
    let mut parts = Vec::new();
    for data in [third, first, second] {
        let answer = part(&daemon, &upload, data).expect(200);
        assert_eq!(answer["object"], "upload.part");
        assert_eq!(answer["upload_id"], upload);
        parts.push(id_of(&answer));
    }
    let order = json!({"part_ids": [&parts[1], &parts[2], &parts[0]]});
    let done = complete(&daemon, &upload, &order).expect(200);
    assert_eq!(done["object"], "upload");
    assert_eq!(done["status"], "completed");
    assert_eq!(done["bytes"], text.len());
    assert_eq!(done["file"]["filename"], "in.jsonl");
    assert_eq!(done["file"]["bytes"], text.len());
    let file = id_of(&done["file"]);
    assert_eq!(daemon.content(&file), text.as_bytes());
    // A completed upload serves as an input just like a file that was sent at once.
    let batch = daemon.create(&file);
    assert_eq!(daemon.wait_ended(&batch, crate::support::wait::A_WHILE)["status"], "completed");
}

#[test]
fn a_right_checksum_completes_and_a_wrong_one_does_not() {
    let daemon = Daemon::start();
    let upload = begin(&daemon, 5);
    let id = id_of(&part(&daemon, &upload, b"hello").expect(200));
    let wrong = json!({"part_ids": [id], "md5": "00000000000000000000000000000000"});
    assert_eq!(complete(&daemon, &upload, &wrong).error_code(400), "checksum_mismatch");
    // The upload stays open: only one request failed.
    let right = json!({"part_ids": [id], "md5": "5d41402abc4b2a76b9719d911017c592"});
    assert_eq!(complete(&daemon, &upload, &right).expect(200)["status"], "completed");
}

#[test]
fn the_announced_size_is_held_to() {
    let daemon = Daemon::start();
    let upload = begin(&daemon, 6);
    let id = id_of(&part(&daemon, &upload, b"hello").expect(200));
    assert_eq!(complete(&daemon, &upload, &json!({"part_ids": [id]})).error_code(400), "checksum_mismatch");
    let more = id_of(&part(&daemon, &upload, b"!").expect(200));
    assert_eq!(complete(&daemon, &upload, &json!({"part_ids": [id, more]})).expect(200)["status"], "completed");
}

#[test]
fn foreign_missing_and_repeated_parts_are_refused() {
    let daemon = Daemon::start();
    let (mine, other) = (begin(&daemon, 2), begin(&daemon, 2));
    let a = id_of(&part(&daemon, &mine, b"a").expect(200));
    let foreign = id_of(&part(&daemon, &other, b"b").expect(200));
    for parts in [json!([a, foreign]), json!([a, "part_00000000000000000000000000"]), json!([a, "nonsense"]), json!([a, a]), json!([])] {
        let answer = complete(&daemon, &mine, &json!({"part_ids": parts}));
        assert!(matches!(answer.status(), 400 | 404), "{parts}: {}", answer.text());
    }
    assert_eq!(complete(&daemon, &mine, &json!({})).error_code(400), "missing_required_parameter");
    assert_eq!(daemon.get("/v1/files").expect(200)["data"], json!([]));
}

#[test]
fn a_cancelled_or_completed_upload_takes_nothing_more() {
    let daemon = Daemon::start();
    let cancelled = begin(&daemon, 5);
    let id = id_of(&part(&daemon, &cancelled, b"hello").expect(200));
    let answer = daemon.post_empty(&format!("/v1/uploads/{cancelled}/cancel")).expect(200);
    assert_eq!(answer["status"], "cancelled");
    assert_eq!(part(&daemon, &cancelled, b"x").error_code(409), "conflict");
    assert_eq!(complete(&daemon, &cancelled, &json!({"part_ids": [id]})).error_code(409), "conflict");

    let completed = begin(&daemon, 5);
    let id = id_of(&part(&daemon, &completed, b"hello").expect(200));
    complete(&daemon, &completed, &json!({"part_ids": [id]})).expect(200);
    assert_eq!(part(&daemon, &completed, b"x").error_code(409), "conflict");
    assert_eq!(daemon.post_empty(&format!("/v1/uploads/{completed}/cancel")).error_code(409), "conflict");
}

#[test]
fn an_upload_must_say_what_it_will_be() {
    let daemon = Daemon::with(&["--max-upload-bytes", "1024"]);
    let good = json!({"filename": "in.jsonl", "purpose": "batch", "bytes": 5, "mime_type": "application/jsonl"});
    for field in ["filename", "purpose", "bytes", "mime_type"] {
        let mut request = good.clone();
        request.as_object_mut().unwrap().remove(field);
        let answer = daemon.post("/v1/uploads", &request).expect(400);
        assert_eq!(answer["error"]["code"], "missing_required_parameter", "{answer}");
        assert_eq!(answer["error"]["param"], field);
    }
    for (field, value) in [("bytes", json!(-1)), ("bytes", json!("5")), ("purpose", json!("batch_output")), ("filename", json!(7))] {
        let mut request = good.clone();
        request[field] = value;
        let answer = daemon.post("/v1/uploads", &request).expect(400);
        assert_eq!(answer["error"]["param"], field, "{answer}");
    }
    let mut large = good;
    large["bytes"] = json!(1025);
    let answer = daemon.post("/v1/uploads", &large);
    assert!(matches!(answer.status(), 400 | 413), "{}", answer.text());
    assert_eq!(daemon.post_empty("/v1/uploads/upload_00000000000000000000000000/cancel").error_code(404), "not_found");
}

#[test]
fn parts_survive_a_restart() {
    let mut daemon = Daemon::start();
    let upload = begin(&daemon, 5);
    let a = id_of(&part(&daemon, &upload, b"hel").expect(200));
    daemon.kill9();
    daemon.restart();
    let b = id_of(&part(&daemon, &upload, b"lo").expect(200));
    let done = complete(&daemon, &upload, &json!({"part_ids": [a, b]})).expect(200);
    assert_eq!(daemon.content(&id_of(&done["file"])), b"hello");
}
