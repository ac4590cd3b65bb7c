//! The Phaseo dialect: so far its views of the catalog.

mod capabilities;
mod data;
mod models;
mod params;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use serde::Serialize;

use super::Api;

/// What Phaseo's server says of all that it makes itself.
const CACHE: &str = "no-store";

/// A list that has no pages.
#[derive(Serialize)]
struct Listing<T> {
    object: &'static str,
    data: Vec<T>,
}

/// The routes, to be mounted below a version. `/batch` is another name of `/batches`.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/batches/models", get(models::list))
        .route("/batch/models", get(models::list))
        .route("/batches/capabilities", get(capabilities::list))
        .route("/batch/capabilities", get(capabilities::list))
        .route("/data/models", get(data::list))
}
