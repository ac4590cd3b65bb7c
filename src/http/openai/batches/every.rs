//! `/admin/batches`: the batches of every organisation, for the operator to look at and to stop.
//!
//! The objects are those of this API, and tell besides whose a batch is.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;

use super::{DEFAULT_LIST, MAX_LIST, control, find, shown, stop};
use crate::domain::batch::Batch;
use crate::domain::batch::priority::ControlChange;
use crate::domain::dialect::Dialect;
use crate::domain::id::{BatchId, OrgId};
use crate::http::layers::caller::Caller;
use crate::http::openai::objects::{BatchObject, List};
use crate::http::request::{Params, PathId};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::BatchQuery;

/// A batch, whose it is, and the API that made it.
#[derive(Debug, Serialize)]
pub struct OwnedBatch {
    #[serde(flatten)]
    batch: BatchObject,
    org_id: String,
    dialect: Dialect,
}

/// `GET /admin/batches`: the newest first; `org_id` selects those of one organisation.
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    params: Params,
) -> Result<Json<List<OwnedBatch>>, ApiError> {
    let org = params.id::<OrgId>("org_id")?;
    let query = BatchQuery { after: params.id("after")?, limit: params.limit(DEFAULT_LIST, MAX_LIST)?, org };
    let listing = api.service.store.batches(query).await?;
    let owners = listing.items.iter().map(|batch| batch.spec.org);
    // The audit log names the organisation that was asked for, or else the first other one.
    for owner in org.into_iter().chain(owners) {
        caller.reaches(owner);
    }
    Ok(Json(List::of(listing, |batch| (batch.spec.id.to_string(), with_owner(&api, batch)))))
}

/// `GET /admin/batches/{batch_id}`
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<OwnedBatch>, ApiError> {
    Ok(Json(with_owner(&api, &find(&api, &caller, id).await?)))
}

/// `POST /admin/batches/{batch_id}/pause`
pub async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<OwnedBatch>, ApiError> {
    set_paused(&api, &caller, id, true).await
}

/// `POST /admin/batches/{batch_id}/resume`
pub async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<OwnedBatch>, ApiError> {
    set_paused(&api, &caller, id, false).await
}

async fn set_paused(api: &Api, caller: &Caller, id: BatchId, paused: bool) -> Result<Json<OwnedBatch>, ApiError> {
    let wish = ControlChange { paused: Some(paused), ..ControlChange::default() };
    Ok(Json(with_owner(api, &control::change(api, caller, id, wish).await?)))
}

/// `POST /admin/batches/{batch_id}/cancel`
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<BatchId>,
) -> Result<Json<OwnedBatch>, ApiError> {
    Ok(Json(with_owner(&api, &stop(&api, &caller, id).await?)))
}

fn with_owner(api: &Api, batch: &Batch) -> OwnedBatch {
    OwnedBatch { batch: shown(api, batch), org_id: batch.spec.org.to_string(), dialect: batch.spec.dialect }
}
