//! `DELETE /v1/batches/{id}`: what is deleted with a batch, what stays, and that the batch is gone
//! for good.

use crate::support::api::id_of;
use crate::support::daemon::Daemon;
use crate::support::http::Request;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::{rows, wait};

/// Asserts that every path to a deleted batch reports that it is gone.
fn is_gone(daemon: &Daemon, id: &str) {
    let below = |rest: &str| format!("/v1/batches/{id}{rest}");
    for request in [
        Request::get(&below("")),
        Request::get(&below("/results")),
        Request::get(&below("/events")),
        Request::post(&below("/cancel")),
        Request::post(&below("/retry")),
        Request::post(&below("/pause")),
        Request::new("DELETE", &below("")),
    ] {
        assert_eq!(daemon.send(request).error_code(404), "not_found");
    }
    let listed = daemon.get("/v1/batches?limit=100").expect(200);
    assert!(listed["data"].as_array().expect("a list").iter().all(|batch| id_of(batch) != id), "{listed}");
}

#[test]
fn a_deleted_batch_takes_its_results_along_and_leaves_what_a_client_has_uploaded() {
    let upstream = FakeUpstream::start(|call| if call.row.ends_with('3') { Reply::error(400) } else { Reply::ok(call) });
    let mut daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let first = daemon.complete(rows::many(10, "m"));
    let other = daemon.complete(rows::many(4, "m"));
    let (id, input) = (id_of(&first), first["input_file_id"].as_str().expect("an id"));
    let retry = daemon.post_empty(&format!("/v1/batches/{id}/retry")).expect(200);
    let retry = daemon.wait_ended(&id_of(&retry), wait::A_WHILE);

    let deleted = daemon.delete(&format!("/v1/batches/{id}"));
    assert_eq!((deleted.status(), deleted.text()), (200, format!(r#"{{"id":"{id}","object":"batch","deleted":true}}"#)));
    for _ in 0..2 {
        is_gone(&daemon, &id);
        for file in ["output_file_id", "error_file_id"].map(|field| first[field].as_str().expect("an id")) {
            assert_eq!(daemon.get(&format!("/v1/files/{file}")).error_code(404), "not_found");
            assert_eq!(daemon.get(&format!("/v1/files/{file}/content")).error_code(404), "not_found");
        }
        assert_eq!(daemon.content(input), rows::many(10, "m").into_bytes(), "the client's own file stays");
        assert_eq!(daemon.batch(&id_of(&other)), other);
        assert_eq!(daemon.output(&other).len(), 3);
        daemon.kill9();
        daemon.restart();
    }
    // The input that the daemon made for a batch is deleted with it.
    let made = retry["input_file_id"].as_str().expect("an id");
    daemon.get(&format!("/v1/files/{made}")).expect(200);
    daemon.delete(&format!("/v1/batches/{}", id_of(&retry))).expect(200);
    assert_eq!(daemon.get(&format!("/v1/files/{made}")).error_code(404), "not_found");
    assert!(!daemon.data_dir().join("files").read_dir().expect("a folder").any(|entry| {
        let name = entry.expect("an entry").file_name();
        std::fs::read(daemon.data_dir().join("files").join(name)).expect("a file").len() < rows::many(4, "m").len()
    }));
}

#[test]
fn only_what_has_ended_can_be_deleted() {
    let upstream = FakeUpstream::start(|_| Reply::stall());
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let id = daemon.submit(rows::many(2, "m"));
    daemon.wait_for(&id, wait::A_WHILE, "in progress", |batch| batch["status"] == "in_progress");
    let refused = daemon.delete(&format!("/v1/batches/{id}"));
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(refused.error_code(409), "conflict");
    assert!(refused.text().contains("the batch is in_progress; only one that has ended can be deleted"), "{}", refused.text());
    assert_eq!(daemon.batch(&id)["status"], "in_progress");
    // A refused batch has no results, and is deleted like any other.
    let failed = daemon.submit("nonsense\n");
    daemon.wait_ended(&failed, wait::A_WHILE);
    daemon.delete(&format!("/v1/batches/{failed}")).expect(200);
    is_gone(&daemon, &failed);
}

#[test]
fn a_create_that_is_sent_again_makes_no_second_batch() {
    let mut daemon = Daemon::start();
    let input = daemon.upload(rows::many(1, rows::INSTANT));
    let create = |key: &str| {
        Request::post("/v1/batches").header("idempotency-key", key).json(&Daemon::batch_request(&input, crate::support::api::CHAT))
    };
    let id = id_of(&daemon.send(create("once")).expect(200));
    daemon.wait_ended(&id, wait::A_WHILE);
    daemon.delete(&format!("/v1/batches/{id}")).expect(200);
    for _ in 0..2 {
        let again = daemon.send(create("once"));
        assert_eq!(again.error_code(409), "idempotency_key_reused");
        assert!(again.text().contains("has been deleted"), "{}", again.text());
        daemon.kill9();
        daemon.restart();
    }
    assert_eq!(daemon.get("/v1/batches").expect(200)["data"], serde_json::json!([]));
    daemon.send(create("twice")).expect(200);
}
