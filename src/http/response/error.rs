//! Errors as clients see them: one table from the stable codes to status and `type`, and OpenAI's
//! envelope, `{"error": {"message", "type", "param", "code"}}`.
//!
//! Internal causes go to the log, within the span of the request and so under its id; the client
//! gets a stable code and a sentence that says what to do.

use std::fmt::Display;

use axum::Json;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::domain::dialect::Dialect;
use crate::domain::error::Code;
use crate::domain::id::IdError;
use crate::domain::org::quotas::{Exceeded, Limit};
use crate::executor::Gone;
use crate::service::{RetryError, ServiceError};
use crate::store::error::StoreError;

/// The header `Idempotency-Key`, for messages.
pub const KEY: &str = "Idempotency-Key";
/// Seconds after which a client may try again when the daemon is stopping or its store has failed.
const RETRY_SECONDS: u64 = 10;
/// Tells the official client libraries whether to retry; without it they retry on 409 and from 500
/// on.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error on its way to the client.
#[derive(Debug)]
pub struct ApiError {
    code: Code,
    message: String,
    /// The field, parameter or header that is at fault.
    param: Option<String>,
    /// An additional header for the status. Boxed, because errors travel in every `Result`.
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

/// The table: each code's status and OpenAI's `type`.
const fn row(code: Code) -> (StatusCode, &'static str) {
    const CLIENT: &str = "invalid_request_error";
    const SERVER: &str = "server_error";
    match code {
        Code::InvalidValue
        | Code::MissingParameter
        | Code::UnknownParameter
        | Code::InvalidJson
        | Code::InvalidMultipart
        | Code::IncompleteBody
        | Code::ChecksumMismatch
        | Code::MissingIdempotencyKey => (StatusCode::BAD_REQUEST, CLIENT),
        Code::InsufficientCredits | Code::SpendingQuotaExceeded => (StatusCode::PAYMENT_REQUIRED, CLIENT),
        Code::QuotaExceeded => (StatusCode::TOO_MANY_REQUESTS, CLIENT),
        Code::MissingApiKey | Code::InvalidApiKey | Code::ApiKeyExpired | Code::ApiKeyRevoked | Code::ApiKeyKind => {
            (StatusCode::UNAUTHORIZED, CLIENT)
        }
        Code::OriginNotAllowed | Code::Forbidden | Code::InsufficientScope => (StatusCode::FORBIDDEN, CLIENT),
        Code::UnknownRoute | Code::NotFound | Code::ModelNotFound | Code::ResultsExpired | Code::QuoteNotFound => {
            (StatusCode::NOT_FOUND, CLIENT)
        }
        Code::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, CLIENT),
        Code::Conflict
        | Code::IdempotencyMismatch
        | Code::QuoteExpired
        | Code::QuoteUsed
        | Code::QuoteMismatch
        | Code::BatchTerminal
        | Code::ResultsNotReady => (StatusCode::CONFLICT, CLIENT),
        Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, CLIENT),
        Code::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, CLIENT),
        Code::CatalogInvalid => (StatusCode::UNPROCESSABLE_ENTITY, CLIENT),
        Code::RangeNotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, CLIENT),
        Code::Internal | Code::FileDamaged => (StatusCode::INTERNAL_SERVER_ERROR, SERVER),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, SERVER),
        Code::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, SERVER),
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl ApiError {
    /// An error with a sentence for the client.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, header: None }
    }

    /// A field, parameter or header with an illegal value.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidValue, message).param(param)
    }

    /// A required field that is absent.
    pub fn missing(param: &str, what: &str) -> Self {
        Self::new(Code::MissingParameter, format!("`{param}` is missing; {what}")).param(param)
    }

    /// An error for an id that no object has.
    pub fn not_found(kind: &str, id: impl Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {kind} `{id}`"))
    }

    /// An error for the deletion of a batch that has not ended.
    pub fn not_ended(state: &str) -> Self {
        Self::new(Code::Conflict, format!("the batch is {state}; only one that has ended can be deleted"))
    }

    /// An internal error. `cause` goes to the log and nowhere else.
    pub fn internal(cause: impl Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(Code::Internal, "the request failed inside the daemon; its log has the cause under the `x-request-id` of this response")
    }

    /// An error for a time when the daemon takes no new work.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message).header(RETRY_AFTER, RETRY_SECONDS.into())
    }

    /// An error about a body that is incomplete.
    pub fn incomplete(message: impl Into<String>) -> Self {
        Self::new(Code::IncompleteBody, message)
    }

    /// An error for an API key that is missing or wrong.
    pub fn unauthorized(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, message).header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// An error for a method that the route does not have; `allow` lists the methods that it has.
    pub fn method_not_allowed(message: impl Into<String>, allow: &str) -> Self {
        let error = Self::new(Code::MethodNotAllowed, message);
        match HeaderValue::from_str(allow) {
            Ok(allow) => error.header(ALLOW, allow),
            Err(_) => error,
        }
    }

    /// An error for a range that lies outside a content of `bytes` bytes.
    pub fn range_not_satisfiable(bytes: u64) -> Self {
        let error = Self::new(Code::RangeNotSatisfiable, format!("the range lies outside the content, which has {bytes} bytes"));
        match HeaderValue::from_str(&format!("bytes */{bytes}")) {
            Ok(range) => error.header(CONTENT_RANGE, range),
            Err(_) => error,
        }
    }

    /// Names the field, parameter or header that is at fault.
    #[must_use]
    pub fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some(Box::new((name, value)));
        self
    }

    /// Renders the error with one more field in its envelope.
    pub fn with_details(self, name: &str, details: Value) -> Response {
        let (_, kind) = row(self.code);
        let mut body = json!({ "message": self.message, "type": kind, "param": self.param, "code": self.code.as_str() });
        body[name] = details;
        self.with_body(&json!({ "error": body }))
    }

    fn with_body(self, body: &Value) -> Response {
        let mut response = self.into_response();
        *response.body_mut() = Json(body).into_response().into_body();
        response.headers_mut().remove(CONTENT_LENGTH);
        response
    }

    /// Renders the error in the envelope of the dialect that a path belongs to.
    pub fn into_response_at(self, path: &str) -> Response {
        match crate::http::dialect::of_path(path) {
            Some(Dialect::BatchRouter) => self.into_batchrouter(),
            Some(Dialect::OpenAi | Dialect::Phaseo) | None => self.into_response(),
        }
    }

    /// Renders the error in BatchRouter's envelope, `{"error": {"code", "message", "details"}}`,
    /// where every fault of a request has the code `invalid_request`.
    pub fn into_batchrouter(self) -> Response {
        let (status, _) = row(self.code);
        let code = match (status, self.code) {
            (StatusCode::BAD_REQUEST, Code::MissingIdempotencyKey) => self.code.as_str(),
            (StatusCode::BAD_REQUEST, _) => "invalid_request",
            (StatusCode::UNAUTHORIZED, _) => "unauthorized",
            (_, Code::IdempotencyMismatch) => "idempotency_conflict",
            (_, code) => code.as_str(),
        };
        let details = self.param.as_ref().map(|param| json!({ "param": param, "reason": self.code.as_str() }));
        let body = json!({ "error": { "code": code, "message": self.message, "details": details } });
        self.with_body(&body)
    }

    /// The sentence for the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The code, for decisions about the error.
    pub fn code(&self) -> Code {
        self.code
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind) = row(self.code);
        let error = Body { message: &self.message, r#type: kind, param: self.param.as_deref(), code: self.code.as_str() };
        let mut response = (status, Json(Envelope { error })).into_response();
        // None of these conditions ends within the few seconds for which client libraries would
        // retry.
        let is_full = self.code == Code::QuotaExceeded && self.param.as_deref() != Some(Limit::Requests.as_str());
        if matches!(status, StatusCode::CONFLICT | StatusCode::INSUFFICIENT_STORAGE) || self.code == Code::FileDamaged || is_full {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(header) = self.header {
            response.headers_mut().insert(header.0, header.1);
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull { .. } => {
                tracing::error!(%error, "the disk is full");
                Self::new(Code::StorageFull, "the disk of the data directory is full; nothing of this request was kept")
            }
            StoreError::Broken(_) | StoreError::Closed => {
                tracing::error!(%error, "the store refused a request");
                Self::unavailable("the store of the daemon is closed or has failed; try again after it has restarted")
            }
            // The code that found the damage has logged it.
            StoreError::Content(damage) => {
                Self::new(Code::FileDamaged, format!("{damage}; upload it again, or have it restored from a backup"))
            }
            StoreError::Quota(exceeded) => exceeded.into(),
            StoreError::Io { .. } | StoreError::Damaged(_) | StoreError::Unexpected(_) => Self::internal(error),
        }
    }
}

/// The sentences come from the service; this table adds the code and the field of each.
impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::Draining | ServiceError::NoCapacity { .. } => Self::unavailable(message),
            ServiceError::NoRoom => Self::new(Code::StorageFull, message),
            ServiceError::FileNotFound(_)
            | ServiceError::BatchNotFound(_)
            | ServiceError::KeyNotFound(_)
            | ServiceError::OrgNotFound(_) => Self::new(Code::NotFound, message),
            ServiceError::NotAnInput(_) => Self::invalid("input_file_id", message),
            ServiceError::QuoteNotFound(_) => Self::new(Code::QuoteNotFound, message),
            ServiceError::QuoteExpired => Self::new(Code::QuoteExpired, message),
            ServiceError::QuoteUsed(_) => Self::new(Code::QuoteUsed, message),
            ServiceError::QuoteMismatch { field } => Self::new(Code::QuoteMismatch, message).param(field),
            ServiceError::KeyReused | ServiceError::BatchDeleted => Self::new(Code::IdempotencyMismatch, message).param(KEY),
            ServiceError::PrepaidNeedsQuote | ServiceError::PrepaidNeedsPrices | ServiceError::NotCovered(_) => {
                Self::new(Code::InsufficientCredits, message)
            }
            ServiceError::Items(_) => Self::invalid("items", message),
            ServiceError::Preflight { issues, .. } => match issues.first() {
                Some(issue) => Self::invalid(&issue.path.to_string(), message),
                None => Self::new(Code::InvalidValue, message),
            },
            ServiceError::Unbounded { .. } | ServiceError::Uncounted { .. } | ServiceError::Unpriced => {
                Self::new(Code::InvalidValue, message)
            }
            ServiceError::TooManyOrgs(_)
            | ServiceError::TooManyKeys(_)
            | ServiceError::OrgClosed
            | ServiceError::OrgIsOperators
            | ServiceError::OperatorHasNoQuotas => Self::new(Code::Conflict, message),
            ServiceError::Retry(RetryError::ResultsGone) => Self::new(Code::ResultsExpired, message),
            ServiceError::Retry(_) => Self::new(Code::Conflict, message),
            ServiceError::Store(error) => error.into(),
            ServiceError::Gone(error) => error.into(),
            ServiceError::Internal(cause) => Self::internal(cause),
        }
    }
}

/// The limit is named in the sentence and, for programs, as the `param`.
impl From<Exceeded> for ApiError {
    fn from(exceeded: Exceeded) -> Self {
        let code = if exceeded.limit.is_money() { Code::SpendingQuotaExceeded } else { Code::QuotaExceeded };
        let seconds = exceeded.retry_after.as_millis().div_ceil(1_000).max(1);
        let error = Self::new(code, exceeded.to_string()).param(exceeded.limit.as_str());
        match HeaderValue::from_str(&seconds.to_string()) {
            Ok(seconds) => error.header(RETRY_AFTER, seconds),
            Err(_) => error,
        }
    }
}

impl From<Gone> for ApiError {
    fn from(_: Gone) -> Self {
        Self::unavailable("the daemon is stopping; try again after it has restarted")
    }
}

/// An id in a path that is not of the expected kind names no object.
impl From<IdError> for ApiError {
    fn from(error: IdError) -> Self {
        Self::new(Code::NotFound, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_status_and_type() {
        let table: Vec<String> = Code::ALL
            .iter()
            .map(|code| {
                let (status, kind) = row(*code);
                format!("{} {:<28} {kind}", status.as_u16(), code.as_str())
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn what_does_not_pass_is_not_to_be_tried_again() {
        for (code, expected) in
            [(Code::Conflict, true), (Code::IdempotencyMismatch, true), (Code::StorageFull, true), (Code::Unavailable, false)]
        {
            let response = ApiError::new(code, "").into_response();
            assert_eq!(response.headers().get(SHOULD_RETRY).is_some_and(|value| value == "false"), expected, "{}", code.as_str());
        }
    }

    #[tokio::test]
    async fn the_cause_of_a_fault_of_ours_does_not_reach_the_client() {
        let response = ApiError::internal("/var/lib/secret-place").into_response();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        insta::assert_snapshot!(String::from_utf8_lossy(&body));
    }
}
