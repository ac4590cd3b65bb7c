//! Keys that cease to be accepted while requests with them are under way; the scopes of keys; the
//! operator's reach, and what the audit log says of all that.

use futures_util::StreamExt;
use serde_json::json;

use super::*;

const OPERATOR: &str = "operator-of-this-daemon";

struct Keyed {
    bench: Bench,
    org: String,
}

impl Keyed {
    async fn new() -> Self {
        let bench = Bench::with(|api| api.access = Access::keys(&[OPERATOR.into()])).await;
        let keyed = Self { bench, org: String::new() };
        let made = keyed.post(OPERATOR, "/admin/organisations", &json!({ "name": "Acme", "api_key": false })).await.json();
        Self { org: made["org_id"].as_str().unwrap().to_owned(), ..keyed }
    }

    async fn send(&self, key: &str, method: &str, path: &str, body: &str) -> Reply {
        let bearer = format!("Bearer {key}");
        self.bench.call(method, path, &[("authorization", &bearer), ("content-type", "application/json")], body.to_owned()).await
    }

    async fn post(&self, key: &str, path: &str, body: &Value) -> Reply {
        self.send(key, "POST", path, &body.to_string()).await
    }

    /// Makes a key; returns its secret and its id.
    async fn key(&self, wish: Value) -> (String, String) {
        let made = self.post(OPERATOR, &format!("/admin/organisations/{}/keys", self.org), &wish).await.json();
        (made["api_key"].as_str().unwrap().to_owned(), made["api_key_id"].as_str().unwrap().to_owned())
    }

    /// Creates a batch, which does not run; returns its id.
    async fn batch(&self, key: &str) -> String {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=XX")];
        let body = form(&[("purpose", None, b"batch"), ("file", Some("in.jsonl"), b"{}\n")]);
        let file = self.bench.call("POST", "/openai/v1/files", &headers, body).await.id();
        let order = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
        self.post(key, "/openai/v1/batches", &order).await.id()
    }

    /// The lines of the audit log.
    fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.bench._dir.path().join("audit/audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Begins to read an endless answer.
    async fn feed(&self, key: &str, batch: &str) -> axum::body::BodyDataStream {
        let request = Request::get(format!("/phaseo/v1/batches/{batch}/events")).header("authorization", format!("Bearer {key}"));
        let response = router(self.bench.api.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().into_data_stream()
    }
}

#[tokio::test]
async fn what_is_being_sent_ends_with_its_key() {
    let keyed = Keyed::new().await;
    let (revoked, id) = keyed.key(json!({ "dialect": "phaseo" })).await;
    let (expiring, _) = keyed.key(json!({ "dialect": "phaseo", "expires_at": "2026-09-22T00:00:00Z" })).await;
    let (lasting, _) = keyed.key(json!({ "dialect": "phaseo" })).await;
    let batch = keyed.batch(&lasting).await;
    let mut feeds = Vec::new();
    for key in [&revoked, &expiring, &lasting, &OPERATOR.to_owned()] {
        let mut feed = keyed.feed(key, &batch).await;
        assert!(feed.next().await.unwrap().is_ok());
        feeds.push(feed);
    }
    let [mut of_revoked, mut of_expiring, mut of_lasting, mut of_operator] = feeds.try_into().ok().unwrap();
    let is_over = async |feed: &mut axum::body::BodyDataStream| {
        tokio::time::timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = feed.next().await {} }).await.is_ok()
    };

    // An upload that is under way with the key stores nothing.
    let (sender, body) = tokio::sync::mpsc::unbounded_channel::<Result<Bytes, std::io::Error>>();
    let head = form(&[("purpose", None, b"batch")]);
    let start = [&head[..head.len() - 8], b"\r\n--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n{}"].concat();
    sender.send(Ok(start.into())).unwrap();
    let stream = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let headers = [("authorization", format!("Bearer {revoked}")), ("content-type", "multipart/form-data; boundary=XX".to_owned())];
    let request = headers.iter().fold(Request::post("/openai/v1/files"), |request, (name, value)| request.header(*name, value));
    let upload = router(keyed.bench.api.clone()).oneshot(request.body(Body::from_stream(stream)).unwrap());
    let upload = keyed.bench.api.service.tasks.spawn(upload);
    tokio::task::yield_now().await;

    let path = format!("/admin/organisations/{}/keys/{id}", keyed.org);
    assert_eq!(keyed.send(OPERATOR, "DELETE", &path, "").await.status, 200);
    assert!(is_over(&mut of_revoked).await, "the key is revoked");
    let answer = tokio::time::timeout(Duration::from_secs(1), upload).await.unwrap().unwrap().unwrap();
    assert!(answer.status().is_client_error(), "{answer:?}");
    drop(sender);
    assert!(!is_over(&mut of_expiring).await && !is_over(&mut of_lasting).await);

    keyed.bench.pass(86_400);
    assert!(is_over(&mut of_expiring).await, "the key has expired");
    assert!(!is_over(&mut of_lasting).await);

    let keys = keyed.bench.api.access.operator_keys().clone();
    assert_eq!(keys.replace(&["another-of-this-daemon".into()]), Some((1, 1)));
    assert!(is_over(&mut of_operator).await, "the operator's key was replaced");
    assert!(!is_over(&mut of_lasting).await);
    assert_eq!(keyed.send(OPERATOR, "GET", "/v1/batches", "").await.status, 401);
    assert_eq!(keyed.send("another-of-this-daemon", "GET", "/v1/batches", "").await.status, 200);
}

#[tokio::test]
async fn no_key_makes_one_that_is_wider_or_outlives_it() {
    let keyed = Keyed::new().await;
    let path = "/v1/auth/account/api-keys";
    let (plain, _) = keyed.key(json!({ "dialect": "openai" })).await;
    let expires = "2026-09-30T00:00:00Z";
    let (manager, own) = keyed.key(json!({ "dialect": "batchrouter", "scopes": ["read", "manage"], "expires_at": expires })).await;
    let (all, wider) = keyed.key(json!({ "dialect": "batchrouter", "scopes": ["read", "write", "manage"] })).await;
    let mut told = Vec::new();
    for (key, wish) in [
        (&plain, json!({})),
        (&manager, json!({ "scopes": ["write"] })),
        (&manager, json!({ "scopes": ["all"] })),
        (&manager, json!({ "scopes": [] })),
        (&manager, json!({ "expires_at": "2026-10-01T00:00:00Z" })),
    ] {
        let refused = keyed.post(key, path, &wish).await;
        told.push(format!("{wish} {} {}", refused.status.as_u16(), refused.text()));
    }
    told.push(keyed.send(&manager, "DELETE", &format!("{path}/{wider}"), "").await.text());
    told.push(keyed.send(&plain, "DELETE", &format!("{path}/{own}"), "").await.text());
    insta::assert_snapshot!(told.join("\n"));

    let made = keyed.post(&manager, path, &json!({})).await.json();
    assert_eq!(
        (&made["scopes"], &made["expires_at"]),
        (&json!(["read"]), &json!("2026-09-30T00:00:00.000Z")),
        "as narrow and as short-lived"
    );
    let made = keyed.post(&all, path, &json!({ "scopes": ["read", "manage"] })).await.json();
    assert_eq!((&made["scopes"], &made["expires_at"]), (&json!(["read", "manage"]), &Value::Null));
    let made = keyed.post(&all, path, &json!({})).await.json();
    assert_eq!(made["scopes"], json!(["read", "write"]), "a key that makes keys is made on purpose");
    let id = made["api_key_id"].as_str().unwrap();
    assert_eq!(keyed.send(&all, "DELETE", &format!("{path}/{id}"), "").await.status, 200);
}

#[tokio::test]
async fn the_operator_reaches_everything_and_the_audit_log_says_so() {
    let keyed = Keyed::new().await;
    let (client, key_id) = keyed.key(json!({ "dialect": "openai" })).await;
    let batch = keyed.batch(&client).await;
    let listed = keyed.send(OPERATOR, "GET", &format!("/admin/batches?org_id={}", keyed.org), "").await.json();
    assert_eq!((&listed["data"][0]["id"], &listed["data"][0]["org_id"]), (&json!(batch), &json!(keyed.org)));
    for path in ["/admin/batches", "/v1/batches", "/openai/v1/batches", "/batchrouter/v1/batches", "/phaseo/v1/batches"] {
        assert_eq!(keyed.send(OPERATOR, "GET", &format!("{path}/{batch}"), "").await.status, 200, "{path}");
    }
    assert_eq!(keyed.send(OPERATOR, "GET", "/v1/batches", "").await.json()["data"], json!([]), "a list of the operator's own");
    let before = keyed.audit().len();
    for (path, key) in [("/v1/batches", &*client), ("/admin/lanes", OPERATOR), ("/v1/batches", OPERATOR)] {
        assert_eq!(keyed.send(key, "GET", path, "").await.status, 200);
    }
    assert_eq!(keyed.audit().len(), before, "a look at one's own is not recorded");
    assert_eq!(keyed.send(&client, "DELETE", &format!("/v1/batches/{batch}"), "").await.status, 409);
    assert_eq!(keyed.send("unknown", "POST", "/admin/lanes/pause", "{}").await.status, 401);
    assert_eq!(keyed.send(&client, "POST", "/admin/lanes/pause", "{}").await.status, 403);

    let rename = keyed.post(OPERATOR, &format!("/admin/organisations/{}", keyed.org), &json!({ "name": "Acme & Co" })).await;
    assert_eq!(rename.json()["name"], "Acme & Co");
    let lines: Vec<_> = keyed
        .audit()
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            let what = [text("who"), text("what"), text("of_org"), text("made"), text("outcome")].join(" ");
            let hidden = what.replace(&keyed.org, "ORG").replace(&batch, "BATCH").replace(&key_id, "KEY");
            hidden.split(' ').map(|word| if word.starts_with("key_") { "key_…" } else { word }).collect::<Vec<_>>().join(" ")
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
    let last = keyed.audit().pop().unwrap();
    assert!(last["request_id"].as_str().is_some_and(|id| id.starts_with("req_")) && last["at"].is_string(), "{last}");
    let text = std::fs::read_to_string(keyed.bench._dir.path().join("audit/audit.jsonl")).unwrap();
    assert!(!text.contains(OPERATOR) && !text.contains(&client), "no secret is in it");
}

#[tokio::test]
async fn an_organisation_is_closed_for_good() {
    let keyed = Keyed::new().await;
    let (client, _) = keyed.key(json!({ "dialect": "openai" })).await;
    let batch = keyed.batch(&client).await;
    let close = format!("/admin/organisations/{}/close", keyed.org);
    let wrong = [keyed.post(OPERATOR, &close, &json!({})).await, keyed.post(OPERATOR, &close, &json!({ "data": "burn" })).await];
    assert_eq!(wrong.each_ref().map(|reply| reply.status.as_u16()), [400, 400]);
    let own = "/admin/organisations/org_00000000000000000000000000000000/close";
    assert_eq!(keyed.post(OPERATOR, own, &json!({ "data": "keep" })).await.status, 409);
    assert_eq!(keyed.send(&client, "GET", "/v1/batches", "").await.status, 200);

    let closed = keyed.post(OPERATOR, &close, &json!({ "data": "keep" })).await.json();
    assert_eq!((&closed["state"], &closed["erased"]), (&json!("closed"), &json!(false)));
    assert_eq!(keyed.send(&client, "GET", "/v1/batches", "").await.code(), "api_key_revoked");
    let again = keyed.post(OPERATOR, &format!("/admin/organisations/{}/keys", keyed.org), &json!({ "dialect": "openai" })).await;
    assert_eq!(again.status, 409, "{}", again.text());
    assert_eq!(keyed.send(OPERATOR, "GET", &format!("/v1/batches/{batch}"), "").await.status, 200, "the operator can still read it");

    // What was kept may be given up later. The batch is deleted once it has ended.
    let store = &keyed.bench.api.service.store;
    store
        .batch_refused(
            batch.parse().unwrap(),
            crate::domain::batch::BatchState::Failed { at: keyed.bench.api.service.clock.now() },
            Vec::new(),
        )
        .await
        .unwrap();
    assert_eq!(keyed.post(OPERATOR, &close, &json!({ "data": "erase" })).await.json()["erased"], true);
    keyed.bench.api.service.wind_up(&std::collections::HashSet::new()).await.unwrap();
    assert_eq!(keyed.send(OPERATOR, "GET", &format!("/v1/batches/{batch}"), "").await.status, 404);
    let org: crate::domain::id::OrgId = keyed.org.parse().unwrap();
    let query = crate::store::FileQuery {
        purpose: None,
        org,
        after: None,
        limit: 10,
        order: Default::default(),
        now: keyed.bench.api.service.clock.now(),
    };
    assert!(store.files(query).await.unwrap().items.is_empty());
    assert!(keyed.bench.api.service.wind_up(&std::collections::HashSet::new()).await.unwrap().is_empty(), "requests may still end");
    keyed.bench.pass(3_600);
    assert_eq!(keyed.bench.api.service.wind_up(&std::collections::HashSet::new()).await.unwrap(), [org]);
}
