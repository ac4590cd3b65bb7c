//! What a client of Phaseo's does: one call to create, then polling.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::http::{Request, Response};
use crate::support::wait::poll;

pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon as a client of Phaseo's sees it.
pub struct Client<'a> {
    pub daemon: &'a Daemon,
    pub key: String,
}

impl<'a> Client<'a> {
    pub fn new(daemon: &'a Daemon) -> Self {
        Self { daemon, key: "phaseo_v1_sk_abcdefghijkl_0123456789".to_owned() }
    }

    pub fn send(&self, request: Request) -> Response {
        self.daemon.send(request.header("authorization", &format!("Bearer {}", self.key)))
    }

    pub fn get(&self, path: &str) -> Response {
        self.send(Request::get(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send(Request::post(path).json(body))
    }

    pub fn create(&self, body: &Value) -> Value {
        self.post("/v1/batches", body).expect(200)
    }

    pub fn batch(&self, id: &str) -> Value {
        self.get(&format!("/v1/batches/{id}")).expect(200)
    }

    /// The batch once it has ended.
    pub fn ended(&self, id: &str) -> Value {
        let terminal = |batch: &Value| matches!(batch["status"].as_str(), Some("completed" | "failed" | "cancelled" | "expired"));
        poll(TIMEOUT, || Some(self.batch(id)).filter(terminal)).unwrap_or_else(|| panic!("not ended: {}", self.batch(id)))
    }

    /// The lines of its results.
    pub fn results(&self, id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/batches/{id}/results"));
        assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/x-ndjson")), "{}", answer.text());
        answer.text().lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }
}

pub fn id(batch: &Value) -> String {
    batch["id"].as_str().expect("an id").to_owned()
}

/// A row of chat.
pub fn row(custom_id: &str, model: &str) -> Value {
    json!({"custom_id": custom_id, "body": {"model": model, "messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 16, "user": custom_id}})
}

/// The same as the line of a file.
pub fn line(custom_id: &str, model: &str) -> Value {
    let mut line = row(custom_id, model);
    line["method"] = json!("POST");
    line["url"] = json!("/v1/chat/completions");
    line
}
