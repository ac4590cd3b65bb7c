//! Every route with its layers: the only place besides the dialects' own tables that names
//! handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, RETRY_AFTER};
use axum::http::{HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::access_class::AccessClass;
use super::admin::{catalog, lanes, orgs, quotas};
use super::layers::access_policy::Origins;
use super::layers::{auth, head_fault, request_body, trace};
use super::openai::batches::every;
use super::ops::metrics;
use super::response::error;
use super::route_table::{Listed, RouteEntry, RouteIndex, Table, routes};
use super::state::Api;
use super::{batchrouter, openai, ops, phaseo, route_table, v1};

/// Every table of routes, in the order in which they are listed to clients.
pub static TABLES: [Table; 7] = [
    Table { mounts: &[""], own_mount: None, routes: OPERATIONS, listed: Listed::All },
    Table { mounts: &["/openai/v1", "/v1/openai/v1"], own_mount: Some("/v1"), routes: openai::ROUTES, listed: Listed::All },
    Table { mounts: &["/batchrouter/v1"], own_mount: Some("/v1"), routes: batchrouter::ROUTES, listed: Listed::Own },
    Table { mounts: &["/phaseo/v1"], own_mount: Some("/v1"), routes: phaseo::ROUTES, listed: Listed::Own },
    Table { mounts: &["/v1", "/phaseo/v1"], own_mount: None, routes: phaseo::OTHER_NAMES, listed: Listed::None },
    Table { mounts: &["/phaseo/v1"], own_mount: None, routes: phaseo::FILES, listed: Listed::None },
    Table { mounts: &["/v1"], own_mount: None, routes: v1::ROUTES, listed: Listed::None },
];

/// The routes for the operator of the daemon.
const OPERATIONS: &[RouteEntry] = routes! {
    own "/" Key { get: ops::index }
    own "/healthz" Open { get: ops::healthz }
    own "/readyz" Open { get: ops::readyz }
    own "/metrics" Operator { get: metrics::metrics }
    own "/admin/catalog/reload" Operator { post: catalog::reload }
    own "/admin/catalog/history" Operator { get: catalog::history }
    own "/admin/store/backup" Operator { post: catalog::backup }
    own "/admin/organisations" Operator { get: orgs::list, post: orgs::create }
    own "/admin/organisations/{org_id}" Operator { get: orgs::retrieve, post: orgs::rename }
    own "/admin/organisations/{org_id}/close" Operator { post: orgs::close }
    own "/admin/organisations/{org_id}/credits" Operator { post: orgs::credit }
    own "/admin/organisations/{org_id}/quotas" Operator { get: quotas::of_org, post: quotas::set_of_org }
    own "/admin/organisations/{org_id}/keys" Operator { get: orgs::list_keys, post: orgs::create_key }
    own "/admin/organisations/{org_id}/keys/{api_key_id}" Operator { delete: orgs::revoke_key }
    own "/admin/organisations/{org_id}/keys/{api_key_id}/quotas" Operator { get: quotas::of_key, post: quotas::set_of_key }
    own "/admin/batches" Operator { get: every::list }
    own "/admin/batches/{batch_id}" Operator { get: every::retrieve }
    own "/admin/batches/{batch_id}/pause" Operator { post: every::pause }
    own "/admin/batches/{batch_id}/resume" Operator { post: every::resume }
    own "/admin/batches/{batch_id}/cancel" Operator { post: every::cancel }
    own "/admin/lanes" Operator { get: lanes::list }
    own "/admin/lanes/pause" Operator { post: lanes::pause }
    own "/admin/lanes/resume" Operator { post: lanes::resume }
    own "/admin/lanes/drain" Operator { post: lanes::drain }
};

/// All routes with their layers.
pub fn router(api: Arc<Api>) -> Router {
    let index = Arc::new(RouteIndex::of(&TABLES));
    let mut router = route_table::mounted(&TABLES);
    #[cfg(test)]
    {
        router = router.merge(super::tests::routes());
    }
    router = router
        .fallback(route_table::unknown)
        .method_not_allowed_fallback(route_table::wrong_method)
        // The last layer is the outermost.
        .layer(from_fn_with_state(api.clone(), auth::guard));
    if let Some(cors) = cors(api.access.origins(), index.clone()) {
        router = router.layer(cors);
    }
    router
        .layer(CatchPanicLayer::custom(trace::panicked))
        .layer(from_fn(head_fault::refuse))
        .layer(from_fn(trace::request))
        // Outside every layer and handler that may answer: none of them has to care about a body
        // that it does not read.
        .layer(from_fn_with_state(api.clone(), request_body::watch))
        .layer(Extension(index))
        .with_state(api)
}

/// The routes of the listener of probes, which shows nothing that is anybody's.
pub fn probes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz_plain))
        .fallback(ops::not_a_probe)
        .method_not_allowed_fallback(ops::not_a_probes_method)
        .layer(CatchPanicLayer::custom(trace::panicked))
        .layer(from_fn(head_fault::refuse))
        .layer(from_fn(trace::request))
        .layer(from_fn_with_state(api.clone(), request_body::watch))
        .with_state(api)
}

fn cors(origins: &Origins, index: Arc<RouteIndex>) -> Option<CorsLayer> {
    let allowed = match origins {
        Origins::None => return None,
        Origins::Any => AllowOrigin::any(),
        Origins::Listed(origins) => {
            let listed: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
            AllowOrigin::predicate(move |origin, request| {
                index.access_of(&request.uri, &request.extensions) == AccessClass::Public || listed.contains(origin)
            })
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

/// Every route, once for each whole path that it is mounted at.
#[cfg(test)]
pub fn every() -> impl Iterator<Item = (String, &'static RouteEntry)> {
    TABLES.iter().flat_map(Table::mounted)
}
