//! The daemon's API as helpers for tests.

use std::io::{self, Read};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::http::{self, BodyReader, Form, Head, Request, Response};
use super::wait;

/// The endpoint of [`Daemon::create`].
pub const CHAT: &str = "/v1/chat/completions";

impl Daemon {
    /// Sends a request; every answer, whatever its status, must carry a request id.
    pub fn send(&self, request: Request) -> Response {
        let response = self.try_send(request).unwrap_or_else(|error| panic!("{error}"));
        assert!(response.header("x-request-id").is_some_and(|id| !id.is_empty()), "no x-request-id in {:?}", response.head);
        response
    }

    /// Sends a request to a daemon that may be killed meanwhile.
    pub fn try_send(&self, request: Request) -> io::Result<Response> {
        http::send(self.addr(), request)
    }

    pub fn get(&self, path: &str) -> Response {
        self.send(Request::get(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send(Request::post(path).json(body))
    }

    pub fn post_empty(&self, path: &str) -> Response {
        self.send(Request::post(path))
    }

    pub fn delete(&self, path: &str) -> Response {
        self.send(Request::new("DELETE", path))
    }

    /// Returns the answer's head, and its body as it arrives.
    pub fn open(&self, request: Request) -> (Head, BodyReader) {
        http::open(self.addr(), request).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Uploads an input file; returns its id.
    pub fn upload(&self, content: impl AsRef<[u8]>) -> String {
        let form = Form::default().field("purpose", "batch").file("file", "input.jsonl", content.as_ref());
        id_of(&self.send(Request::post("/v1/files").form(form)).expect(200))
    }

    /// The body of a create request.
    pub fn batch_request(input: &str, endpoint: &str) -> Value {
        json!({"input_file_id": input, "endpoint": endpoint, "completion_window": "24h"})
    }

    /// Creates a batch of chat rows; returns its id.
    pub fn create(&self, input: &str) -> String {
        id_of(&self.post("/v1/batches", &Self::batch_request(input, CHAT)).expect(200))
    }

    /// Uploads rows and creates a batch of them; returns its id.
    pub fn submit(&self, content: impl AsRef<[u8]>) -> String {
        let input = self.upload(content);
        self.create(&input)
    }

    pub fn batch(&self, id: &str) -> Value {
        self.get(&format!("/v1/batches/{id}")).expect(200)
    }

    /// Waits until `good` holds for the batch, and returns it.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    pub fn wait_for(&self, id: &str, limit: Duration, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = wait::poll(limit, || {
            last = self.batch(id);
            good(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("batch not {what} within {limit:?}: {last}"))
    }

    /// Waits until the batch has ended in any state, and returns it.
    pub fn wait_ended(&self, id: &str, limit: Duration) -> Value {
        self.wait_for(id, limit, "ended", |batch| is_terminal(&batch["status"]))
    }

    /// Uploads, creates and waits for `completed`; returns the batch.
    pub fn complete(&self, content: impl AsRef<[u8]>) -> Value {
        let id = self.submit(content);
        let batch = self.wait_ended(&id, wait::A_WHILE);
        assert_eq!(batch["status"], "completed", "{batch}");
        batch
    }

    /// Uploads, creates and waits for `failed`; returns the batch's problems.
    pub fn refused(&self, content: impl AsRef<[u8]>) -> Vec<Value> {
        let id = self.submit(content);
        let batch = self.wait_ended(&id, wait::A_WHILE);
        assert_eq!(batch["status"], "failed", "{batch}");
        assert_eq!(batch["errors"]["object"], "list");
        assert!(batch["failed_at"].is_i64(), "{batch}");
        assert!(batch["output_file_id"].is_null() && batch["error_file_id"].is_null(), "{batch}");
        batch["errors"]["data"].as_array().expect("errors.data").clone()
    }

    /// The content of a file.
    pub fn content(&self, file: &str) -> Vec<u8> {
        let response = self.get(&format!("/v1/files/{file}/content"));
        assert_eq!(response.status(), 200, "{}", response.text());
        response.body
    }

    /// The rows of the batch's output file; none if the batch has no output file.
    pub fn output(&self, batch: &Value) -> Vec<Line> {
        self.lines_of(batch, "output_file_id")
    }

    /// The rows of the batch's error file; none if the batch has no error file.
    pub fn errors(&self, batch: &Value) -> Vec<Line> {
        self.lines_of(batch, "error_file_id")
    }

    fn lines_of(&self, batch: &Value, field: &str) -> Vec<Line> {
        match batch[field].as_str() {
            Some(file) => lines(&self.content(file)),
            None => vec![],
        }
    }

    /// The results that can be read at present.
    pub fn results(&self, id: &str) -> Vec<u8> {
        let (head, mut body) = self.open(Request::get(&format!("/v1/batches/{id}/results")).header("accept", "application/x-ndjson"));
        assert_eq!(head.status, 200);
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes).expect("the results");
        bytes
    }
}

/// One line of an output or error file.
#[derive(Debug, Clone)]
pub struct Line {
    pub custom_id: String,
    pub value: Value,
    /// The body of the response exactly as it stands in the line.
    pub body: Option<String>,
}

impl Line {
    /// `error.code`, if there is one.
    pub fn error_code(&self) -> Option<&str> {
        self.value["error"]["code"].as_str()
    }

    /// `response.status_code`, if there is one.
    pub fn status(&self) -> Option<u64> {
        self.value["response"]["status_code"].as_u64()
    }
}

/// Reads every line, and checks that each is complete.
pub fn lines(content: &[u8]) -> Vec<Line> {
    #[derive(serde::Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        response: Option<RawResponse<'a>>,
    }
    #[derive(serde::Deserialize)]
    struct RawResponse<'a> {
        #[serde(borrow)]
        body: &'a RawValue,
    }
    assert!(content.is_empty() || content.ends_with(b"\n"), "the last line is not complete");
    let text = std::str::from_utf8(content).expect("UTF-8");
    text.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
            let raw: Raw<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
            let custom_id = value["custom_id"].as_str().expect("custom_id").to_owned();
            assert!(value["id"].as_str().is_some_and(|id| id.starts_with("batch_req_")), "{line}");
            Line { custom_id, value, body: raw.response.map(|response| response.body.get().to_owned()) }
        })
        .collect()
}

/// The custom ids in order.
pub fn ids(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.custom_id.as_str()).collect()
}

/// The `id` of an object.
pub fn id_of(object: &Value) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("no id in {object}")).to_owned()
}

/// Whether the status is final.
pub fn is_terminal(status: &Value) -> bool {
    matches!(status.as_str(), Some("completed" | "failed" | "expired" | "cancelled"))
}

/// `(total, completed, failed)`.
pub fn counts(batch: &Value) -> (u64, u64, u64) {
    let count = |name: &str| batch["request_counts"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {batch}"));
    (count("total"), count("completed"), count("failed"))
}
