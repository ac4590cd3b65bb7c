//! The Phaseo dialect: its views of the catalog, its batches and their events, and its files.

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

use serde::Serialize;

use super::route_table::{RouteEntry, routes};
use crate::webhooks::Render;

/// The `cache-control` that Phaseo's server sends with every answer of its own.
const CACHE: &str = "no-store";

/// A list without pages.
#[derive(Serialize)]
struct PhaseoList<T> {
    object: &'static str,
    data: Vec<T>,
}

/// The routes below a version.
pub const ROUTES: &[RouteEntry] = routes! {
    shared "/batches" Key { get: batches::list, post: batches::create }
    shared "/batches/{batch_id}" Key { get: batches::retrieve, delete: batches::delete }
    shared "/batches/{batch_id}/cancel" Key { post: batches::cancel }
    shared "/batches/{batch_id}/results" Key { get: batches::results }
    own "/batches/models" Key { get: models::list }
    own "/batches/capabilities" Key { get: capabilities::list }
    own "/data/models" Key { get: data::list }
    own "/batches/{batch_id}/requests" Key { get: batches::requests }
    own "/webhook-endpoints" Management { get: webhook_endpoints::list, post: webhook_endpoints::create }
    own "/webhook-endpoints/{endpoint_id}" Management {
        get: webhook_endpoints::retrieve, patch: webhook_endpoints::change, delete: webhook_endpoints::delete
    }
    own "/webhook-endpoints/{endpoint_id}/rotate-secret" Management { post: webhook_endpoints::rotate }
    own "/webhook-endpoints/{endpoint_id}/test" Management { post: webhook_endpoints::test }
    own "/batches/{batch_id}/events" Key { get: feed::events }
    own "/async/{kind}/{id}/ws" Key { get: feed::socket }
    own "/batches/files" Key { get: files::list, post: files::create }
    own "/batches/files/{file_id}" Key { get: files::retrieve }
    own "/batches/files/{file_id}/content" Key { get: files::content }
};

/// `/batch` is another name of `/batches`.
pub const OTHER_NAMES: &[RouteEntry] = routes! {
    own "/batch" Key { get: batches::list, post: batches::create }
    own "/batch/{batch_id}" Key { get: batches::retrieve, delete: batches::delete }
    own "/batch/{batch_id}/cancel" Key { post: batches::cancel }
    own "/batch/{batch_id}/results" Key { get: batches::results }
    own "/batch/models" Key { get: models::list }
    own "/batch/capabilities" Key { get: capabilities::list }
    own "/batch/{batch_id}/requests" Key { get: batches::requests }
    own "/batch/{batch_id}/events" Key { get: feed::events }
    own "/batch/files" Key { get: files::list, post: files::create }
    own "/batch/files/{file_id}" Key { get: files::retrieve }
    own "/batch/files/{file_id}/content" Key { get: files::content }
};

/// The paths where Phaseo's clients expect files when the dialect is mounted by itself.
pub const FILES: &[RouteEntry] = routes! {
    own "/files" Key { get: files::list, post: files::create }
    own "/files/{file_id}" Key { get: files::retrieve }
    own "/files/{file_id}/content" Key { get: files::content }
};

/// The message that followers of a batch get, in every dialect.
pub use self::batches::job::message as batch_message;

/// Renders the content of messages about batches, with links to this base URL.
pub fn told_of_batches(base: Option<String>) -> Render {
    let place = batches::object::BatchLinks::at(base);
    Arc::new(move |batch, details| batches::job::at(&batch_message(batch, details), &place).into_bytes())
}
