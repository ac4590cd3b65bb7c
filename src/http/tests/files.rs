//! Files: upload, list, ranges, deletion, cost.

use super::*;

#[tokio::test]
async fn fields_come_in_any_order_and_unknown_ones_are_ignored() {
    let bench = Bench::new().await;
    let content = "line\n".repeat(700_000);
    let reply = bench
        .form(
            "/v1/files",
            &[
                ("other", None, b"x"),
                ("file", Some("../../etc/in.jsonl"), content.as_bytes()),
                ("expires_after[seconds]", None, b"3600"),
                ("purpose", None, b"batch"),
                ("expires_after[anchor]", None, b"created_at"),
            ],
        )
        .await;
    insta::assert_snapshot!(stable(&reply.text()));
    let id = reply.id();
    let back = bench.get(&format!("/openai/v1/files/{id}/content")).await;
    assert_eq!(back.body, content.as_bytes());
    assert_eq!(back.header("content-length"), content.len().to_string());
    assert_eq!(back.header("content-disposition"), "attachment; filename=\"in.jsonl\"; filename*=UTF-8''in.jsonl");
    bench.pass(3_600);
    assert_eq!(bench.get(&format!("/v1/files/{id}")).await.status, 404);
}

#[tokio::test]
async fn forms_that_do_not_say_enough() {
    let bench = Bench::with(|api| api.limits.max_file_bytes = 10).await;
    let forms: [&[Field]; 9] = [
        &[("purpose", None, b"batch")],
        &[("file", Some("a"), b"x")],
        &[("file", Some("a"), b"x"), ("purpose", None, b"batch_output")],
        &[("file", Some("a"), b"x"), ("file", Some("b"), b"x"), ("purpose", None, b"batch")],
        &[("file", Some("a"), b"x"), ("purpose", None, b"batch"), ("purpose", None, b"batch")],
        &[("file", Some("a"), b"x"), ("purpose", None, b"batch"), ("expires_after[anchor]", None, b"created_at")],
        &[
            ("file", Some("a"), b"x"),
            ("purpose", None, b"batch"),
            ("expires_after[anchor]", None, b"x"),
            ("expires_after[seconds]", None, b"y"),
        ],
        &[("file", Some("a"), b"01234567890"), ("purpose", None, b"batch")],
        &[("purpose", None, b"\xff")],
    ];
    let mut shown = Vec::new();
    for fields in forms {
        let reply = bench.form("/v1/files", fields).await;
        shown.push(format!("{} {}", reply.status, reply.text()));
    }
    insta::assert_snapshot!(shown.join("\n"));
    assert_eq!(bench.get("/v1/files").await.json()["data"].as_array().unwrap().len(), 0);
    assert_eq!(std::fs::read_dir(bench._dir.path().join("spool")).unwrap().count(), 0, "nothing refused is kept");
}

#[tokio::test]
async fn a_form_without_its_end_leaves_nothing() {
    let bench = Bench::new().await;
    let whole = form(&[("purpose", None, b"batch"), ("file", Some("a"), &[b'x'; 3_000_000])]);
    for end in [10, 60, 200, whole.len() - 10, whole.len() - 4] {
        let reply = bench.call("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=XX")], whole[..end].to_vec()).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "invalid_multipart"), "{end}: {}", reply.text());
    }
    assert_eq!(std::fs::read_dir(bench._dir.path().join("spool")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(bench._dir.path().join("files")).unwrap().count(), 0);
}

#[tokio::test]
async fn batch_files_are_kept_for_as_long_as_the_settings_say() {
    let bench = Bench::with(|api| api.limits.file_retention = Some(Duration::from_secs(100))).await;
    let batch = bench.upload(b"x").await;
    let other = bench.form("/v1/files", &[("purpose", None, b"vision"), ("file", Some("a"), b"x")]).await;
    assert_eq!(bench.get(&format!("/v1/files/{batch}")).await.json()["expires_at"], START + 100);
    assert!(other.json()["expires_at"].is_null());
}

#[tokio::test]
async fn lists_are_paged_in_both_orders() {
    let bench = Bench::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(bench.upload(b"x").await);
    }
    bench.form("/v1/files", &[("purpose", None, b"vision"), ("file", Some("a"), b"x")]).await;
    for (order, expected) in [("asc", ids.clone()), ("desc", ids.iter().rev().cloned().collect())] {
        let mut seen = Vec::new();
        loop {
            let after = seen.last().cloned().unwrap_or_default();
            let page = bench.get(&format!("/v1/files?purpose=batch&limit=2&order={order}&after={after}")).await.json();
            let data: Vec<String> = page["data"].as_array().unwrap().iter().map(|file| file["id"].as_str().unwrap().into()).collect();
            assert_eq!((page["first_id"].as_str(), page["last_id"].as_str()), (data.first().map(|s| &**s), data.last().map(|s| &**s)));
            seen.extend(data);
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
    assert_eq!(bench.get("/v1/files").await.json()["data"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn ranges_conditions_and_heads() {
    let bench = Bench::new().await;
    let content: Vec<u8> = (0..600_000_u32).flat_map(u32::to_be_bytes).collect();
    let id = bench.upload(&content).await;
    let path = format!("/v1/files/{id}/content");
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=300000-1299999", 300_000, 1_300_000),
        ("bytes=2399990-", 2_399_990, 2_400_000),
        ("bytes=-7", 2_399_993, 2_400_000),
    ] {
        let reply = bench.call("GET", &path, &[("range", range)], "").await;
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(reply.body, &content[start..end]);
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/2400000", end - 1));
        assert_eq!(reply.header("content-length"), (end - start).to_string());
    }
    let outside = bench.call("GET", &path, &[("range", "bytes=2400000-")], "").await;
    assert_eq!((outside.status.as_u16(), outside.header("content-range")), (416, "bytes */2400000"));
    assert_eq!(bench.call("GET", &path, &[("range", "bytes=0-1,5-6")], "").await.status, 200);
    let head = bench.call("HEAD", &path, &[], "").await;
    assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.len()), (200, "2400000", 0));
    let etag = head.header("etag").to_owned();
    let cached = bench.call("GET", &path, &[("if-none-match", &etag)], "").await;
    assert_eq!((cached.status.as_u16(), cached.body.len(), cached.header("etag")), (304, 0, etag.as_str()));
    assert_eq!(bench.call("GET", &path, &[("range", "bytes=0-1"), ("if-range", &etag)], "").await.status, 206);
    assert_eq!(bench.call("GET", &path, &[("range", "bytes=0-1"), ("if-range", "\"other\"")], "").await.status, 200);
}

#[tokio::test]
async fn a_deleted_file_is_unknown() {
    let bench = Bench::new().await;
    let id = bench.upload(b"x").await;
    let deleted = bench.call("DELETE", &format!("/v1/files/{id}"), &[], "").await;
    assert_eq!(stable(&deleted.text()), "{\"id\":\"file-ID\",\"object\":\"file\",\"deleted\":true}");
    for (method, path) in [("DELETE", ""), ("GET", ""), ("GET", "/content"), ("GET", "/cost-estimate")] {
        let reply = bench.call(method, &format!("/v1/files/{id}{path}"), &[], "").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (404, "not_found"));
    }
}

#[tokio::test]
async fn a_file_has_a_cost() {
    let bench = Bench::new().await;
    let row = |model: &str| {
        format!(
            "{{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{{\"model\":\"{model}\",\"max_tokens\":100}}}}\n"
        )
    };
    let text = row("gpt-4o-mini") + "nonsense\n" + &row("gpt-4o-mini") + &row("no-such-model");
    let id = bench.upload(text.as_bytes()).await;
    let estimate = bench.get(&format!("/v1/files/{id}/cost-estimate")).await;
    insta::assert_snapshot!(stable(&serde_json::to_string_pretty(&estimate.json()).unwrap()));
    let other = bench.get(&format!("/v1/files/{id}/cost-estimate?endpoint=/v1/responses")).await.json();
    assert_eq!(other["unusable_rows"], 4);
    let picture = bench.form("/v1/files", &[("purpose", None, b"vision"), ("file", Some("a"), b"x")]).await.id();
    assert_eq!(bench.get(&format!("/v1/files/{picture}/cost-estimate")).await.status, 400);
}

#[tokio::test]
async fn models_are_listed_and_found_by_id_and_alias() {
    let bench = Bench::new().await;
    let list = bench.get("/v1/models").await.json();
    let first = &list["data"][0];
    assert_eq!(first["object"], "model");
    let one = bench.get(&format!("/v1/models/{}", first["id"].as_str().unwrap())).await.json();
    assert_eq!(&one, first);
}
