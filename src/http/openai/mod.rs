//! The OpenAI dialect: files, uploads, batches, models, as in OpenAI's published document.
//!
//! Additions to the document are kept apart from it: a `batchd` object in the batch, the fields
//! `priority` and `provider` of a create, and the routes `cost-estimate`, `results`, `retry`,
//! `pause`, `resume`, and the `POST` to and the `DELETE` of a batch.

pub mod batches;
pub mod files;
mod models;
pub mod objects;
mod uploads;

use super::route_table::{RouteEntry, routes};

/// The routes below a version.
pub const ROUTES: &[RouteEntry] = routes! {
    shared "/files" Key { get: files::list, post: files::create }
    shared "/files/{file_id}" Key { get: files::retrieve, delete: files::delete }
    own "/files/{file_id}/content" Key { get: batches::results::content }
    own "/files/{file_id}/cost-estimate" Key { get: files::cost_estimate::estimate }
    own "/uploads" Key { post: uploads::create }
    own "/uploads/{upload_id}" Key { get: uploads::retrieve }
    own "/uploads/{upload_id}/parts" Key { post: uploads::add_part }
    own "/uploads/{upload_id}/complete" Key { post: uploads::complete }
    own "/uploads/{upload_id}/cancel" Key { post: uploads::cancel }
    shared "/batches" Key { get: batches::list, post: batches::create::create }
    shared "/batches/{batch_id}" Key { get: batches::retrieve, post: batches::control::update, delete: batches::delete }
    own "/batches/{batch_id}/pause" Key { post: batches::control::pause }
    own "/batches/{batch_id}/resume" Key { post: batches::control::resume }
    shared "/batches/{batch_id}/cancel" Key { post: batches::cancel }
    own "/batches/{batch_id}/retry" Key { post: batches::retry }
    shared "/batches/{batch_id}/results" Key { get: batches::results }
    own "/models" Key { get: models::list }
    own "/models/{*model}" Key { get: models::retrieve }
};
