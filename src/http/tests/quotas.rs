//! Quotas as operators set them and clients meet them, in every dialect.

use serde_json::json;

use super::*;

const OPERATOR: &str = "operator-of-this-daemon";

/// An organisation with its keys.
struct Tenant {
    bench: Bench,
    org: String,
    /// The id of the key and the key.
    key: (String, String),
    other_key: String,
}

impl Tenant {
    async fn new() -> Self {
        let bench = Bench::with(|api| api.access = Access::keys(&[OPERATOR.into()])).await;
        let made = ask(&bench, OPERATOR, "POST", "/admin/organisations", Some(json!({ "name": "Acme" }))).await.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let org = text(&made["org_id"]);
        let keys = format!("/admin/organisations/{org}/keys");
        let key = ask(&bench, OPERATOR, "POST", &keys, Some(json!({ "dialect": "openai" }))).await.json();
        Self { org, key: (text(&key["api_key_id"]), text(&key["api_key"])), other_key: text(&made["api_key"]), bench }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        ask(&self.bench, &self.key.1, method, path, body).await
    }

    async fn operator(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        ask(&self.bench, OPERATOR, method, path, body).await
    }

    async fn set(&self, quotas: Value) -> Value {
        let set = self.operator("POST", &format!("/admin/organisations/{}/quotas", self.org), Some(quotas)).await;
        assert_eq!(set.status, 200, "{}", set.text());
        set.json()["quotas"].clone()
    }

    async fn used(&self) -> Value {
        self.ask("GET", "/v1/auth/account/quotas", None).await.json()
    }

    async fn upload(&self, bytes: usize) -> Reply {
        let line = json!({ "custom_id": "x".repeat(bytes), "method": "POST", "url": "/v1/chat/completions",
            "body": { "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "x" }], "max_tokens": 5 } });
        let body = form(&[("purpose", None, b"batch"), ("file", Some("in.jsonl"), line.to_string().as_bytes())]);
        let bearer = format!("Bearer {}", self.key.1);
        let headers = [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=XX")];
        self.bench.call("POST", "/v1/files", &headers, body).await
    }
}

async fn ask(bench: &Bench, key: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
    let (bearer, once) = (format!("Bearer {key}"), format!("once-{:020}", fastrand::u64(..)));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", once.as_str())];
    bench.call(method, path, &headers, body.map(|body| body.to_string()).unwrap_or_default()).await
}

/// Checks that an answer refuses for want of room in this quota.
fn refuses(reply: &Reply, status: u16, code: &str, limit: &str) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{text}");
    assert!(text.contains(&format!("`{limit}`")) && text.contains(code), "{text}");
    let hint = if limit == "requests_per_minute" || status == 402 { "" } else { "false" };
    assert_eq!(reply.header("x-should-retry"), hint, "client libraries wait seconds, not minutes");
    assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{:?}", reply.headers);
}

#[tokio::test]
async fn there_is_no_quota_until_the_operator_sets_one() {
    let tenant = Tenant::new().await;
    let used = tenant.used().await;
    for (limit, quota) in used["organisation"].as_object().unwrap() {
        assert_eq!(quota["limit"], Value::Null, "{limit}");
    }
    assert_eq!(used["api_key"], json!({ "requests_per_minute": { "limit": null, "used": null } }));
    let shown = tenant.set(json!({ "usd_per_day": "2.50", "stored_bytes": 0, "rows_queued": 7 })).await;
    assert_eq!(shown["usd_per_day"], json!({ "limit": "2.500000", "used": "0.00" }));
    refuses(&tenant.upload(1).await, 429, "quota_exceeded", "stored_bytes");
    let shown = tenant.set(json!({ "stored_bytes": null })).await;
    assert_eq!((&shown["stored_bytes"]["limit"], &shown["rows_queued"]["limit"]), (&Value::Null, &json!(7)));
    assert_eq!(tenant.upload(1).await.status, 200);
    assert_eq!(tenant.used().await["organisation"]["usd_per_day"]["limit"], "2.500000");

    let path = format!("/admin/organisations/{}/quotas", tenant.org);
    for (wrong, message) in [
        (json!({}), "name at least one quota"),
        (json!({ "stored_bytes": -1 }), "`stored_bytes` must not be negative"),
        (json!({ "stored_bytes": "1" }), "`stored_bytes` must be a whole number"),
        (json!({ "usd_per_day": -1 }), "`usd_per_day` must be an amount of US dollars"),
        (json!({ "batches": 1 }), "`batches` is not a field of this call"),
    ] {
        let refused = tenant.operator("POST", &path, Some(wrong)).await;
        assert!(refused.status == 400 && refused.text().contains(message), "{}", refused.text());
    }
    let own = format!("/admin/organisations/{}/quotas", crate::domain::id::OrgId::OPERATOR.in_hex());
    let refused = tenant.operator("POST", &own, Some(json!({ "rows_queued": 1 }))).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert_eq!(tenant.ask("POST", &path, Some(json!({ "rows_queued": null }))).await.status, 403);
}

#[tokio::test]
async fn requests_count_for_the_key_and_for_the_organisation() {
    let tenant = Tenant::new().await;
    let of_key = format!("/admin/organisations/{}/keys/{}/quotas", tenant.org, tenant.key.0);
    let set = tenant.operator("POST", &of_key, Some(json!({ "requests_per_minute": 3 }))).await;
    assert_eq!(set.status, 200, "{}", set.text());
    for _ in 0..3 {
        assert_eq!(tenant.ask("GET", "/v1/batches", None).await.status, 200);
    }
    for path in ["/v1/batches", "/batchrouter/v1/batches", "/phaseo/v1/batches", "/v1/auth/account/quotas"] {
        let refused = tenant.ask("GET", path, None).await;
        refuses(&refused, 429, "quota_exceeded", "requests_per_minute");
        assert!(refused.text().contains("of the API key"), "{}", refused.text());
        assert_eq!(refused.header("retry-after"), "61");
    }
    let shown = tenant.operator("GET", &of_key, None).await.json();
    assert_eq!(shown["quotas"]["requests_per_minute"], json!({ "limit": 3, "used": 3 }));
    assert_eq!(ask(&tenant.bench, &tenant.other_key, "GET", "/v1/batches", None).await.status, 200, "another key has its own");
    tenant.bench.pass(61);
    assert_eq!(tenant.ask("GET", "/v1/batches", None).await.status, 200);

    tenant.set(json!({ "requests_per_minute": 1 })).await;
    assert_eq!(ask(&tenant.bench, &tenant.other_key, "GET", "/v1/batches", None).await.status, 200);
    let refused = tenant.ask("GET", "/v1/batches", None).await;
    refuses(&refused, 429, "quota_exceeded", "requests_per_minute");
    assert!(refused.text().contains("of the organisation"), "{}", refused.text());
    assert_eq!(tenant.operator("GET", "/v1/batches", None).await.status, 200, "the operator's own keys have no quotas");
}

#[tokio::test]
async fn every_way_to_make_a_batch_asks_the_quotas() {
    let tenant = Tenant::new().await;
    let file = tenant.upload(1).await.json()["id"].as_str().unwrap().to_owned();
    let row = json!({ "custom_id": "a", "method": "POST", "url": "/v1/responses",
        "body": { "model": "gpt-4o-mini", "input": "x", "max_output_tokens": 5 } });
    let items = json!({ "items": [{ "customer_item_id": "a", "operation": "responses", "model": "gpt-4o-mini",
        "input": { "messages": [{ "role": "user", "content": "x" }], "max_output_tokens": 5 } }] });
    let creates = [
        ("/openai/v1/batches", json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" })),
        ("/batchrouter/v1/batches", items),
        ("/phaseo/v1/batches", json!({ "requests": [row], "endpoint": "/v1/responses" })),
    ];
    for (limit, amount) in [
        ("batches_at_a_time", json!(0)),
        ("rows_queued", json!(0)),
        ("stored_bytes", json!(1)),
        ("usd_per_day", json!("0")),
        ("usd_per_month", json!("0")),
        ("tokens_per_day", json!(0)),
        ("tokens_per_month", json!(0)),
    ] {
        tenant.set(json!({ limit: amount })).await;
        let (status, code) = if limit.starts_with("usd") { (402, "spending_quota_exceeded") } else { (429, "quota_exceeded") };
        let before = tenant.used().await["organisation"]["stored_bytes"].clone();
        for (path, body) in &creates {
            refuses(&tenant.ask("POST", path, Some(body.clone())).await, status, code, limit);
        }
        assert_eq!(tenant.used().await["organisation"]["stored_bytes"], before, "nothing is left of a refused create");
        tenant.set(json!({ limit: null })).await;
    }
    for (path, body) in &creates {
        let made = tenant.ask("POST", path, Some(body.clone())).await;
        assert!(made.status.is_success(), "{path}: {}", made.text());
    }
    let used = tenant.used().await["organisation"].clone();
    assert_eq!(used["batches_at_a_time"]["used"], 3, "{used}");
    assert!(used["rows_queued"]["used"].as_u64().unwrap() >= 1, "{used}");
    assert!(used["stored_bytes"]["used"].as_u64().unwrap() > 1_000, "{used}");
}
