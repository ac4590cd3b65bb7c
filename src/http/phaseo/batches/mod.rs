//! Phaseo's batches: create, list, read, cancel, delete, and the outcomes of their rows.

mod billing;
pub mod common;
mod create;
pub(in crate::http) mod create_body;
mod endpoint;
pub mod job;
pub mod moments;
pub mod object;
mod requests;
mod results;
mod routing;
mod shorthand;
mod subscription;
mod webhook_object;

use std::sync::Arc;

use axum::extract::{RawPathParams, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

pub use self::create::{create, create_from};
use self::moments::updated;
use self::object::{BatchLinks, lifecycle, list_item, object};
pub use self::requests::requests;
pub use self::results::results;
use super::context::Context;
use super::error::{Refusal, respond};
use crate::domain::batch::Batch;
use crate::domain::id::BatchId;
use crate::executor::CancelError;
use crate::http::layers::caller::Caller;
use crate::http::openai::objects::Deleted;
use crate::http::request::{Params, named};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::{BatchDeletion, BatchQuery};

const DEFAULT_LIST: i64 = 20;
const MAX_LIST: i64 = 100;
/// The most batches that a list examines, and how many it loads at a time: it takes the newest
/// batches and orders them by their last change, the latest first.
const LOOKED_AT: usize = 2_000;
const AT_A_TIME: usize = 100;

/// The batch of the workspace that the path names.
///
/// # Errors
/// When there is no such batch: the client cannot tell a batch of another workspace from one that
/// does not exist.
pub async fn find(api: &Api, caller: &Caller, path: &RawPathParams) -> Result<Batch, Refusal> {
    let named = named(path, "batch_id");
    let not_found = || not_there(named);
    let id: BatchId = named.parse().map_err(|_| not_found())?;
    let batch = api.service.store.batch(id).await.map_err(ApiError::from)?;
    batch.filter(|batch| caller.reaches(batch.spec.org)).ok_or_else(not_found)
}

fn not_there(id: &str) -> Refusal {
    Refusal::not_found("batch_not_found_or_not_owned", "batch_id", id)
}

/// `GET /v1/batches/{batch_id}`; the query is ignored.
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    headers: HeaderMap,
    path: RawPathParams,
) -> Response {
    let read = async {
        let batch = find(&api, &caller, &path).await?;
        Ok(Json(object(&api, &headers, &context, &batch).await?).into_response())
    };
    respond(read.await, &context)
}

/// `POST /v1/batches/{batch_id}/cancel`; a batch that has ended stays unchanged.
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    headers: HeaderMap,
    path: RawPathParams,
) -> Response {
    let cancelled = async {
        let batch = find(&api, &caller, &path).await?;
        let (executor, id) = (api.service.executor.clone(), batch.spec.id);
        let batch = match batch.state.is_terminal() {
            true => batch,
            false => match api.to_the_end(async move { executor.cancel(id).await }).await? {
                Ok(batch) => batch,
                Err(CancelError::NotFound | CancelError::TooLate(_)) => find(&api, &caller, &path).await?,
                Err(CancelError::Gone(error)) => return Err(ApiError::from(error).into()),
                Err(CancelError::Store(error)) => return Err(ApiError::from(error).into()),
            },
        };
        Ok(Json(object(&api, &headers, &context, &batch).await?).into_response())
    };
    respond(cancelled.await, &context)
}

/// `DELETE /v1/batches/{batch_id}`; our own extension. Followers of the batch get `job.deleted`.
pub async fn delete(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, context: Context, path: RawPathParams) -> Response {
    let deleted = async {
        let batch = find(&api, &caller, &path).await?;
        match api.service.delete_batch(batch.spec.id).await? {
            BatchDeletion::Deleted => Ok(Json(Deleted::batch(batch.spec.id.in_upper())).into_response()),
            BatchDeletion::NotFound => Err(not_there(named(&path, "batch_id"))),
            BatchDeletion::NotEnded(state) => {
                let message = ApiError::not_ended(state).message().to_owned();
                Err(Refusal::flat(StatusCode::CONFLICT, "not_ready", "batch_not_terminal", message))
            }
        }
    };
    respond(deleted.await, &context)
}

/// `GET /v1/batches`: the batches that changed last come first; there are no pages.
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let listed = async {
        let (limit, wanted) = (limit(&params), wanted(&params));
        let batches = latest(&api, &caller, limit, &wanted).await?;
        let place = BatchLinks::of(&api, &headers, &context);
        let mut data = Vec::with_capacity(batches.len());
        for batch in &batches {
            data.push(list_item(batch, &api.service.details(batch).await?, &place));
        }
        let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
        let (first, last) = (id(data.first()), id(data.last()));
        let body = json!({ "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": false });
        Ok(([("cache-control", super::CACHE)], Json(body)).into_response())
    };
    respond(listed.await, &context)
}

/// The batches that changed last, among those that match the filter.
async fn latest(api: &Api, caller: &Caller, limit: usize, wanted: &[&str]) -> Result<Vec<Batch>, ApiError> {
    let mut latest: Vec<Batch> = Vec::new();
    let mut after = None;
    for _ in 0..LOOKED_AT / AT_A_TIME {
        let listing = api.service.store.batches(BatchQuery { after, limit: AT_A_TIME, org: Some(caller.org) }).await?;
        after = listing.items.last().map(|batch| batch.spec.id);
        latest.extend(listing.items.into_iter().filter(|batch| wanted.is_empty() || wanted.contains(&lifecycle(&batch.state))));
        latest.sort_by_key(|batch| std::cmp::Reverse(updated(batch)));
        latest.truncate(limit);
        if !listing.has_more {
            break;
        }
    }
    Ok(latest)
}

/// The limit of a list, from 1 to 100; a value that is not a number counts as absent.
fn limit(params: &Params) -> usize {
    let stated = params.all("limit").first().and_then(|text| text.trim().parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, reason = "clamped before")]
    let limit = stated.map_or(DEFAULT_LIST, |limit| limit.clamp(1.0, 1e9) as i64).clamp(1, MAX_LIST);
    usize::try_from(limit).unwrap_or(1)
}

/// The short state that a word of a list's filter stands for.
fn state_of(word: &str) -> Option<&'static str> {
    Some(match word.trim().to_ascii_lowercase().as_str() {
        "pending" | "queued" => "pending",
        "in_progress" | "running" | "processing" => "running",
        "completed" => "completed",
        "failed" => "failed",
        "expired" => "expired",
        "cancelled" | "canceled" => "cancelled",
        _ => return None,
    })
}

/// The states of `status` and `statuses`, each repeated or separated by commas. Unknown words are
/// dropped; if no word is left, the list is not filtered.
fn wanted(params: &Params) -> Vec<&'static str> {
    let words = ["status", "statuses"].into_iter().flat_map(|name| params.all(name));
    words.flat_map(|words| words.split(',').filter_map(state_of).collect::<Vec<_>>()).collect()
}
