//! Errors of this dialect that carry more than a sentence: what a preflight found, what there is no room
//! for. The envelope is BatchRouter's, `{"error": {"code", "message", "details"}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::domain::error::Code;
use crate::http::response::error::ApiError;

/// Problems that one answer tells.
pub const MAX_ISSUES: usize = 100;

/// Something that a preflight found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    pub code: &'static str,
    /// Where, such as `items[3].model`.
    pub path: String,
    pub message: String,
}

/// Why a request gets no quote.
#[derive(Debug)]
pub enum Refusal {
    Api(ApiError),
    /// The items, or what is demanded of their lanes, cannot be served as they are.
    Preflight {
        /// At least one.
        issues: Vec<Issue>,
        /// Lanes that were looked at, each with its reasons.
        lanes: Vec<Value>,
    },
    /// They could be served but for what is going on at the moment.
    NoCapacity {
        details: Value,
    },
    /// The body has more bytes than this.
    TooLarge(u64),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl Refusal {
    /// What an oversized body is told; other errors are as they are.
    pub fn of_body(error: ApiError, most: u64) -> Self {
        if error.code() == Code::TooLarge { Self::TooLarge(most) } else { Self::Api(error) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message, details) = match self {
            Self::Api(error) => return error.into_batchrouter(),
            Self::Preflight { issues, lanes } => {
                let message = match issues.as_slice() {
                    [only] => format!("{}: {}", only.path, only.message),
                    several => format!("{} problems found; the first: {}: {}", several.len(), several[0].path, several[0].message),
                };
                let mut details = json!({ "preflight": { "ok": false, "issues": issues } });
                if !lanes.is_empty() {
                    details["quote_lanes"] = Value::Array(lanes);
                }
                (StatusCode::BAD_REQUEST, "preflight_failed", message, details)
            }
            Self::NoCapacity { details } => {
                let message = "the lanes that could serve these items have no room for all of them at present; try again later, \
                               quote fewer items, or relax the demands";
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
