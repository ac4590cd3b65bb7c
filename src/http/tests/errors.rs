//! Every client error that the routes share, as a client reads it.

use super::*;
use crate::http::route_table::RouteIndex;
use crate::http::router::TABLES;

/// Method, path, headers and body.
type Call<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// Each request with its answer.
async fn shown(bench: &Bench, requests: &[Call<'_>]) -> String {
    let mut shown = Vec::new();
    for (method, path, headers, body) in requests {
        let reply = bench.call(method, path, headers, (*body).to_owned()).await;
        assert!(reply.header("x-request-id").starts_with("req_"), "{method} {path}");
        let extra: String = ["allow", "retry-after", "www-authenticate", "content-range"]
            .iter()
            .filter_map(|name| reply.headers.get(*name).map(|value| format!("{name}: {}\n", value.to_str().unwrap())))
            .collect();
        shown.push(format!("{method} {path} {body}\n{}\n{extra}{}", reply.status, stable(&reply.text())));
    }
    shown.join("\n\n")
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

#[test]
fn what_was_probably_meant() {
    let index = RouteIndex::of(&TABLES);
    let hints = [
        "/v1/files/",
        "/v1/batch",
        "/batches",
        "/v1/batches/batch_1/result",
        "/files/file-1/content",
        "/v1/chat/completions",
        "/",
        "//",
        "/favicon.ico",
        "/health",
    ];
    let text: Vec<_> = hints.iter().map(|path| format!("{path} -> {}", index.near(path).unwrap_or_default())).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[tokio::test]
async fn routes_that_do_not_exist() {
    let bench = Bench::new().await;
    let text = shown(
        &bench,
        &[
            ("GET", "/v1/nothing", &[], ""),
            ("GET", "/v1/files/", &[], ""),
            ("GET", "/batches", &[], ""),
            ("POST", "/v1/chat/completions", JSON, "{}"),
            ("PUT", "/v1/files", &[], ""),
            ("PATCH", "/openai/v1/batches/batch_1/cancel", &[], ""),
            ("POST", "/healthz", &[], ""),
            ("POST", "/v1/models/some/model", &[], ""),
            ("DELETE", "/openai/v1/models/some/model", &[], ""),
            ("GET", "/test/panic", &[], ""),
        ],
    );
    insta::assert_snapshot!(text.await);
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be() {
    let bench = Bench::new().await;
    let text = shown(
        &bench,
        &[
            ("POST", "/v1/batches", &[], "{}"),
            ("POST", "/v1/batches", &[("content-type", "application/x-www-form-urlencoded")], "a=b"),
            ("POST", "/v1/batches", JSON, ""),
            ("POST", "/v1/batches", JSON, "{\"input_file_id\": \"file-1\",\n  oops}"),
            ("POST", "/v1/batches", JSON, "{\"input_file_id\":"),
            ("POST", "/v1/batches", JSON, "[1]"),
            ("POST", "/v1/batches", &[("content-type", "application/merge-patch+json; charset=utf-8")], "{}"),
            ("POST", "/openai/v1/batches", &[("content-type", "application/json"), ("content-length", "1048577")], "{}"),
            ("POST", "/v1/batches", &[("content-type", "application/json"), ("content-encoding", "gzip")], "{}"),
            ("POST", "/v1/batches", &[("content-type", "application/json"), ("content-encoding", "Identity")], "{}"),
            ("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=XX"), ("content-encoding", "br")], ""),
            ("POST", "/v1/files", JSON, "{}"),
            ("POST", "/v1/files", &[("content-type", "multipart/form-data")], "{}"),
            ("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=XX")], "nonsense"),
            ("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=XX")], "--XX\r\nnonsense\r\n\r\n--XX--"),
        ],
    );
    insta::assert_snapshot!(text.await);
}

#[tokio::test]
async fn fields_that_are_missing_or_wrong() {
    let bench = Bench::new().await;
    const FILE: &str = "file-00000000000000000000000007";
    let create =
        |more: &str| format!("{{\"input_file_id\":\"{FILE}\",\"endpoint\":\"/v1/responses\",\"completion_window\":\"24h\"{more}}}");
    let bodies = [
        "{}".to_owned(),
        "{\"input_file_id\":null}".into(),
        "{\"input_file_id\":7}".into(),
        "{\"input_file_id\":\"batch_00000000000000000000000007\"}".into(),
        "{\"input_file_id\":\"nothing\"}".into(),
        format!("{{\"input_file_id\":\"{FILE}\"}}"),
        format!("{{\"input_file_id\":\"{FILE}\",\"endpoint\":\"/v1/chat\"}}"),
        format!("{{\"input_file_id\":\"{FILE}\",\"endpoint\":\"/v1/responses\"}}"),
        format!("{{\"input_file_id\":\"{FILE}\",\"endpoint\":\"/v1/responses\",\"completion_window\":\"1 day\"}}"),
        create(",\"metadata\":[]"),
        create(",\"metadata\":{\"a\":1}"),
        create(&format!(",\"metadata\":{{\"{}\":\"\"}}", "k".repeat(65))),
        create(",\"output_expires_after\":3600"),
        create(",\"output_expires_after\":{\"seconds\":3600}"),
        create(",\"output_expires_after\":{\"anchor\":\"now\",\"seconds\":3600}"),
        create(",\"output_expires_after\":{\"anchor\":\"created_at\",\"seconds\":1.5}"),
        create(",\"output_expires_after\":{\"anchor\":\"created_at\",\"seconds\":10}"),
        create(",\"metadata\":{},\"output_expires_after\":null,\"unknown\":true"),
    ];
    let requests: Vec<_> = bodies.iter().map(|body| ("POST", "/v1/batches", JSON, body.as_str())).collect();
    insta::assert_snapshot!(shown(&bench, &requests).await);
}

#[tokio::test]
async fn ids_and_queries_that_are_wrong() {
    let bench = Bench::new().await;
    let text = shown(
        &bench,
        &[
            ("GET", "/v1/batches/batch_00000000000000000000000007", &[], ""),
            ("GET", "/v1/batches/file-00000000000000000000000007", &[], ""),
            ("GET", "/v1/batches/%ff", &[], ""),
            ("POST", "/v1/batches/nothing/cancel", &[], ""),
            ("POST", "/v1/batches/batch_00000000000000000000000007/cancel", &[], ""),
            ("POST", "/v1/batches/batch_00000000000000000000000007/retry", &[], ""),
            ("GET", "/v1/batches/batch_00000000000000000000000007/results", &[], ""),
            ("GET", "/v1/files/batch_00000000000000000000000007/content", &[], ""),
            ("DELETE", "/v1/files/file-00000000000000000000000007", &[], ""),
            ("GET", "/v1/batches?limit=0", &[], ""),
            ("GET", "/v1/batches?limit=101", &[], ""),
            ("GET", "/v1/batches?limit=ten", &[], ""),
            ("GET", "/v1/batches?limit=1&limit=2", &[], ""),
            ("GET", "/v1/batches?after=file-00000000000000000000000007", &[], ""),
            ("GET", "/v1/files?order=newest", &[], ""),
            ("GET", "/v1/files?purpose=batches", &[], ""),
            ("GET", "/v1/files?limit=10001", &[], ""),
            ("GET", "/v1/models/gpt-4o-minj", &[], ""),
            ("GET", "/v1/uploads/upload_00000000000000000000000007", &[], ""),
        ],
    );
    insta::assert_snapshot!(text.await);
}

#[tokio::test]
async fn a_client_may_choose_the_id_of_its_request() {
    let bench = Bench::new().await;
    let own = bench.call("GET", "/healthz", &[("x-request-id", "my.own-id_1")], "").await;
    assert_eq!(own.header("x-request-id"), "my.own-id_1");
    for bad in ["a b", "", "<script>", &"x".repeat(129)] {
        let reply = bench.call("GET", "/healthz", &[("x-request-id", bad)], "").await;
        assert!(reply.header("x-request-id").starts_with("req_"), "{bad}");
    }
}

#[tokio::test]
async fn every_listed_route_exists_and_no_other_method_does() {
    let bench = Bench::new().await;
    for (path, route) in crate::http::router::every() {
        let path = path.replace(['{', '}', '*'], "");
        let listed = route.listed_methods();
        for method in ["GET", "POST", "DELETE", "PUT", "PATCH"] {
            let reply = bench.call(method, &path, &[], "").await;
            let exists = reply.status != 405 && !reply.text().contains("unknown_url");
            assert_eq!(exists, listed.split(", ").any(|each| each == method), "{method} {path}: {}", reply.text());
            if reply.status == 405 {
                assert_eq!(reply.header("allow"), listed.replace("GET", "GET, HEAD"), "{method} {path}");
            }
        }
    }
}
