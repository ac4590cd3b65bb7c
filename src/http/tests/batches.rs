//! Batches: creation, idempotency, lists, cancellation.

use serde_json::json;

use super::*;
use crate::domain::batch::BatchState;
use crate::domain::id::BatchId;
use crate::executor::CancelError;

fn order(file: &str) -> Value {
    json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"b": "2", "a": "1"}})
}

async fn create_with_key(bench: &Bench, key: &str, body: &str) -> Reply {
    bench.call("POST", "/v1/batches", &[("content-type", "application/json"), ("idempotency-key", key)], body.to_owned()).await
}

#[tokio::test]
async fn a_created_batch_is_handed_to_the_executor() {
    let mut bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let created = bench.post("/v1/batches", &order(&file)).await;
    insta::assert_snapshot!(stable(&serde_json::to_string_pretty(&created.json()).unwrap()));
    let id = created.id();
    assert_eq!(bench.stub.taken(), [id.parse::<BatchId>().unwrap()]);
    assert_eq!(bench.get(&format!("/v1/batches/{id}")).await.json(), created.json());
    assert_eq!(bench.get(&format!("/v1/batches/{id}/results")).await.text(), "");
    let retry = bench.post(&format!("/v1/batches/{id}/retry"), &json!({})).await;
    assert_eq!((retry.status.as_u16(), retry.code().as_str()), (409, "conflict"));
}

#[tokio::test]
async fn only_batch_files_are_inputs() {
    let mut bench = Bench::new().await;
    let picture = bench.form("/v1/files", &[("purpose", None, b"vision"), ("file", Some("a"), b"x")]).await.id();
    let reply = bench.post("/v1/batches", &order(&picture)).await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["param"].as_str()), (400, Some("input_file_id")));
    assert!(bench.stub.taken().is_empty());
}

#[tokio::test]
async fn a_key_makes_one_batch_however_often_it_is_sent() {
    let mut bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let first = create_with_key(&bench, "k1", &order(&file).to_string()).await;
    let spelt = format!(
        "{{\"completion_window\": \"24h\", \"metadata\": {{\"a\":\"1\",\"b\":\"2\"}},\n \"endpoint\":\"\\/v1/chat/completions\", \"input_file_id\":\"{file}\"}}"
    );
    assert_eq!(create_with_key(&bench, "k1", &spelt).await.json(), first.json());
    let mut other = order(&file);
    other["completion_window"] = "48h".into();
    let reused = create_with_key(&bench, "k1", &other.to_string()).await;
    assert_eq!(reused.status, 409);
    insta::assert_snapshot!(reused.text());
    assert_ne!(create_with_key(&bench, "k2", &other.to_string()).await.id(), first.id());
    assert_eq!(bench.stub.taken().len(), 2);
    // The input may be gone by the time a client repeats itself.
    bench.call("DELETE", &format!("/v1/files/{file}"), &[], "").await;
    assert_eq!(create_with_key(&bench, "k1", &spelt).await.id(), first.id());
    assert_eq!(create_with_key(&bench, "k3", &spelt).await.status, 400);
    assert!(bench.stub.taken().is_empty());
}

#[tokio::test]
async fn keys_belong_to_their_callers_and_have_a_form() {
    let bench = Bench::with(|api| api.access = Access::keys(&["alpha".into(), "beta".into()])).await;
    let headers = |key: &'static str| [("content-type", "multipart/form-data; boundary=XX"), ("authorization", key)];
    let fields = form(&[("purpose", None, b"batch"), ("file", Some("a"), b"x")]);
    let file = bench.call("POST", "/v1/files", &headers("Bearer alpha"), fields).await.id();
    let mut ids = Vec::new();
    for key in ["Bearer alpha", "Bearer beta", "Bearer alpha"] {
        let headers = [("content-type", "application/json"), ("authorization", key), ("idempotency-key", "same")];
        ids.push(bench.call("POST", "/v1/batches", &headers, order(&file).to_string()).await.id());
    }
    assert!(ids[0] == ids[2] && ids[0] != ids[1]);
    let open = Bench::new().await;
    for bad in ["", "two words", &"x".repeat(256)] {
        let reply = create_with_key(&open, bad, &order("file-00000000000000000000000007").to_string()).await;
        assert_eq!((reply.status.as_u16(), reply.json()["error"]["param"].as_str()), (400, Some("Idempotency-Key")), "{bad}");
    }
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, bench.post("/v1/batches", &order(&file)).await.id());
    }
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = bench.get(&format!("/v1/batches?limit=2&after={}", seen.last().cloned().unwrap_or_default())).await.json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|batch| batch["id"].as_str().unwrap().to_owned()));
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn cancelling_is_the_executors_to_decide() {
    let mut bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let id = bench.post("/v1/batches", &order(&file)).await.id();
    let Bench { api, stub, .. } = &mut bench;
    let cancel = || {
        let request = Request::post(format!("/v1/batches/{id}/cancel")).body(Body::empty()).unwrap();
        router(api.clone()).oneshot(request)
    };
    let (late, ()) = tokio::join!(cancel(), stub.answer_cancel(Err(CancelError::TooLate("completed"))));
    assert_eq!(late.unwrap().status(), 409);
    let since = Timestamp::UNIX_EPOCH;
    let (done, ()) = tokio::join!(cancel(), stub.answer_cancel(Ok(BatchState::Cancelling { in_progress_at: None, since })));
    assert_eq!(done.unwrap().status(), 200);
}

#[tokio::test]
async fn without_an_executor_a_batch_waits_for_the_next_start() {
    let Bench { api, stub, time, _dir } = Bench::new().await;
    drop(stub);
    let (_, stub) = Handle::for_tests(api.service.store.clone());
    let bench = Bench { api, stub, time, _dir };
    let file = bench.upload(b"{}\n").await;
    let reply = bench.post("/v1/batches", &order(&file)).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (503, "service_unavailable"));
}
