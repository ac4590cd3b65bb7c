//! The BatchRouter dialect: its catalog, quotes, batches of items, files, accounts, and what anybody may
//! ask.

pub mod account;
pub mod batches;
mod directory;
pub mod error;
pub mod files;
mod models;
mod money;
mod quotes;
mod routing;
mod workflows;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};

use super::state::Api;

/// The routes, to be mounted below a version.
pub fn routes() -> Router<Arc<Api>> {
    own().merge(shared())
}

/// Those that other dialects have, too.
fn shared() -> Router<Arc<Api>> {
    Router::new()
        .route("/files", post(files::create))
        .route("/files/{file_id}", get(files::retrieve))
        .route("/batches", get(batches::list).post(batches::create))
        .route("/batches/{batch_id}", get(batches::retrieve).delete(batches::delete))
        .route("/batches/{batch_id}/cancel", post(batches::cancel))
        .route("/batches/{batch_id}/results", get(batches::page))
}

/// Those that no other dialect has.
pub fn own() -> Router<Arc<Api>> {
    Router::new()
        .route("/catalog/models", get(models::models).options(models::preflight))
        .route("/catalog/workflow-products", get(workflows::list))
        .route("/catalog/workflow-products/{slug}", get(workflows::retrieve))
        .route("/quotes/workflow", post(workflows::quote))
        .route("/providers", get(directory::providers))
        .route("/pricing/fees", get(directory::fees))
        .route("/health", get(directory::health))
        .route("/quotes/model", post(quotes::create))
        .route("/batches/quote", post(quotes::create))
        .route("/quotes/{quote_id}", get(quotes::read))
        .route("/auth/account", get(account::account))
        .route("/auth/account/api-keys", get(account::list_keys).post(account::create_key))
        .route("/auth/account/api-keys/{api_key_id}", delete(account::revoke_key))
        .route("/auth/account/delivery-webhook", get(account::webhook).put(account::set_webhook).delete(account::remove_webhook))
        .route("/auth/agent-register", post(account::register))
        .route("/batches/input-manifests", post(files::create))
        .route("/batches/{batch_id}/artifact-url", get(batches::artifact_url))
        .route("/batches/{batch_id}/billing-receipt", get(batches::billing_receipt))
}
