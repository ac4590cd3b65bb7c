//! `/v1/batches`: list, retrieve, cancel, delete, retry, read results.

pub mod control;
pub mod create;
pub mod every;
pub mod results;
pub mod routing;

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::objects::{BatchObject, Deleted, List};
use crate::domain::batch::Batch;
use crate::domain::error::Code;
use crate::domain::file::ResultPart;
use crate::domain::id::BatchId;
use crate::executor::CancelError;
use crate::http::Api;
use crate::http::layers::caller::Caller;
use crate::http::request::{Params, PathId};
use crate::http::response::error::ApiError;
use crate::http::response::file_content::result_lines;
use crate::http::response::stream;
use crate::store::{BatchDeletion, BatchQuery};

const DEFAULT_LIST: usize = 20;
const MAX_LIST: usize = 100;

/// `GET /v1/batches`
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    params: Params,
) -> Result<Json<List<BatchObject>>, ApiError> {
    let query = BatchQuery { after: params.id("after")?, limit: params.limit(DEFAULT_LIST, MAX_LIST)?, org: Some(caller.org) };
    let listing = api.service.store.batches(query).await?;
    Ok(Json(List::of(listing, |batch| (batch.spec.id.to_string(), shown(&api, batch)))))
}

/// Renders a batch, and why its rows wait.
pub fn shown(api: &Api, batch: &Batch) -> BatchObject {
    BatchObject::new(batch, &api.service.waiting(batch))
}

/// Finds a batch that the caller reaches.
///
/// # Errors
/// When there is no such batch.
pub async fn find(api: &Api, caller: &Caller, id: BatchId) -> Result<Batch, ApiError> {
    let batch = api.service.store.batch(id).await?.filter(|batch| caller.reaches(batch.spec.org));
    batch.ok_or_else(|| ApiError::not_found("batch", id))
}

/// `GET /v1/batches/{batch_id}`
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<BatchObject>, ApiError> {
    Ok(Json(shown(&api, &find(&api, &caller, id).await?)))
}

/// `POST /v1/batches/{batch_id}/cancel`
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<BatchObject>, ApiError> {
    Ok(Json(shown(&api, &stop(&api, &caller, id).await?)))
}

/// Cancels a batch that the caller reaches.
///
/// # Errors
/// When there is no such batch, or it has ended.
pub async fn stop(api: &Api, caller: &Caller, id: BatchId) -> Result<Batch, ApiError> {
    // The executor knows only unfinished batches.
    find(api, caller, id).await?;
    let executor = api.service.executor.clone();
    match api.to_the_end(async move { executor.cancel(id).await }).await? {
        Ok(batch) => Ok(batch),
        Err(CancelError::NotFound) => Err(ApiError::not_found("batch", id)),
        Err(error @ CancelError::TooLate(_)) => Err(ApiError::new(Code::Conflict, error.to_string())),
        Err(CancelError::Gone(error)) => Err(error.into()),
        Err(CancelError::Store(error)) => Err(error.into()),
    }
}

/// `DELETE /v1/batches/{batch_id}`; an addition of batchd.
pub async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<Deleted>, ApiError> {
    find(&api, &caller, id).await?;
    match api.service.delete_batch(id).await? {
        BatchDeletion::Deleted => Ok(Json(Deleted::batch(id.to_string()))),
        BatchDeletion::NotFound => Err(ApiError::not_found("batch", id)),
        BatchDeletion::NotEnded(state) => Err(ApiError::not_ended(state)),
    }
}
/// `POST /v1/batches/{batch_id}/retry`; an addition of batchd.
pub async fn retry(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<BatchObject>, ApiError> {
    api.check_open()?;
    api.check_room(0)?;
    api.service.check_unlimited(caller.org).await?;
    find(&api, &caller, id).await?;
    let batch = api.service.retry(id).await?;
    tracing::info!(batch = %batch.spec.id, of = %id, "batch created to run rows again");
    Ok(Json(shown(&api, &batch)))
}

/// `GET /v1/batches/{batch_id}/results`, an addition of batchd: the results that are durable so
/// far, in the order of the input; with `include=attempts` also the attempts of each row.
pub async fn results(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
    params: Params,
) -> Result<Response, ApiError> {
    let parts = [("output", ResultPart::Output), ("errors", ResultPart::Errors), ("all", ResultPart::All)];
    let part = params.choice("part", &parts)?.unwrap_or(ResultPart::All);
    let attempts = params.choice("include", &[("attempts", ())])?.is_some();
    let batch = find(&api, &caller, id).await?;
    let lines = result_lines(&api, &batch, part).await?;
    let share = api.read_ahead.of(caller.owner());
    let kind = (CONTENT_TYPE, "application/x-ndjson".to_owned());
    if attempts {
        return Ok(([kind], stream::body(lines.with_attempts(), share)).into_response());
    }
    let headers = [kind, (CONTENT_LENGTH, lines.bytes().to_string())];
    Ok((headers, stream::body(lines, share)).into_response())
}
