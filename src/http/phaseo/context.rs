//! What an answer of this dialect says about its request: the request's id, its organisation, and
//! the path by which the request came.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::Extensions;
use axum::http::request::Parts;

use crate::domain::id::{OrgId, RequestId};
use crate::http::layers::caller::Caller;
use crate::http::layers::trace::Traced;

/// The facts about one request that its answer needs.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    pub request: RequestId,
    /// `None` if the request was not authenticated.
    pub org: Option<OrgId>,
    /// Where the dialect is mounted: `/v1` or `/phaseo/v1`.
    pub mount: &'static str,
    /// `batches`, or its other name `batch`.
    pub batches: &'static str,
    /// Whether the request is about webhook receivers, which need a management key.
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
