//! Keys, hosts, origins, and what a daemon that stops still answers.

use serde_json::json;

use super::super::Origins;
use super::*;

#[tokio::test]
async fn keys_are_asked_for_except_by_probes() {
    let bench = Bench::with(|api| api.access = Access::keys(&["alpha".into()])).await;
    let missing = bench.get("/v1/models").await;
    let wrong = bench.call("GET", "/v1/nothing", &[("authorization", "Bearer beta")], "").await;
    insta::assert_snapshot!(format!("{}\n{}", missing.text(), wrong.text()));
    for reply in [&missing, &wrong] {
        assert_eq!((reply.status.as_u16(), reply.header("www-authenticate")), (401, "Bearer"));
        assert!(reply.headers.contains_key("x-request-id"));
    }
    assert_eq!(bench.call("GET", "/v1/models", &[("authorization", "Bearer alpha"), ("host", "x.example")], "").await.status, 200);
    assert_eq!(bench.get("/healthz").await.status, 200);
    assert_eq!(bench.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn without_keys_web_pages_and_foreign_names_are_refused() {
    let bench = Bench::new().await;
    let host = bench.call("GET", "/v1/models", &[("host", "rebound.example:8080")], "").await;
    let origin = bench.call("POST", "/v1/batches", &[("host", "localhost"), ("origin", "https://evil.example")], "{}").await;
    assert_eq!((host.status.as_u16(), origin.status.as_u16()), (403, 403));
    insta::assert_snapshot!(format!("{}\n{}", host.text(), origin.text()));
    assert_eq!(bench.call("GET", "/v1/models", &[("host", "localhost:8080"), ("origin", "http://127.0.0.1:3000")], "").await.status, 200);
    assert_eq!(bench.call("GET", "http://rebound.example/v1/models", &[], "").await.status, 403);
    assert_eq!(bench.call("GET", "/healthz", &[("host", "10.1.2.3:8080")], "").await.status, 200);
}

#[tokio::test]
async fn pages_of_listed_origins_may_call_and_read_errors() {
    let listed = Origins::of(vec!["https://tools.example".into()]);
    let bench = Bench::with(|api| api.access = Access::keys(&["alpha".into()]).with_origins(listed)).await;
    let ask = [
        ("origin", "https://tools.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let preflight = bench.call("OPTIONS", "/v1/batches", &ask, "").await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), "https://tools.example");
    assert_eq!(preflight.header("access-control-allow-headers"), "authorization");
    let refused = bench.call("GET", "/v1/models", &[("origin", "https://tools.example")], "").await;
    assert_eq!((refused.status.as_u16(), refused.header("access-control-allow-origin")), (401, "https://tools.example"));
    assert!(refused.header("access-control-expose-headers").contains("x-request-id"));
    let other = bench.call("GET", "/v1/models", &[("origin", "https://evil.example")], "").await;
    assert_eq!(other.header("access-control-allow-origin"), "");
    let off = Bench::new().await.call("OPTIONS", "/v1/batches", &ask, "").await;
    assert_eq!((off.status.as_u16(), off.header("access-control-allow-origin")), (403, ""));
}

#[tokio::test]
async fn a_stopping_daemon_answers_questions_and_takes_no_work() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    bench.api.service.draining.cancel();
    let create = bench.post("/v1/batches", &json!({"input_file_id": file})).await;
    assert_eq!((create.status.as_u16(), create.header("retry-after")), (503, "10"));
    insta::assert_snapshot!(create.text());
    assert_eq!(bench.form("/v1/files", &[("purpose", None, b"batch")]).await.status, 503);
    assert_eq!(bench.get("/readyz").await.status, 503);
    assert_eq!(bench.get("/healthz").await.status, 200);
    assert_eq!(bench.get("/v1/batches").await.status, 200);
}

#[tokio::test]
async fn a_nearly_full_disk_is_told_before_anything_is_read() {
    let bench = Bench::with(|api| super::service(api).limits.min_free_bytes = u64::MAX).await;
    let reply = bench.form("/v1/files", &[("purpose", None, b"batch"), ("file", Some("a"), b"x")]).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (507, "insufficient_storage"));
    assert_eq!(bench.get("/readyz").await.status, 503);
    assert_eq!(bench.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn the_index_names_the_product_and_its_routes() {
    let bench = Bench::new().await;
    let mut index = bench.get("/").await.json();
    index["version"] = "V".into();
    insta::assert_json_snapshot!(index);
}
