//! The API as clients meet it: the router in process, over a real store in a temporary directory.

mod access;
mod batches;
mod catalog;
mod control;
mod crowd;
mod downloads;
mod errors;
mod feed;
mod files;
mod heads;
mod lanes;
mod leases;
mod leftovers;
mod quotas;
mod quotes;
mod results;
mod sockets;
mod tenants;
mod uploads;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{Access, Accounts, Api, UploadLimits, Views, router};
use crate::catalog::{Catalog, load_embedded};
use crate::descriptors::Descriptors;
use crate::domain::time::{Clock, Timestamp};
use crate::executor::{Handle, Stub};
use crate::service::feed::watcher::Feeds;
use crate::service::quotes::turns::QuoteTurns;
use crate::service::{self, Service};
use crate::store::{Options, Store};

const START: i64 = 1_790_000_000;

/// Routes that only tests have.
pub fn routes() -> Router<Arc<Api>> {
    async fn panics() {
        if std::hint::black_box(true) {
            panic!("on purpose");
        }
    }
    Router::new().route("/test/panic", get(panics))
}

/// The service of an API that no other code shares yet.
fn service(api: &mut Api) -> &mut Service {
    Arc::get_mut(&mut api.service).expect("nobody else has it")
}

/// The API with everything it needs.
struct Bench {
    api: Arc<Api>,
    stub: Stub,
    /// Seconds since 1970.
    time: Arc<AtomicI64>,
    _dir: TempDir,
}

/// Name, file name and content of a field of a form.
type Field<'a> = (&'a str, Option<&'a str>, &'a [u8]);

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    fn id(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["id"].as_str().unwrap().to_owned()
    }
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Api)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { commit_interval: Duration::from_millis(1), ..Options::new(dir.path().to_owned()) };
        let (store, _) = tokio::task::spawn_blocking(|| Store::open(options)).await.unwrap().unwrap();
        let (executor, stub) = Handle::for_tests(store.clone());
        let time = Arc::new(AtomicI64::new(START));
        let read = time.clone();
        let service = Service {
            store,
            catalog: Arc::new(Catalog::for_tests(load_embedded().unwrap().into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false))),
            executor,
            clock: Clock::new(move || Timestamp::from_second(read.load(Ordering::Relaxed)).unwrap()),
            limits: service::ServiceLimits { min_free_bytes: 0, ..service::ServiceLimits::default() },
            turns: QuoteTurns::default(),
            requests: Default::default(),
            key_changes: watch::Sender::default(),
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let descriptors = Descriptors::new(1 << 20, 1_024);
        let mut api = Api {
            service: Arc::new(service),
            limits: UploadLimits::default(),
            descriptors: descriptors.clone(),
            access: Access::open(),
            views: Views::default(),
            public_url: None,
            accounts: Accounts::default(),
            bodies: super::BodyRoom::default(),
            files: super::FilePlaces::new(descriptors),
            read_ahead: super::ReadAhead::default(),
            probe: Arc::new(|_| {
                let (event, error) = ("evt_test".to_owned(), Some("nothing is sent here".to_owned()));
                Box::pin(async { Ok(crate::domain::webhook::endpoint::Probed { event, status: None, preview: None, error }) })
            }),
            feeds: Feeds::new(super::batch_message),
        };
        change(&mut api);
        Self { api: Arc::new(api), stub, time, _dir: dir }
    }

    fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::Relaxed);
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = router(self.api.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], Body::empty()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Sends a form of fields; one with a file name is a file.
    async fn form(&self, path: &str, fields: &[Field<'_>]) -> Reply {
        self.call("POST", path, &[("content-type", "multipart/form-data; boundary=XX")], form(fields)).await
    }

    async fn upload(&self, content: &[u8]) -> String {
        self.form("/v1/files", &[("purpose", None, b"batch"), ("file", Some("in.jsonl"), content)]).await.id()
    }
}

fn form(fields: &[Field<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, filename, content) in fields {
        body.extend_from_slice(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"").as_bytes());
        if let Some(filename) = filename {
            body.extend_from_slice(format!("; filename=\"{filename}\"\r\nContent-Type: application/octet-stream").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XX--\r\n");
    body
}

/// Replaces what differs from run to run.
fn stable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) =
        ["file-", "batch_", "upload_", "part_"].iter().filter_map(|prefix| rest.find(prefix).map(|i| i + prefix.len())).min()
    {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        let is_id = tail.len() >= 26 && tail.bytes().take(26).all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        if is_id && !tail.starts_with("0000000000000000000") {
            out.push_str("ID");
            rest = &tail[26..];
        } else {
            rest = tail;
        }
    }
    out + rest
}
