//! The OpenAI dialect: files, uploads, batches, models, as in OpenAI's published document.
//!
//! What the document does not have is kept apart from it: a `batchd` object in the batch, the fields
//! `priority` and `provider` of a create, and the routes `cost-estimate`, `results`, `retry`, `pause`,
//! `resume`, and the `POST` to and the `DELETE` of a batch.

pub mod batches;
pub mod files;
mod models;
pub mod objects;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::state::Api;

/// The routes, to be mounted below a version.
pub fn routes() -> Router<Arc<Api>> {
    own().merge(shared())
}

/// Those that other dialects have, too.
fn shared() -> Router<Arc<Api>> {
    Router::new()
        .route("/files", get(files::list).post(files::create))
        .route("/files/{file_id}", get(files::retrieve).delete(files::delete))
        .route("/batches", get(batches::list).post(batches::create::create))
        .route("/batches/{batch_id}", get(batches::retrieve).post(batches::control::update).delete(batches::delete))
        .route("/batches/{batch_id}/cancel", post(batches::cancel))
        .route("/batches/{batch_id}/results", get(batches::results))
}

/// Those that no other dialect has.
pub fn own() -> Router<Arc<Api>> {
    Router::new()
        .route("/files/{file_id}/content", get(batches::results::content))
        .route("/files/{file_id}/cost-estimate", get(files::cost_estimate::estimate))
        .route("/uploads", post(uploads::create))
        .route("/uploads/{upload_id}", get(uploads::retrieve))
        .route("/uploads/{upload_id}/parts", post(uploads::add_part))
        .route("/uploads/{upload_id}/complete", post(uploads::complete))
        .route("/uploads/{upload_id}/cancel", post(uploads::cancel))
        .route("/batches/{batch_id}/pause", post(batches::control::pause))
        .route("/batches/{batch_id}/resume", post(batches::control::resume))
        .route("/batches/{batch_id}/retry", post(batches::retry))
        .route("/models", get(models::list))
        .route("/models/{*model}", get(models::retrieve))
}
