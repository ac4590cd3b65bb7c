//! Errors of this dialect. Its server has two envelopes, a flat and a nested one, and which of them a case has
//! is a part of its contract (the reference of its errors).

use std::borrow::Cow;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::context::Context;
use crate::domain::error::Code;
use crate::domain::text::shown;
use crate::http::batchrouter::error as batchrouter;
use crate::http::response::error::ApiError;

/// What a handler of this dialect comes to.
pub type Answer = Result<Response, Refusal>;

/// As it goes to the client.
pub fn told(answer: Answer, context: &Context) -> Response {
    answer.unwrap_or_else(|refusal| refusal.respond(context))
}

/// Why a request is not served.
#[derive(Debug)]
pub enum Refusal {
    Flat(Box<Flat>),
    Nested(Box<Nested>),
    /// An error that all dialects have.
    Api(ApiError),
}

/// `{"error": "...", "reason": "...", ...}`
#[derive(Debug)]
pub struct Flat {
    status: StatusCode,
    error: &'static str,
    reason: Option<Cow<'static, str>>,
    message: String,
    more: Map<String, Value>,
}

/// `{"error": {"type": "...", "reason": "...", ...}}`
#[derive(Debug)]
pub struct Nested {
    status: StatusCode,
    kind: &'static str,
    reason: Cow<'static, str>,
    message: String,
    more: Map<String, Value>,
}

impl Refusal {
    /// A request that cannot be meant: 400, flat.
    pub fn invalid(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::flat(StatusCode::BAD_REQUEST, "validation_error", reason, message)
    }

    /// A flat error.
    pub fn flat(status: StatusCode, error: &'static str, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Flat(Box::new(Flat { status, error, reason: Some(reason.into()), message: message.into(), more: Map::new() }))
    }

    /// An object that is not there, or is another workspace's: that cannot be told apart.
    pub fn not_found(reason: &'static str, field: &str, id: &str) -> Self {
        let shown = shown(id);
        let message = format!("there is no `{shown}` in this workspace");
        Self::flat(StatusCode::NOT_FOUND, "not_found", reason, message).with(field, shown)
    }

    /// A nested error.
    pub fn nested(status: StatusCode, kind: &'static str, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Nested(Box::new(Nested { status, kind, reason: reason.into(), message: message.into(), more: Map::new() }))
    }

    /// The sentence for the client.
    pub fn message(&self) -> &str {
        match self {
            Self::Flat(flat) => &flat.message,
            Self::Nested(nested) => &nested.message,
            Self::Api(error) => error.message(),
        }
    }

    /// The error with one more member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        match &mut self {
            Self::Flat(flat) => _ = flat.more.insert(name.to_owned(), value.into()),
            Self::Nested(nested) => _ = nested.more.insert(name.to_owned(), value.into()),
            Self::Api(_) => {}
        }
        self
    }

    /// As it goes to the client.
    pub fn respond(self, context: &Context) -> Response {
        match self {
            Self::Flat(flat) => flat.respond(context),
            Self::Nested(nested) => {
                let Nested { status, kind, reason, message, more } = *nested;
                let mut error = json!({ "type": kind, "reason": reason, "message": message });
                if let Some(members) = error.as_object_mut() {
                    members.extend(more);
                }
                no_store(status, &json!({ "error": error }))
            }
            Self::Api(error) => of_api(error, context),
        }
    }
}

impl Flat {
    fn respond(self, context: &Context) -> Response {
        let mut body = self.more;
        let mut put = |name: &str, value: Value| _ = body.insert(name.to_owned(), value);
        put("error", json!(self.error));
        if let Some(reason) = self.reason {
            put("reason", json!(reason));
        }
        put("message", json!(self.message));
        put("status_code", json!(self.status.as_u16()));
        let (kind, origin) = match self.status.as_u16() {
            502 => ("system", "upstream"),
            500.. => ("system", "gateway"),
            _ => ("user", "user"),
        };
        put("error_type", json!(kind));
        put("error_origin", json!(origin));
        let id = context.request.in_upper();
        put("request_id", json!(id));
        put("generation_id", json!(id));
        if let Some(org) = context.org.filter(|_| self.status != StatusCode::UNAUTHORIZED) {
            put("workspace_id", json!(org.to_string()));
        }
        no_store(self.status, &Value::Object(body))
    }
}

fn no_store(status: StatusCode, body: &Value) -> Response {
    (status, [("cache-control", super::CACHE)], Json(body)).into_response()
}

/// An error of all dialects in the flat envelope, with the headers that it has anyway.
fn of_api(error: ApiError, context: &Context) -> Response {
    let (code, message) = (error.code(), error.message().to_owned());
    let mut response = error.into_response();
    let status = response.status();
    let (error, reason) = match (status.as_u16(), code) {
        (401, Code::MissingApiKey) => ("unauthorised", Some("missing_or_invalid_authorization_header")),
        (401, Code::ApiKeyExpired) => ("unauthorised", Some("key_expired")),
        (401, Code::ApiKeyKind) if context.is_managed => ("unauthorised", Some("management_key_required")),
        (401, Code::ApiKeyKind) => ("unauthorised", Some("management_key_not_valid_for_gateway")),
        (401, _) => ("unauthorised", Some("key_not_found_or_revoked")),
        (402, _) => ("insufficient_funds", Some("insufficient_balance")),
        (404, _) => ("not_found", Some(code.as_str())),
        (409, _) => ("not_ready", Some(code.as_str())),
        (413, _) => ("payload_too_large", Some(code.as_str())),
        (_, Code::InvalidJson) => ("invalid_json", None),
        (500.., _) => ("gateway_error", Some(code.as_str())),
        (_, _) => ("validation_error", Some(code.as_str())),
    };
    let flat = Flat { status, error, reason: reason.map(Cow::Borrowed), message, more: Map::new() };
    let own = flat.respond(context);
    response.headers_mut().extend(own.headers().clone());
    response.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
    *response.body_mut() = own.into_body();
    response
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// What a quote of its rows is refused for: a model that nobody knows, lanes that cannot serve them.
impl From<batchrouter::Refusal> for Refusal {
    fn from(refusal: batchrouter::Refusal) -> Self {
        let unsupported = |reason: &'static str, message: String| {
            Self::flat(StatusCode::BAD_REQUEST, "unsupported_model_or_endpoint", reason, message.clone()).with("description", message)
        };
        match refusal {
            batchrouter::Refusal::Api(error) => Self::Api(error),
            batchrouter::Refusal::TooLarge(most) => {
                let message = format!("the body may have at most {most} bytes; upload a larger input as a file");
                Self::nested(StatusCode::PAYLOAD_TOO_LARGE, "validation_error", "batch_body_too_large", message).with("max_bytes", most)
            }
            batchrouter::Refusal::NoCapacity { details } => {
                let message = "the providers that could run these rows have no room for all of them at present; try again later";
                Self::flat(StatusCode::SERVICE_UNAVAILABLE, "gateway_error", "provider_capacity_unavailable", message)
                    .with("details", details)
            }
            batchrouter::Refusal::Preflight { issues, lanes } => {
                let first = issues.first();
                let place = first.map_or_else(String::new, |issue| issue.path.replacen("items", "rows", 1));
                let message = first.map_or_else(String::new, |issue| format!("{place}: {}", issue.message));
                let none = || format!("{place}: no provider can run this row and those like it; `details.lanes` has the reason of each");
                let (reason, message) = match first.map(|issue| issue.code) {
                    Some("unknown_model") => ("model_not_found_or_inactive", message),
                    Some("no_eligible_lane") if no_lane_serves(&lanes) => ("unsupported_endpoint_for_model", none()),
                    Some("no_eligible_lane" | "price_ceiling") | None => ("provider_candidates_unavailable", none()),
                    Some(code) => return Self::invalid(code, message).with("details", json!({ "issues": issues })),
                };
                unsupported(reason, message).with("details", json!({ "issues": issues, "lanes": lanes }))
            }
        }
    }
}

/// Whether no lane that takes work serves the endpoint, whatever else there is against it.
fn no_lane_serves(lanes: &[Value]) -> bool {
    let has = |lane: &&Value, reason: &str| lane["rejections"].as_array().into_iter().flatten().any(|each| each["code"] == reason);
    let mut open = lanes.iter().filter(|lane| lane["rejection_reason"] != "offering_inactive").peekable();
    open.peek().is_some() && open.all(|lane| lane["rejection_reason"] == "operation_unsupported" || has(&lane, "operation_unsupported"))
}
