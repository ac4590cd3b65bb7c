//! The BatchRouter dialect: so far its catalog, its quotes and what anybody may ask.

mod catalog;
mod demands;
mod directory;
mod items;
mod lanes;
mod money;
mod quote_object;
mod quotes;
mod quoting;
mod refusal;
mod supply;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

pub use self::quoting::Quoting;
use super::Api;

/// The path below a mount that anybody may read, from any web page: BatchRouter's documents promise it.
pub const PUBLIC: &str = "/catalog/models";
/// Paths below a mount that need no key.
pub const KEYLESS: [&str; 4] = [PUBLIC, "/providers", "/pricing/fees", "/health"];

/// Whether a path, its mount included, is one of this dialect alone.
pub fn owns(path: &str) -> bool {
    let below = path.strip_prefix("/v1").filter(|below| {
        ["/catalog/", "/quotes/"].iter().any(|start| below.starts_with(start)) || *below == "/batches/quote" || KEYLESS.contains(below)
    });
    below.is_some() || path.starts_with("/batchrouter/")
}

/// The routes, to be mounted below a version.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route(PUBLIC, get(catalog::models).options(catalog::preflight))
        .route("/providers", get(directory::providers))
        .route("/pricing/fees", get(directory::fees))
        .route("/health", get(directory::health))
        .route("/quotes/model", post(quotes::create))
        .route("/batches/quote", post(quotes::create))
        .route("/quotes/{quote_id}", get(quotes::read))
}
