//! What an answer of this dialect says of its request: the request's id, whose it is, and by which of its
//! paths it came.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::Extensions;
use axum::http::request::Parts;

use crate::domain::id::{OrgId, RequestId};
use crate::http::layers::auth::Caller;
use crate::http::layers::trace::Traced;

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    pub request: RequestId,
    /// `None` where nobody was let in.
    pub org: Option<OrgId>,
    /// Where the dialect is mounted: `/v1` or `/phaseo/v1`.
    pub mount: &'static str,
    /// `batches`, or its other name `batch`.
    pub batches: &'static str,
    /// It is about receivers of messages, which management keys are for.
    pub is_managed: bool,
}

impl Context {
    /// The context of a request.
    pub fn of(request: &Request) -> Self {
        Self::from_extensions(request.extensions())
    }

    fn from_extensions(extensions: &Extensions) -> Self {
        let path = extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        Self {
            request: extensions.get::<Traced>().map_or(RequestId::from_u128(0), |traced| traced.0),
            org: extensions.get::<Caller>().map(|caller| caller.org),
            mount: if path.starts_with("/phaseo/") { "/phaseo/v1" } else { "/v1" },
            is_managed: path.contains("/webhook-endpoints"),
            batches: if path.split('/').any(|part| part == "batch") && !path.contains("/async/") { "batch" } else { "batches" },
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::from_extensions(&parts.extensions))
    }
}
