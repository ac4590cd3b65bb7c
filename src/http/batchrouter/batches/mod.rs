//! `/v1/batches` as BatchRouter has it: create from a quote, poll, list, cancel, delete, read
//! results.

mod create;
pub(in crate::http) mod create_body;
mod object;
mod receipt;
mod result_row;
mod results;

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

pub use self::create::{create, create_from, sealed};
pub use self::create_body::{check_receiver, receiver};
use self::object::{Around, object};
pub use self::receipt::read as billing_receipt;
pub use self::results::{artifact_url, download, page};
use super::error::Refusal;
use crate::domain::batch::Batch;
use crate::domain::error::Code;
use crate::domain::id::BatchId;
use crate::executor::CancelError;
use crate::http::layers::caller::Caller;
use crate::http::openai::objects::{Deleted, WaitingObject};
use crate::http::request::{Params, PathId};
use crate::http::response::error::ApiError;
use crate::http::response::signed_links::Base;
use crate::http::state::Api;
use crate::store::{BatchDeletion, BatchQuery};

const DEFAULT_LIST: usize = 20;
const MAX_LIST: usize = 100;

/// A batch that the caller reaches.
///
/// # Errors
/// When there is no such batch.
pub async fn find(api: &Api, caller: &Caller, id: BatchId) -> Result<Batch, ApiError> {
    let batch = api.service.store.batch(id).await?.filter(|batch| caller.reaches(batch.spec.org));
    batch.ok_or_else(|| ApiError::not_found("batch", id.in_hex()))
}

/// The dialect's word for the status of a batch.
fn status_of(api: &Api, batch: &Batch) -> &'static str {
    object::status(batch, api.service.executor.stage(batch.spec.id))
}

/// The batch object.
fn batch_object(api: &Api, headers: &HeaderMap, batch: &Batch) -> Map<String, Value> {
    let base = Base::of(api.public_url.as_deref(), headers);
    let stage = api.service.executor.stage(batch.spec.id);
    let mut shown = object(batch, &Around { stage, base: &base, seal: api.service.store.seal(), now: api.service.clock.now() });
    let waiting: Vec<_> = api.service.waiting(batch).iter().map(WaitingObject::from).collect();
    shown.insert("waiting".to_owned(), json!(waiting));
    shown.insert("warnings".to_owned(), json!(batch.plan.warnings));
    shown
}

/// The batch object both flat, as the newest documents have it, and under `batch`, as older clients
/// read it.
fn flat_and_wrapped(object: Map<String, Value>) -> Value {
    let mut flat = object.clone();
    flat.insert("batch".to_owned(), Value::Object(object));
    Value::Object(flat)
}

/// `GET /v1/batches/{batch_id}`
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    PathId(id): PathId<BatchId>,
    params: Params,
) -> Result<Json<Value>, Refusal> {
    let with_receipt = params.choice("include_billing_receipt", &[("true", true), ("false", false)])?.unwrap_or(false);
    let batch = find(&api, &caller, id).await?;
    let mut shown = batch_object(&api, &headers, &batch);
    if with_receipt {
        shown.insert("billing_receipt".to_owned(), json!(receipt::receipt(&api, &batch).await?));
    }
    Ok(Json(flat_and_wrapped(shown)))
}

/// `GET /v1/batches`: the caller's batches, newest first.
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    params: Params,
) -> Result<Json<Value>, Refusal> {
    let after = params.id("cursor")?;
    let query = BatchQuery { after, limit: params.limit(DEFAULT_LIST, MAX_LIST)?, org: Some(caller.org) };
    let listing = api.service.store.batches(query).await.map_err(ApiError::from)?;
    let last = listing.items.last().filter(|_| listing.has_more).map(|batch| batch.spec.id.in_hex());
    let data: Vec<_> = listing.items.iter().map(|batch| batch_object(&api, &headers, batch)).collect();
    Ok(Json(json!({ "data": data, "has_more": listing.has_more, "next_cursor": last })))
}

/// `POST /v1/batches/{batch_id}/cancel`
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    PathId(id): PathId<BatchId>,
) -> Result<Json<Value>, Refusal> {
    let batch = find(&api, &caller, id).await?;
    let too_late = |status: &str| ApiError::new(Code::BatchTerminal, format!("the batch is {status} and can no longer be cancelled"));
    if batch.state.is_terminal() {
        return Err(too_late(status_of(&api, &batch)).into());
    }
    let executor = api.service.executor.clone();
    match api.to_the_end(async move { executor.cancel(id).await }).await? {
        Ok(batch) => Ok(Json(flat_and_wrapped(batch_object(&api, &headers, &batch)))),
        Err(CancelError::NotFound) => Err(ApiError::not_found("batch", id.in_hex()).into()),
        Err(CancelError::TooLate(state)) => Err(too_late(state).into()),
        Err(CancelError::Gone(error)) => Err(ApiError::from(error).into()),
        Err(CancelError::Store(error)) => Err(ApiError::from(error).into()),
    }
}

/// `DELETE /v1/batches/{batch_id}`; our own extension.
pub async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<Deleted>, Refusal> {
    find(&api, &caller, id).await?;
    match api.service.delete_batch(id).await? {
        BatchDeletion::Deleted => Ok(Json(Deleted::batch(id.in_hex()))),
        BatchDeletion::NotFound => Err(ApiError::not_found("batch", id.in_hex()).into()),
        BatchDeletion::NotEnded(state) => Err(ApiError::not_ended(state).into()),
    }
}
