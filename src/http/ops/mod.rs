//! Routes for operators and orchestrators: whether the daemon is alive, whether it takes work, and
//! what it serves.

pub mod metrics;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::access_class::AccessClass;
use super::admin::catalog;
use super::layers::access_policy::Asked;
use super::layers::auth::found;
use super::request::Params;
use super::response::error::ApiError;
use super::route_table::RouteIndex;
use super::state::Api;
use crate::descriptors::open;
use crate::domain::error::Code;

/// `GET /`
pub async fn index(Extension(index): Extension<Arc<RouteIndex>>) -> Json<Value> {
    let endpoints: Vec<_> = index.listed.iter().map(|(path, route)| format!("{} {path}", route.listed_methods())).collect();
    Json(json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "endpoints": endpoints }))
}

/// `GET /healthz`: fails if a restart would help.
pub async fn healthz(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    check_store(&api)?;
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz` where nobody can show who they are: never more than whether the daemon takes work.
pub async fn readyz_plain(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    ready(&api).map(Json)
}

/// What is not on the listener of probes.
pub async fn not_a_probe() -> ApiError {
    ApiError::new(Code::UnknownRoute, "only `GET /healthz` and `GET /readyz` are answered here")
}

/// The same of a method.
pub async fn not_a_probes_method() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "a probe is asked with `GET` or `HEAD`")
}

/// `GET /readyz`: whether the daemon takes new work; with `verbose` also the state of the catalog.
/// The latter names files and providers, so it is for the operator only.
pub async fn readyz(State(api): State<Arc<Api>>, uri: Uri, headers: HeaderMap, params: Params) -> Result<Json<Value>, ApiError> {
    let verbose = params.is_set("verbose");
    if verbose {
        let asked = Asked { method: &Method::GET, uri: &uri, headers: &headers, now: api.service.clock.now() };
        let caller = api.access.admit(AccessClass::Operator, asked, |digest| found(&api, digest))?;
        if !caller.is_operator() {
            return Err(ApiError::new(Code::Forbidden, "only the operator's own keys open this"));
        }
    }
    let mut said = ready(&api)?;
    if verbose {
        said["free_bytes"] = json!(api.service.store.free_bytes()?);
        said["descriptors"] = descriptors(&api);
        // Old prices are better than none: a failed reload of the catalog is no reason to refuse
        // work.
        said["catalog"] = catalog::standing(&api.service.catalog.standing());
    }
    Ok(Json(said))
}

/// Says that the daemon takes work, and what it lacks.
fn ready(api: &Api) -> Result<Value, ApiError> {
    check_store(api)?;
    api.check_open()?;
    let free = api.service.store.free_bytes()?;
    if free < api.service.limits.min_free_bytes {
        let message = "the disk of the data directory is nearly full; no new work is taken until there is room again";
        return Err(ApiError::unavailable(message));
    }
    if api.descriptors.shortage() {
        return Err(ApiError::unavailable("the process or the machine is out of file descriptors; work goes on as they come free"));
    }
    let mut said = json!({ "status": "ready" });
    // The daemon takes work all the same: a client that finds no place waits.
    if let Some(shortage) = shortage(api) {
        said["shortage"] = json!(shortage);
    }
    Ok(said)
}

/// What the daemon lacks file descriptors for at this moment.
fn shortage(api: &Api) -> Option<&'static str> {
    let (descriptors, share) = (&api.descriptors, api.descriptors.share());
    let short = [
        (descriptors.calls().waiting() > 0, "calls wait for a file descriptor"),
        (descriptors.files_open() >= share.files, "uploads and downloads wait for a file descriptor"),
        (descriptors.client_waits().load(Ordering::Relaxed), "clients wait until others have closed their connections"),
    ];
    short.into_iter().find_map(|(is_short, what)| is_short.then_some(what))
}

fn descriptors(api: &Api) -> Value {
    let (descriptors, share) = (&api.descriptors, api.descriptors.share());
    let calls = descriptors.calls();
    json!({
        "limit": descriptors.limit(),
        "open": open(),
        "refused": descriptors.refusals(),
        "clients": { "open": descriptors.clients_open(), "most": share.clients },
        "calls": { "open": calls.open(), "most": calls.most(), "waiting": calls.waiting() },
        "files": { "open": descriptors.files_open(), "most": share.files },
    })
}

fn check_store(api: &Api) -> Result<(), ApiError> {
    match api.service.store.broken().is_cancelled() {
        true => Err(ApiError::unavailable("the store has failed; a restart recovers all that was acknowledged")),
        false => Ok(()),
    }
}
