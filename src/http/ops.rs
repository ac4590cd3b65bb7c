//! For operators and orchestrators: is it alive, does it take work, what does it serve.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{Api, routes};

/// `GET /`
pub async fn index() -> Json<Value> {
    let endpoints: Vec<_> = routes::TABLE.iter().map(|listed| format!("{} {}", listed.methods, listed.path)).collect();
    Json(json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "endpoints": endpoints }))
}

/// `GET /healthz`: whether a restart would help.
pub async fn healthz(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    check_store(&api)?;
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz`: whether new work is taken.
pub async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    check_store(&api)?;
    api.check_open()?;
    let free = api.store.free_bytes()?;
    if free < api.limits.min_free_bytes {
        let message = "the disk of the data directory is nearly full; no new work is taken until there is room again";
        return Err(ApiError::unavailable(message));
    }
    Ok(Json(json!({ "status": "ready" })))
}

fn check_store(api: &Api) -> Result<(), ApiError> {
    match api.store.broken().is_cancelled() {
        true => Err(ApiError::unavailable("the store has failed; a restart recovers all that was acknowledged")),
        false => Ok(()),
    }
}
