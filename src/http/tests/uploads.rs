//! Uploads in parts.

use serde_json::json;

use super::*;

async fn begin(bench: &Bench, bytes: usize) -> String {
    let body = json!({"filename": "big.jsonl", "purpose": "batch", "bytes": bytes, "mime_type": "application/jsonl"});
    bench.post("/v1/uploads", &body).await.id()
}

async fn part(bench: &Bench, upload: &str, data: &[u8]) -> Reply {
    bench.form(&format!("/v1/uploads/{upload}/parts"), &[("data", Some("blob"), data)]).await
}

#[tokio::test]
async fn parts_become_one_file_in_the_named_order() {
    let bench = Bench::new().await;
    let upload = begin(&bench, 10).await;
    let (second, first) = (part(&bench, &upload, b"world").await.id(), part(&bench, &upload, b"hello").await.id());
    let complete = format!("/v1/uploads/{upload}/complete");
    let md5 = "fc5e038d38a57032085441e7fe7010b0";
    let done = bench.post(&complete, &json!({"part_ids": [first, second], "md5": md5})).await;
    insta::assert_snapshot!(stable(&done.text()));
    let file = done.json()["file"]["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.get(&format!("/v1/files/{file}/content")).await.text(), "helloworld");
    assert_eq!(bench.get(&format!("/v1/uploads/{upload}")).await.json(), done.json());
    let again = bench.post(&complete, &json!({"part_ids": [first, second]})).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "conflict"));
    assert_eq!(part(&bench, &upload, b"more").await.status, 409);
    assert_eq!(bench.post(&format!("/v1/uploads/{upload}/cancel"), &json!({})).await.status, 409);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_the_upload_goes_on() {
    let bench = Bench::with(|api| api.limits.max_part_bytes = 8).await;
    let upload = begin(&bench, 6).await;
    let id = part(&bench, &upload, b"abcdef").await.id();
    let complete = format!("/v1/uploads/{upload}/complete");
    let mut shown = Vec::new();
    for body in [
        json!({}),
        json!({"part_ids": "x"}),
        json!({"part_ids": [1]}),
        json!({"part_ids": ["file-00000000000000000000000007"]}),
        json!({"part_ids": ["part_00000000000000000000000007"]}),
        json!({"part_ids": [id, id]}),
        json!({"part_ids": []}),
        json!({"part_ids": [id], "md5": "00"}),
    ] {
        shown.push(stable(&bench.post(&complete, &body).await.text()));
    }
    shown.push(part(&bench, &upload, b"123456789").await.text());
    shown.push(part(&bench, &upload, b"1234567").await.text());
    shown.push(bench.form(&format!("/v1/uploads/{upload}/parts"), &[("date", Some("x"), b"1")]).await.text());
    for body in [
        json!({"filename": "a", "purpose": "batch", "bytes": 0, "mime_type": "x"}),
        json!({"filename": "a", "purpose": "batch", "bytes": "7", "mime_type": "x"}),
        json!({"filename": "", "purpose": "batch", "bytes": 7, "mime_type": "x"}),
        json!({"filename": "a", "purpose": "batch", "bytes": 7}),
        json!({"filename": "a", "purpose": "nonsense", "bytes": 7, "mime_type": "x"}),
    ] {
        shown.push(bench.post("/v1/uploads", &body).await.text());
    }
    insta::assert_snapshot!(shown.join("\n"));
    assert_eq!(bench.post(&complete, &json!({"part_ids": [id]})).await.status, 200);
}

#[tokio::test]
async fn uploads_are_cancelled_and_expire() {
    let bench = Bench::new().await;
    let cancelled = begin(&bench, 5).await;
    assert_eq!(bench.post(&format!("/v1/uploads/{cancelled}/cancel"), &json!({})).await.json()["status"], "cancelled");
    let late = begin(&bench, 5).await;
    bench.pass(3_600);
    assert_eq!(bench.get(&format!("/v1/uploads/{late}")).await.json()["status"], "expired");
    assert_eq!(part(&bench, &late, b"x").await.status, 409);
}
