//! Lets in the callers that may call, and refuses all others in the words of their dialect.
//!
//! Not here: the rule for which callers may call ([`super::access_policy`]).

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use super::access_policy::Asked;
use super::admission::Admission;
use super::audit::{Answered, Audited};
use super::caller::Caller;
use super::lease::Lease;
use super::trace::CalledBy;
use crate::domain::error::Code;
use crate::domain::org::ApiKey;
use crate::http::access_class::AccessClass;
use crate::http::dialect::{speaks_batchrouter, speaks_phaseo};
use crate::http::phaseo::context::Context;
use crate::http::phaseo::error::Refusal;
use crate::http::phaseo::feed::{lacks_upgrade, upgrade_required};
use crate::http::response::error::ApiError;
use crate::http::response::signed_links::signed;
use crate::http::route_table::RouteIndex;
use crate::http::state::Api;

/// Refuses callers that may not call.
pub async fn guard(
    State(api): State<Arc<Api>>,
    Extension(index): Extension<Arc<RouteIndex>>,
    mut request: Request,
    next: Next,
) -> Response {
    if lacks_upgrade(&request) {
        return upgrade_required();
    }
    let class = index.access_of(request.uri(), request.extensions());
    let audited = Audited::of(&request, class);
    if matches!(class, AccessClass::Open | AccessClass::Public) {
        // Reading shows web pages only what is public; any other method is for permitted callers.
        return match api.access.admit_keyless(request.uri(), request.headers()) {
            Err(error) if !request.method().is_safe() => error.into_batchrouter(),
            Ok(()) | Err(_) => {
                let response = next.run(request).await;
                audited.end(&api, None, Answered::with(&response)).await;
                response
            }
        };
    }
    if let Some(link) = signed(request.uri(), api.service.store.seal(), api.service.clock.now()) {
        return match link {
            // A client that has the link may have the file.
            Ok(signed) if matches!(*request.method(), Method::GET | Method::HEAD) => {
                admitted(&request);
                request.extensions_mut().insert(Caller::link());
                request.extensions_mut().insert(signed);
                next.run(request).await
            }
            Ok(_) => ApiError::new(Code::Forbidden, "a link is for reading alone").into_batchrouter(),
            Err(error) => error.into_batchrouter(),
        };
    }
    let asked = Asked { method: request.method(), uri: request.uri(), headers: request.headers(), now: api.service.clock.now() };
    let caller = api.access.admit(class, asked, |digest| found(&api, digest));
    match caller.and_then(|caller| within_quota(&api, caller)) {
        Ok(caller) if class == AccessClass::Operator && !caller.is_operator() => {
            ApiError::new(Code::Forbidden, "only the operator's own keys open this").into_response_at(request.uri().path())
        }
        Ok(caller) => {
            admitted(&request);
            let lease = Lease::new(api.clone(), caller.clone());
            request.extensions_mut().insert(caller.clone());
            request.extensions_mut().insert(lease.clone());
            let mut response = next.run(request.map(|body| lease.bound(body))).await;
            audited.end(&api, Some(&caller), Answered::with(&response)).await;
            response.extensions_mut().insert(CalledBy { org: caller.org, key: caller.client().map(|key| key.id) });
            response.map(|body| lease.bound(body))
        }
        Err(error) if speaks_batchrouter(request.headers()) => error.into_batchrouter(),
        Err(error) if speaks_phaseo(&request) => Refusal::from(error).respond(&Context::of(&request)),
        Err(error) => error.into_response_at(request.uri().path()),
    }
}

/// Lets a client in that has not sent more requests lately than its quotas allow.
fn within_quota(api: &Api, caller: Caller) -> Result<Caller, ApiError> {
    if let Some(key) = caller.client() {
        api.service.count_request(caller.org, key.id, &key.quotas)?;
    }
    Ok(caller)
}

/// Tells the server that the connection of this request is of use to somebody who may call.
fn admitted(request: &Request) {
    if let Some(admission) = request.extensions().get::<Admission>() {
        admission.grant();
    }
}

/// Finds the made key whose secret has this SHA-256.
pub fn found(api: &Api, digest: &[u8; 32]) -> Option<ApiKey> {
    api.service.store.key(digest).unwrap_or_else(|error| {
        tracing::error!(%error, "an API key could not be looked up");
        None
    })
}
