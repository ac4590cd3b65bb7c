//! Changes how a batch runs: its priority, and whether it is paused. All of these routes are
//! additions of batchd.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};

use super::routing::priority;
use super::{find, shown};
use crate::domain::batch::Batch;
use crate::domain::batch::priority::ControlChange;
use crate::domain::error::Code;
use crate::domain::id::BatchId;
use crate::executor::ControlError;
use crate::http::layers::caller::Caller;
use crate::http::openai::objects::BatchObject;
use crate::http::request::{Object, PathId};
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// `POST /v1/batches/{batch_id}`
pub async fn update(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
    body: Object,
) -> Result<Json<BatchObject>, ApiError> {
    body.only(&["priority", "paused"])?;
    let wish = ControlChange { priority: priority(&body)?, paused: body.flag("paused")? };
    if wish == ControlChange::default() {
        return Err(ApiError::new(Code::MissingParameter, "the body changes nothing; give `priority`, `paused` or both"));
    }
    Ok(Json(shown(&api, &change(&api, &caller, id, wish).await?)))
}

/// `POST /v1/batches/{batch_id}/pause`
pub async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<BatchObject>, ApiError> {
    let wish = ControlChange { paused: Some(true), ..ControlChange::default() };
    Ok(Json(shown(&api, &change(&api, &caller, id, wish).await?)))
}

/// `POST /v1/batches/{batch_id}/resume`
pub async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<BatchObject>, ApiError> {
    let wish = ControlChange { paused: Some(false), ..ControlChange::default() };
    Ok(Json(shown(&api, &change(&api, &caller, id, wish).await?)))
}

/// Changes how a batch runs that the caller reaches.
///
/// # Errors
/// When there is no such batch, or it has ended.
pub async fn change(api: &Api, caller: &Caller, id: BatchId, wish: ControlChange) -> Result<Batch, ApiError> {
    find(api, caller, id).await?;
    let executor = api.service.executor.clone();
    match api.to_the_end(async move { executor.control(id, wish).await }).await? {
        Ok(batch) => {
            let (priority, paused) = (batch.control.priority, batch.control.paused);
            tracing::info!(batch = %id, %priority, paused, "batch changed");
            Ok(batch)
        }
        Err(ControlError::NotFound) => Err(ApiError::not_found("batch", id)),
        Err(error @ ControlError::TooLate(_)) => Err(ApiError::new(Code::Conflict, error.to_string())),
        Err(ControlError::Gone(error)) => Err(error.into()),
        Err(ControlError::Store(error)) => Err(error.into()),
    }
}
