//! The Phaseo dialect: its views of the catalog, batches and what happens to them, files.

pub mod batches;
mod capabilities;
pub mod context;
mod data;
pub mod error;
pub mod feed;
pub mod files;
mod models;
mod params;
pub mod webhook_endpoints;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use serde::Serialize;

use super::state::Api;
use crate::webhooks::Render;

/// What Phaseo's server says of all that it makes itself.
const CACHE: &str = "no-store";

/// A list that has no pages.
#[derive(Serialize)]
struct Listing<T> {
    object: &'static str,
    data: Vec<T>,
}

const RECEIVER: &str = "/webhook-endpoints/{endpoint_id}";

/// The routes, to be mounted below a version.
pub fn routes() -> Router<Arc<Api>> {
    own().merge(shared("/batches")).merge(files_at("/files"))
}

/// Those that other dialects have, too, below one of the two names of batches.
fn shared(batches: &str) -> Router<Arc<Api>> {
    Router::new()
        .route(batches, get(batches::list).post(batches::create))
        .route(&format!("{batches}/{{batch_id}}"), get(batches::retrieve).delete(batches::delete))
        .route(&format!("{batches}/{{batch_id}}/cancel"), post(batches::cancel))
        .route(&format!("{batches}/{{batch_id}}/results"), get(batches::results))
}

fn files_at(files: &str) -> Router<Arc<Api>> {
    Router::new()
        .route(files, get(files::list).post(files::create))
        .route(&format!("{files}/{{file_id}}"), get(files::retrieve))
        .route(&format!("{files}/{{file_id}}/content"), get(files::content))
}

/// Those that no other dialect has. `/batch` is another name of `/batches`.
pub fn own() -> Router<Arc<Api>> {
    let mut own = Router::new()
        .route("/data/models", get(data::list))
        .route("/async/{kind}/{id}/ws", get(feed::socket))
        .route("/webhook-endpoints", get(webhook_endpoints::list).post(webhook_endpoints::create))
        .route(RECEIVER, get(webhook_endpoints::retrieve).patch(webhook_endpoints::change).delete(webhook_endpoints::delete))
        .route(&format!("{RECEIVER}/rotate-secret"), post(webhook_endpoints::rotate))
        .route(&format!("{RECEIVER}/test"), post(webhook_endpoints::test))
        .merge(shared("/batch"));
    for batches in ["/batches", "/batch"] {
        own = own
            .route(&format!("{batches}/models"), get(models::list))
            .route(&format!("{batches}/capabilities"), get(capabilities::list))
            .route(&format!("{batches}/{{batch_id}}/requests"), get(batches::requests))
            .route(&format!("{batches}/{{batch_id}}/events"), get(feed::events))
            .merge(files_at(&format!("{batches}/files")));
    }
    own
}

/// What followers of a batch are told, in every dialect.
pub use self::batches::job::message as batch_message;

/// What messages about batches tell, with links to this base URL.
pub fn told_of_batches(base: Option<String>) -> Render {
    let place = batches::object::Place::at(base);
    Arc::new(move |batch, details| batches::job::at(&batch_message(batch, details), &place).into_bytes())
}
