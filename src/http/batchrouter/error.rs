//! Errors of this dialect that carry more than a sentence: the issues of a preflight, and the items
//! that there is no room for. The envelope is BatchRouter's, `{"error": {"code", "message",
//! "details"}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::quotes::object::lane_objects;
use crate::domain::error::Code;
use crate::http::response::error::ApiError;
use crate::service::quotes::outcome::Outcome;
use crate::service::{Issue, ServiceError};
use crate::store::error::StoreError;

/// Why a request is not served.
#[derive(Debug)]
pub enum Refusal {
    Api(ApiError),
    /// The items, or the demands on their lanes, cannot be served as they are.
    Preflight {
        /// At least one.
        issues: Vec<Issue>,
        /// The lanes that were considered, each with its reasons.
        outcome: Option<Box<Outcome>>,
    },
    /// The items could be served, but the lanes lack capacity at the moment.
    NoCapacity {
        issues: Vec<Issue>,
        outcome: Box<Outcome>,
    },
    /// The body has more bytes than this.
    TooLarge(u64),
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

/// In this dialect's messages, ids have the form that its clients know.
impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Preflight { issues, outcome } => Self::Preflight { issues, outcome },
            ServiceError::NoCapacity { issues, outcome } => Self::NoCapacity { issues, outcome },
            ServiceError::FileNotFound(id) => ApiError::not_found("file", id.in_hex()).into(),
            ServiceError::NotAnInput(id) => {
                ApiError::invalid("input_file_id", format!("`{}` was not uploaded as the input of a batch", id.in_hex())).into()
            }
            ServiceError::BatchNotFound(id) => ApiError::not_found("batch", id.in_hex()).into(),
            ServiceError::QuoteUsed(batch) => {
                let message = format!("`{}` was made from the quote; make a new quote for another batch", batch.in_hex());
                ApiError::new(Code::QuoteUsed, message).into()
            }
            other => Self::Api(other.into()),
        }
    }
}

impl Refusal {
    /// The refusal of an oversized body; other errors stay unchanged.
    pub fn of_body(error: ApiError, most: u64) -> Self {
        if error.code() == Code::TooLarge { Self::TooLarge(most) } else { Self::Api(error) }
    }
}

/// An issue as it is shown.
pub fn issue(issue: &Issue) -> Value {
    json!({ "code": issue.code, "path": issue.path.to_string(), "message": issue.message })
}

fn preflight(issues: &[Issue]) -> Value {
    json!({ "ok": false, "issues": issues.iter().map(issue).collect::<Vec<_>>() })
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message, details) = match self {
            Self::Api(error) => return error.into_batchrouter(),
            Self::Preflight { issues, outcome } => {
                let message = match issues.as_slice() {
                    [only] => format!("{}: {}", only.path, only.message),
                    several => format!("{} problems found; the first: {}: {}", several.len(), several[0].path, several[0].message),
                };
                let mut details = json!({ "preflight": preflight(&issues) });
                if let Some(outcome) = outcome.filter(|outcome| !outcome.lanes.is_empty()) {
                    details["quote_lanes"] = Value::Array(lane_objects(&outcome));
                }
                (StatusCode::BAD_REQUEST, "preflight_failed", message, details)
            }
            Self::NoCapacity { issues, outcome } => {
                let message = "the lanes that could serve these items have no room for all of them at present; try again later, \
                               quote fewer items, or relax the constraints";
                let details = no_capacity(&issues, &outcome);
                (StatusCode::SERVICE_UNAVAILABLE, "provider_capacity_unavailable", message.to_owned(), details)
            }
            Self::TooLarge(most) => {
                let message = format!("the body may have at most {most} bytes; upload a larger input with `POST /v1/files`");
                (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message, json!({ "max_bytes": most }))
            }
        };
        (status, Json(json!({ "error": { "code": code, "message": message, "details": details } }))).into_response()
    }
}

/// The details of an error about missing capacity.
fn no_capacity(issues: &[Issue], outcome: &Outcome) -> Value {
    json!({
        "requested_items": outcome.items,
        "allocated_items": outcome.items - outcome.unplaced,
        "routing_mode": outcome.constraints.mode,
        "sla_tier": outcome.constraints.tier,
        "privacy_tier": outcome.constraints.privacy_tier,
        "preflight": preflight(issues),
        "quote_lanes": lane_objects(outcome),
    })
}
