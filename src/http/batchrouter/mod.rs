//! The BatchRouter dialect: its catalog, quotes, batches of items, files, accounts, and open
//! routes.

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

use super::route_table::{RouteEntry, routes};

/// The routes below a version.
pub const ROUTES: &[RouteEntry] = routes! {
    shared "/files" Key { post: files::create }
    shared "/files/{file_id}" Key { get: files::retrieve }
    shared "/batches" Key { get: batches::list, post: batches::create }
    shared "/batches/{batch_id}" Key { get: batches::retrieve, delete: batches::delete }
    shared "/batches/{batch_id}/cancel" Key { post: batches::cancel }
    shared "/batches/{batch_id}/results" Key { get: batches::page }
    // Any web page may call this route: BatchRouter's documents promise that.
    own "/catalog/models" Public { get: models::models, options: models::preflight }
    own "/catalog/workflow-products" Open { get: workflows::list }
    own "/catalog/workflow-products/{slug}" Open { get: workflows::retrieve }
    own "/quotes/workflow" Key { post: workflows::quote }
    own "/providers" Open { get: directory::providers }
    own "/pricing/fees" Open { get: directory::fees }
    own "/health" Open { get: directory::health }
    own "/quotes/model" Key { post: quotes::create }
    own "/batches/quote" Key { post: quotes::create }
    own "/quotes/{quote_id}" Key { get: quotes::read }
    own "/auth/account" Key { get: account::account }
    own "/auth/account/quotas" Key { get: account::quotas }
    own "/auth/account/api-keys" Manage { get: account::list_keys, post: account::create_key }
    own "/auth/account/api-keys/{api_key_id}" Manage { delete: account::revoke_key }
    own "/auth/account/delivery-webhook" Manage { get: account::webhook, put: account::set_webhook, delete: account::remove_webhook }
    own "/auth/agent-register" Open { post: account::register }
    own "/batches/input-manifests" Key { post: files::create }
    own "/batches/{batch_id}/artifact-url" Key { get: batches::artifact_url }
    own "/batches/{batch_id}/billing-receipt" Key { get: batches::billing_receipt }
};
