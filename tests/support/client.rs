//! A client with a key, of a dialect in which a batch has OpenAI's path and states. Features of a
//! single dialect are with its tests.

use std::time::Duration;

use serde_json::Value;

use super::daemon::Daemon;
use super::http::{Request, Response};
use super::wait::poll;

pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon as a client sees it.
pub struct Client<'a> {
    pub daemon: &'a Daemon,
    pub key: String,
}

impl Client<'_> {
    pub fn send(&self, request: Request) -> Response {
        self.daemon.send(request.header("authorization", &format!("Bearer {}", self.key)))
    }

    pub fn get(&self, path: &str) -> Response {
        self.send(Request::get(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send(Request::post(path).json(body))
    }

    pub fn batch(&self, id: &str) -> Value {
        self.get(&format!("/v1/batches/{id}")).expect(200)
    }

    /// Waits until the batch has ended, and returns it.
    pub fn ended(&self, id: &str) -> Value {
        let terminal = |batch: &Value| matches!(batch["status"].as_str(), Some("completed" | "failed" | "cancelled" | "expired"));
        poll(TIMEOUT, || Some(self.batch(id)).filter(terminal)).unwrap_or_else(|| panic!("not ended: {}", self.batch(id)))
    }
}
