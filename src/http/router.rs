//! Every route with its layers: the only place besides the dialects' own tables that names handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, RETRY_AFTER};
use axum::http::{HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::admin::{catalog, lanes, orgs};
use super::layers::access_policy::Origins;
use super::layers::{auth, request_body, trace};
use super::ops::metrics;
use super::response::error;
use super::state::Api;
use super::{batchrouter, openai, ops, phaseo, route_table, v1};

/// All routes with their layers.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new()
        .route("/", get(ops::index))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/admin/catalog/reload", post(catalog::reload))
        .route("/admin/catalog/history", get(catalog::history))
        .route("/admin/store/backup", post(catalog::backup))
        .route("/admin/organisations", get(orgs::list).post(orgs::create))
        .route("/admin/organisations/{org_id}/credits", post(orgs::credit))
        .route("/admin/organisations/{org_id}/keys", get(orgs::list_keys).post(orgs::create_key))
        .route("/admin/organisations/{org_id}/keys/{api_key_id}", delete(orgs::revoke_key))
        .route("/admin/lanes", get(lanes::list))
        .route("/admin/lanes/pause", post(lanes::pause))
        .route("/admin/lanes/resume", post(lanes::resume))
        .route("/admin/lanes/drain", post(lanes::drain))
        .nest("/v1", v1::routes().merge(openai::own()).merge(phaseo::own()).merge(batchrouter::own()))
        .nest("/openai/v1", openai::routes())
        // Where BatchRouter has it.
        .nest("/v1/openai/v1", openai::routes())
        .nest("/phaseo/v1", phaseo::routes())
        .nest("/batchrouter/v1", batchrouter::routes());
    #[cfg(test)]
    {
        router = router.merge(super::tests::routes());
    }
    router = router
        .fallback(route_table::unknown)
        .method_not_allowed_fallback(route_table::wrong_method)
        // The last layer is the outermost.
        .layer(from_fn_with_state(api.clone(), auth::guard));
    if let Some(cors) = cors(api.access.origins()) {
        router = router.layer(cors);
    }
    router
        .layer(CatchPanicLayer::custom(trace::panicked))
        .layer(from_fn(trace::request))
        // Around all that may answer: none of it has to think of the body that it does not read.
        .layer(from_fn_with_state(api.clone(), request_body::watch))
        .with_state(api)
}

fn cors(origins: &Origins) -> Option<CorsLayer> {
    let allowed = match origins {
        Origins::None => return None,
        Origins::Any => AllowOrigin::any(),
        Origins::Listed(origins) => {
            let listed: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
            AllowOrigin::predicate(move |origin, request| auth::is_public(request.uri.path()) || listed.contains(origin))
        }
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        // Client libraries send headers of their own, and `*` would not cover `Authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([trace::REQUEST_ID, error::SHOULD_RETRY, CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, RETRY_AFTER])
        .max_age(Duration::from_secs(3_600));
    Some(layer)
}
