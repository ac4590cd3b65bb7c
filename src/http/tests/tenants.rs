//! Who reaches what: every route with every kind of object, for every kind of caller. The routes come
//! from the tables, so that a new one cannot be forgotten.
//!
//! What is another organisation's answers exactly as what does not exist.

use axum::http::Method;
use serde_json::json;

use super::super::router::every;
use super::*;
use crate::domain::id::{BatchId, FileId};
use crate::http::access_class::AccessClass;

const OPERATOR: &str = "operator-of-this-daemon";

/// An organisation with a key of every kind, and something of every kind.
struct Tenant {
    /// Keys by what they are.
    keys: Vec<(&'static str, String)>,
    /// Ids by the name that they have in paths, each of one or several dialects.
    objects: Vec<(&'static str, String)>,
}

impl Tenant {
    fn key(&self, kind: &str) -> &str {
        &self.keys.iter().find(|(known, _)| *known == kind).unwrap_or_else(|| panic!("{kind}")).1
    }
}

/// The API with its router, which is built once.
struct Matrix {
    _bench: Bench,
    router: Router,
    time: Arc<AtomicI64>,
}

/// What a caller sees of an answer, without what differs from answer to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    /// The same with other words for these ids.
    fn without(&self, ids: &[String]) -> Self {
        let forms: Vec<_> = ids.iter().flat_map(|id| forms(id)).collect();
        let hide = |text: &str| forms.iter().fold(text.to_owned(), |text, id| text.replace(id.as_str(), "ID"));
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), hide(value))).collect();
        Self { status: self.status, headers, body: hide(&self.body) }
    }
}

/// Phaseo's errors have the id of the request in their body.
fn without_request_ids(text: &str) -> String {
    let mut parts = text.split("G-01");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "REQUEST" + part.get(24..).unwrap_or(part))
}

/// An id in every form that an answer may have it in.
fn forms(id: &str) -> Vec<String> {
    let mut forms = vec![id.to_owned()];
    forms.extend(id.parse::<BatchId>().iter().flat_map(|id| [id.to_string(), id.in_hex(), id.in_upper()]));
    forms.extend(id.parse::<FileId>().iter().flat_map(|id| [id.to_string(), id.in_hex(), id.in_upper()]));
    forms
}

impl Matrix {
    async fn new() -> Self {
        let bench = Bench::with(|api| api.access = Access::keys(&[OPERATOR.into()])).await;
        Self { router: router(bench.api.clone()), time: bench.time.clone(), _bench: bench }
    }

    async fn send(&self, key: Option<&str>, request: http::request::Builder, body: impl Into<Body>) -> Seen {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let request = bearer.iter().fold(request, |request, bearer| request.header("authorization", bearer));
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        // A feed does not end by itself.
        let body = match header("content-type").starts_with("text/event-stream") {
            true => Bytes::new(),
            false => axum::body::to_bytes(body, 64 << 20).await.unwrap(),
        };
        let body = without_request_ids(&String::from_utf8_lossy(&body));
        let names = parts.headers.keys().map(|name| name.as_str()).filter(|name| *name != "x-request-id");
        Seen { status: parts.status, headers: names.map(|name| (name.to_owned(), header(name))).collect(), body }
    }

    async fn ask(&self, key: Option<&str>, method: &str, path: &str, body: &str) -> Seen {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.header("idempotency-key", format!("once-{:020}", fastrand::u64(..)));
        let request = match path.ends_with("/ws") {
            true => ["connection:upgrade", "upgrade:websocket", "sec-websocket-version:13", "sec-websocket-key:dGhlIHNhbXBsZSBub25jZQ=="]
                .iter()
                .filter_map(|header| header.split_once(':'))
                .fold(request, |request, (name, value)| request.header(name, value)),
            false => request,
        };
        self.send(key, request, body.to_owned()).await
    }

    async fn made(&self, key: &str, path: &str, body: Value) -> Value {
        json_of(path, &self.ask(Some(key), "POST", path, &body.to_string()).await)
    }

    async fn upload(&self, key: &str, path: &str) -> String {
        let line = json!({ "custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": { "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "x" }], "max_tokens": 5 } });
        let body = form(&[("purpose", None, b"batch"), ("file", Some("in.jsonl"), line.to_string().as_bytes())]);
        let request = Request::builder().method("POST").uri(path).header("content-type", "multipart/form-data; boundary=XX");
        text(&json_of(path, &self.send(Some(key), request, body).await)["id"])
    }
}

fn json_of(path: &str, seen: &Seen) -> Value {
    assert!(seen.status.is_success(), "{path}: {}", seen.body);
    serde_json::from_str(&seen.body).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

async fn tenant(api: &Matrix, name: &str) -> Tenant {
    let org = text(&api.made(OPERATOR, "/admin/organisations", json!({ "name": name, "api_key": false })).await["org_id"]);
    let mut tenant = Tenant { keys: Vec::new(), objects: Vec::new() };
    let all = json!(["read", "write", "manage"]);
    for (kind, wish) in [
        ("openai", json!({ "dialect": "openai", "scopes": all })),
        ("phaseo", json!({ "dialect": "phaseo", "scopes": all })),
        ("batchrouter", json!({ "dialect": "batchrouter", "scopes": all })),
        ("management", json!({ "dialect": "phaseo", "management": true })),
        ("reader", json!({ "dialect": "openai", "scopes": ["read"] })),
        ("expired", json!({ "dialect": "openai", "scopes": all, "expires_at": "2026-09-22T00:00:00Z" })),
        ("revoked", json!({ "dialect": "openai", "scopes": all })),
    ] {
        let key = api.made(OPERATOR, &format!("/admin/organisations/{org}/keys"), wish).await;
        let id = text(&key["api_key_id"]);
        match kind {
            "revoked" => {
                let path = format!("/admin/organisations/{org}/keys/{id}");
                assert_eq!(api.ask(Some(OPERATOR), "DELETE", &path, "").await.status, 200);
            }
            "reader" => tenant.objects.push(("api_key_id", id)),
            _ => {}
        }
        tenant.keys.push((kind, text(&key["api_key"])));
    }
    tenant.objects.push(("org_id", org));
    add_objects(api, &mut tenant).await;
    tenant
}

/// Makes something of every kind, in every dialect.
async fn add_objects(api: &Matrix, tenant: &mut Tenant) {
    let [openai, phaseo, batchrouter, management] =
        ["openai", "phaseo", "batchrouter", "management"].map(|kind| tenant.key(kind).to_owned());
    let file = api.upload(&openai, "/openai/v1/files").await;
    let phaseo_file = api.upload(&phaseo, "/phaseo/v1/batches/files").await;
    let order = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h" });
    let batch = text(&api.made(&openai, "/openai/v1/batches", order).await["id"]);
    let items = json!({ "items": [{ "customer_item_id": "a", "operation": "responses", "model": "gpt-4o-mini",
        "input": { "messages": [{ "role": "user", "content": "x" }], "max_output_tokens": 5 } }] });
    let quote = text(&api.made(&batchrouter, "/batchrouter/v1/quotes/model", items.clone()).await["quote_id"]);
    let quoted = api.made(&batchrouter, "/batchrouter/v1/batches", items).await;
    let row = json!({ "custom_id": "a", "method": "POST", "url": "/v1/responses",
        "body": { "model": "gpt-4o-mini", "input": "x", "max_output_tokens": 5 } });
    let inline = text(&api.made(&phaseo, "/phaseo/v1/batches", json!({ "requests": [row], "endpoint": "/v1/responses" })).await["id"]);
    let receiver = api.made(&management, "/phaseo/v1/webhook-endpoints", json!({ "url": "https://example.com/hook" })).await;
    let upload = json!({ "filename": "a.jsonl", "purpose": "batch", "bytes": 5, "mime_type": "application/jsonl" });
    let upload = text(&api.made(&openai, "/openai/v1/uploads", upload).await["id"]);
    tenant.objects.extend([
        ("file_id", file),
        ("file_id", phaseo_file),
        ("batch_id", batch),
        ("batch_id", text(&quoted["batch"]["id"])),
        ("batch_id", inline.clone()),
        ("id", inline),
        ("quote_id", quote),
        ("endpoint_id", text(&receiver["id"])),
        ("upload_id", upload),
    ]);
}

/// Something to ask: a method of a route, and the ids of the objects that it names.
#[derive(Debug, Clone)]
struct Question {
    class: AccessClass,
    method: &'static str,
    path: String,
    body: String,
    ids: Vec<String>,
}

impl Question {
    /// The same of things that do not exist.
    fn of_nothing(&self) -> Self {
        let mut asked = self.clone();
        for id in &mut asked.ids {
            let end = if id.ends_with('0') { '1' } else { '0' };
            let other = format!("{}{end}", &id[..id.len() - 1]);
            (asked.path, asked.body) = (asked.path.replace(id.as_str(), &other), asked.body.replace(id.as_str(), &other));
            *id = other;
        }
        asked
    }

    fn names_in_body_alone(&self) -> bool {
        self.ids.iter().all(|id| !self.path.contains(id.as_str()))
    }

    async fn ask(&self, api: &Matrix, key: Option<&str>) -> Seen {
        api.ask(key, self.method, &self.path, &self.body).await.without(&self.ids)
    }
}

/// Bodies that name objects, and some that do not.
const BODIES: [&str; 8] = [
    "",
    "{}",
    r#"{"paused":true}"#,
    r#"{"name":"mine now"}"#,
    r#"{"input_file_id":"{file_id}","endpoint":"/v1/chat/completions","completion_window":"24h"}"#,
    r#"{"input_file_id":"{file_id}"}"#,
    r#"{"quote_id":"{quote_id}","items":[{"customer_item_id":"a","operation":"responses","model":"gpt-4o-mini","input":{"messages":[{"role":"user","content":"x"}],"max_output_tokens":5}}]}"#,
    r#"{"requests":[{"custom_id":"a","method":"POST","url":"/v1/responses","body":{"model":"gpt-4o-mini","input":"x"}}],"endpoint":"/v1/responses","webhook":{"endpoint_id":"{endpoint_id}"}}"#,
];

/// Each way to fill the parameters of a text with objects.
fn filled(template: &str, objects: &[(&'static str, String)]) -> Vec<(String, Vec<String>)> {
    let constant = [("kind", "batch".to_owned()), ("slug", "x".to_owned()), ("*model", "gpt-4o-mini".to_owned())];
    let mut filled = vec![(template.to_owned(), Vec::new())];
    for (name, value) in constant {
        filled.iter_mut().for_each(|(text, _)| *text = text.replace(&format!("{{{name}}}"), &value));
    }
    let mut names: Vec<_> = objects.iter().map(|(name, _)| *name).collect();
    names.dedup();
    for name in names {
        let place = format!("{{{name}}}");
        if filled.iter().all(|(text, _)| !text.contains(&place)) {
            continue;
        }
        let ids: Vec<_> = objects.iter().filter(|(known, _)| *known == name).map(|(_, id)| id).collect();
        let with = |(text, before): &(String, Vec<String>), id: &String| {
            (text.replace(&place, id), [before.as_slice(), std::slice::from_ref(id)].concat())
        };
        filled = filled.iter().flat_map(|one| ids.iter().map(move |id| with(one, id))).collect();
    }
    filled
}

/// Every question about these objects that the routes let one ask.
fn questions(objects: &[(&'static str, String)]) -> Vec<Question> {
    let mut questions = Vec::new();
    for (template, route) in every() {
        for method in route.methods {
            let is_safe = matches!(*method, "GET" | "OPTIONS");
            let bodies = if is_safe || *method == "DELETE" { &BODIES[..1] } else { &BODIES };
            for (path, ids) in filled(&template, objects) {
                assert!(!path.contains('{'), "{path}: the matrix has no object for it");
                for (body, more) in bodies.iter().flat_map(|body| filled(body, objects)) {
                    let (path, ids) = (path.clone(), [ids.as_slice(), &more].concat());
                    questions.push(Question { class: route.access, method, path, body, ids });
                }
            }
        }
    }
    questions
}

/// What an organisation sees of all that it has.
async fn own(api: &Matrix, tenant: &Tenant) -> Vec<(Question, Seen)> {
    let mut seen = Vec::new();
    for question in questions(&tenant.objects).into_iter().filter(|question| question.method == "GET" && !question.ids.is_empty()) {
        let kind = match question.class {
            AccessClass::Operator => continue,
            AccessClass::Management => "management",
            _ => "openai",
        };
        let answer = question.ask(api, Some(tenant.key(kind))).await;
        seen.push((question, answer));
    }
    seen
}

#[tokio::test]
async fn nobody_reaches_what_is_of_others_or_learns_that_it_exists() {
    let api = Matrix::new().await;
    let (own_org, other) = (tenant(&api, "Own").await, tenant(&api, "Other").await);
    let before = own(&api, &own_org).await;
    for (name, id) in &own_org.objects {
        let is_there = |(question, seen): &(Question, Seen)| question.ids.contains(id) && seen.status == 200;
        assert!(matches!(*name, "org_id" | "api_key_id") || before.iter().any(is_there), "{name} {id} is not there");
    }
    for (question, seen) in &before {
        for kind in ["phaseo", "batchrouter", "reader"].iter().filter(|_| question.class != AccessClass::Management) {
            let as_kind = question.ask(&api, Some(own_org.key(kind))).await;
            assert_eq!(as_kind.status, seen.status, "{kind}: {question:?} {as_kind:?}");
        }
        if question.class != AccessClass::Management {
            let as_operator = question.ask(&api, Some(OPERATOR)).await;
            let reaches = !question.path.contains("/quotes/") && !question.path.contains("/uploads/");
            assert_eq!(as_operator.status == seen.status, reaches || seen.status == 404, "{question:?} {as_operator:?}");
        }
    }

    let mut asked = 0;
    for question in questions(&own_org.objects) {
        let opens_without_a_key = matches!(question.class, AccessClass::Open | AccessClass::Public);
        for kind in ["openai", "phaseo", "batchrouter", "management", "reader"] {
            let key = Some(other.key(kind));
            let seen = question.ask(&api, key).await;
            assert!(question.class != AccessClass::Operator || matches!(seen.status.as_u16(), 401 | 403), "{kind}: {question:?} {seen:?}");
            if !question.ids.is_empty() {
                let of_nothing = question.of_nothing().ask(&api, key).await;
                // A member of a body that the route does not know says nothing.
                let ignores_it = seen.status.is_success() && of_nothing.status == seen.status && question.names_in_body_alone();
                assert!(ignores_it || !seen.status.is_success() || opens_without_a_key, "{kind} reaches it: {question:?} {seen:?}");
                assert!(ignores_it || seen == of_nothing, "{kind} can tell that it exists: {question:?} {seen:?} {of_nothing:?}");
            }
            asked += 1;
        }
        if opens_without_a_key {
            continue;
        }
        for key in [None, Some(own_org.key("revoked"))] {
            let seen = question.ask(&api, key).await;
            let expected = if question.path.ends_with("/ws") && question.method != "GET" { 405 } else { 401 };
            assert_eq!(seen.status, expected, "{question:?}");
        }
        if question.class != AccessClass::Operator && Method::from_bytes(question.method.as_bytes()).is_ok_and(|method| !method.is_safe()) {
            let seen = question.ask(&api, Some(own_org.key("reader"))).await;
            assert!(matches!(seen.status.as_u16(), 401 | 403), "a key that reads changes something: {question:?} {seen:?}");
        }
    }
    assert!(asked > 1_000, "{asked}");
    let after = own(&api, &own_org).await;
    for ((question, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!(before, after, "somebody has changed it: {question:?}");
    }

    let key = own_org.key("expired");
    let read =
        before.iter().find(|(question, seen)| question.class == AccessClass::Key && seen.status == 200).map(|(question, _)| question);
    let read = read.expect("something that can be read");
    assert_eq!(read.ask(&api, Some(key)).await.status, 200);
    api.time.fetch_add(3 * 86_400, Ordering::Relaxed);
    for question in questions(&own_org.objects) {
        if !matches!(question.class, AccessClass::Open | AccessClass::Public) {
            assert_eq!(question.ask(&api, Some(key)).await.status, 401, "{question:?}");
        }
    }
}
