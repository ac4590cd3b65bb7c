//! Errors of this dialect. Phaseo's server has two envelopes, a flat and a nested one. Which
//! envelope a case uses is part of the contract (Phaseo's reference of errors).

use std::borrow::Cow;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::context::Context;
use crate::domain::error::Code;
use crate::domain::text::shown;
use crate::http::response::error::ApiError;
use crate::quote::Rejection;
use crate::service::quotes::outcome::{ConsideredLane, Outcome};
use crate::service::{Issue, IssueCode, ServiceError};
use crate::store::error::StoreError;

/// The outcome of a handler of this dialect.
pub type PhaseoAnswer = Result<Response, Refusal>;

/// Turns an answer into the response for the client.
pub fn respond(answer: PhaseoAnswer, context: &Context) -> Response {
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
    /// An invalid request: 400, flat.
    pub fn invalid(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::flat(StatusCode::BAD_REQUEST, "validation_error", reason, message)
    }

    /// The refusal of an oversized body; other errors stay unchanged.
    pub fn of_body(error: ApiError, most: u64) -> Self {
        if error.code() != Code::TooLarge {
            return error.into();
        }
        let message = format!("the body may have at most {most} bytes; upload a larger input as a file");
        Self::nested(StatusCode::PAYLOAD_TOO_LARGE, "validation_error", "batch_body_too_large", message).with("max_bytes", most)
    }

    /// A flat error.
    pub fn flat(status: StatusCode, error: &'static str, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Flat(Box::new(Flat { status, error, reason: Some(reason.into()), message: message.into(), more: Map::new() }))
    }

    /// An object that does not exist or belongs to another workspace: the client cannot tell the
    /// two apart.
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

    /// Turns the refusal into the response for the client.
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

/// Puts an error that all dialects share into the flat envelope, and keeps its headers.
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
        (402, Code::SpendingQuotaExceeded) => ("insufficient_funds", Some(code.as_str())),
        (429, _) => ("key_limit_exceeded", Some(code.as_str())),
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

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Api(error.into())
    }
}

/// Errors of the service, with the codes of Phaseo's server where it has one for the case.
impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::Preflight { issues, outcome } => preflight(&issues, outcome.as_deref()),
            ServiceError::NoCapacity { issues, outcome } => {
                let message = "the providers that could run these rows have no room for all of them at present; try again later";
                let details = json!({
                    "requested_items": outcome.items,
                    "allocated_items": outcome.items - outcome.unplaced,
                    "issues": issues.iter().map(issue_object).collect::<Vec<_>>(),
                    "lanes": lane_objects(&outcome),
                });
                Self::flat(StatusCode::SERVICE_UNAVAILABLE, "gateway_error", "provider_capacity_unavailable", message)
                    .with("details", details)
            }
            // A hold that cannot be placed is reported in the nested form.
            ServiceError::NotCovered(_) => {
                Self::nested(StatusCode::PAYMENT_REQUIRED, "insufficient_funds", "insufficient_balance", message)
            }
            ServiceError::Unbounded { .. } => Self::invalid("batch_max_output_tokens_required", message),
            ServiceError::Uncounted { .. } => Self::invalid("batch_unbounded_cost_dimension_not_supported", message),
            ServiceError::Unpriced => Self::invalid("batch_reservation_price_card_missing", message),
            other => Self::Api(other.into()),
        }
    }
}

fn issue_object(issue: &Issue) -> Value {
    json!({ "code": issue.code, "path": issue.path.named("rows"), "message": issue.message })
}

fn preflight(issues: &[Issue], outcome: Option<&Outcome>) -> Refusal {
    let unsupported = |reason: &'static str, message: String| {
        Refusal::flat(StatusCode::BAD_REQUEST, "unsupported_model_or_endpoint", reason, message.clone()).with("description", message)
    };
    let lanes = outcome.map_or(&[][..], |outcome| &outcome.lanes);
    let first = issues.first();
    let place = first.map_or_else(String::new, |issue| issue.path.named("rows"));
    let message = first.map_or_else(String::new, |issue| format!("{place}: {}", issue.message));
    let none = || format!("{place}: no provider can run this row and those like it; `details.lanes` has the reason of each");
    let shown: Vec<_> = issues.iter().map(issue_object).collect();
    let (reason, message) = match first.map(|issue| issue.code) {
        Some(IssueCode::UnknownModel) => ("model_not_found_or_inactive", message),
        Some(IssueCode::NoEligibleLane) if no_lane_serves(lanes) => ("unsupported_endpoint_for_model", none()),
        Some(IssueCode::NoEligibleLane | IssueCode::PriceCeiling) | None => ("provider_candidates_unavailable", none()),
        Some(code) => return Refusal::invalid(code.as_str(), message).with("details", json!({ "issues": shown })),
    };
    let lanes = outcome.map_or_else(Vec::new, lane_objects);
    unsupported(reason, message).with("details", json!({ "issues": shown, "lanes": lanes }))
}

/// The lanes that were considered, each with the reasons why the lane runs no rows. Our own
/// extension.
fn lane_objects(outcome: &Outcome) -> Vec<Value> {
    let object = |lane: &ConsideredLane| {
        let rejection = |reason: &Rejection| json!({ "code": reason.code(), "message": lane.explain(reason) });
        json!({
            "provider": lane.provider,
            "model": lane.model,
            "provider_model": lane.upstream,
            "selected": lane.is_selected(),
            "row_count": lane.items.len(),
            "rejection_reason": lane.rejections.first().map(Rejection::code),
            "rejections": lane.rejections.iter().map(rejection).collect::<Vec<_>>(),
        })
    };
    outcome.lanes.iter().map(object).collect()
}

/// Whether none of the lanes that take work serves the endpoint, regardless of other rejections.
fn no_lane_serves(lanes: &[ConsideredLane]) -> bool {
    let serves_not = |reason: &Rejection| matches!(reason, Rejection::OperationUnsupported { .. });
    let mut open = lanes.iter().filter(|lane| !matches!(lane.rejections.first(), Some(Rejection::OfferingInactive(_)))).peekable();
    open.peek().is_some() && open.all(|lane| lane.rejections.iter().any(serves_not))
}
