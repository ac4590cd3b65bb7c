//! A client of the HTTP API, for the commands that talk to a daemon.
//!
//! Small on purpose: one request at a time over plain HTTP, answers as JSON or text. It knows the
//! OpenAI dialect and the paths for operators, and nothing of how the daemon works.

mod keys;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer that is read into memory, in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} answered {status}: {message}")]
    Refused { url: String, status: u16, message: String },
    #[error("{url} did not answer with what the API documents: {reason}")]
    Unexpected { url: String, reason: String },
}

/// A client of the daemon at an address.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    key: Option<SecretString>,
    http: HyperClient<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client of the daemon whose API is at `base`, such as `http://127.0.0.1:7400/v1`.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into(), key: None, http: HyperClient::builder(TokioExecutor::new()).build_http() }
    }

    /// The same client with the key that the daemon requires.
    #[must_use]
    pub fn with_key(self, key: Option<SecretString>) -> Self {
        Self { key, ..self }
    }

    /// Uploads `content` for a batch and returns the file's id.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn upload(&self, filename: &str, content: &str) -> Result<String, ClientError> {
        const BOUNDARY: &str = "batchd-form-8c1b7d0e5f";
        let body = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
             --{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\r\n{content}\r\n--{BOUNDARY}--\r\n"
        );
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let file = self.json("POST", "/files", Some((kind, body))).await?;
        self.text_field(&file, "id")
    }

    /// Creates a batch and returns its id.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn create_batch(&self, input_file: &str, endpoint: &str) -> Result<String, ClientError> {
        let body = json!({ "input_file_id": input_file, "endpoint": endpoint, "completion_window": "24h" });
        let batch = self.send("/batches", &body).await?;
        self.text_field(&batch, "id")
    }

    /// Changes how a batch runs; returns the batch object.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn change_batch(&self, id: &str, change: &Value) -> Result<Value, ClientError> {
        self.send(&format!("/batches/{id}"), change).await
    }

    /// Deletes a batch that has ended; returns the daemon's answer.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn delete_batch(&self, id: &str) -> Result<Value, ClientError> {
        self.json("DELETE", &format!("/batches/{id}"), None).await
    }

    /// Returns the state of the lanes, and the holds on them.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn lanes(&self) -> Result<Value, ClientError> {
        self.at_root().json("GET", "/admin/lanes", None).await
    }

    /// Pauses, resumes or drains (`action`) lanes; returns those lanes, the holds on them, and a
    /// message.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn hold_lane(&self, action: &str, lane: &str) -> Result<Value, ClientError> {
        self.at_root().send(&format!("/admin/lanes/{action}"), &json!({ "lane": lane })).await
    }

    /// Makes or renews a backup in a folder of the daemon's machine; returns what it holds.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn back_up(&self, target: &str) -> Result<Value, ClientError> {
        self.at_root().send("/admin/store/backup", &json!({ "target": target })).await
    }

    /// The same client for the operator's paths, which stand beside the version, not below it.
    fn at_root(&self) -> Self {
        Self { base: self.base.strip_suffix("/v1").unwrap_or(&self.base).to_owned(), ..self.clone() }
    }

    /// Returns the batch object.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn batch(&self, id: &str) -> Result<Value, ClientError> {
        self.json("GET", &format!("/batches/{id}"), None).await
    }

    /// Returns the ids of the models that can be used.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn models(&self) -> Result<Vec<String>, ClientError> {
        let list = self.json("GET", "/models", None).await?;
        let models = list["data"].as_array().into_iter().flatten();
        Ok(models.filter_map(|model| model["id"].as_str().map(String::from)).collect())
    }

    /// Returns the content of a file.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn content(&self, file: &str) -> Result<Bytes, ClientError> {
        self.call("GET", &format!("/files/{file}/content"), None).await
    }

    fn text_field(&self, object: &Value, field: &str) -> Result<String, ClientError> {
        let missing = || ClientError::Unexpected { url: self.base.clone(), reason: format!("no `{field}`") };
        object[field].as_str().map(String::from).ok_or_else(missing)
    }

    async fn send(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json("POST", path, Some(("application/json".to_owned(), body.to_string()))).await
    }

    async fn json(&self, method: &str, path: &str, body: Option<(String, String)>) -> Result<Value, ClientError> {
        let answer = self.call(method, path, body).await?;
        let url = format!("{}{path}", self.base);
        serde_json::from_slice(&answer).map_err(|error| ClientError::Unexpected { url, reason: error.to_string() })
    }

    async fn call(&self, method: &str, path: &str, body: Option<(String, String)>) -> Result<Bytes, ClientError> {
        let url = format!("{}{path}", self.base);
        let unreachable = |reason: String| ClientError::Unreachable { url: url.clone(), reason };
        let mut request = http::Request::builder().method(method).uri(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {}", key.expose_secret()));
        }
        let mut content = String::new();
        if let Some((kind, text)) = body {
            request = request.header("content-type", kind);
            content = text;
        }
        let request = request.body(Full::new(Bytes::from(content))).map_err(|error| unreachable(error.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| unreachable(chain(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let error: Value = serde_json::from_slice(&body).unwrap_or_default();
            let message = error["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
            Err(ClientError::Refused { url: url.clone(), status: status.as_u16(), message })
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }
}

/// Formats an error with its whole chain of causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
