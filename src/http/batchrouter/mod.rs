//! The BatchRouter dialect: so far its catalog.

mod catalog;
mod supply;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use super::Api;

/// Paths below a mount that anybody may read, from any web page: BatchRouter's documents promise it.
pub const PUBLIC: &str = "/catalog/models";

/// The routes, to be mounted below a version.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route(PUBLIC, get(catalog::models).options(catalog::preflight))
}
