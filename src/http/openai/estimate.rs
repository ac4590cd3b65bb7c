//! `GET /v1/files/{file_id}/cost-estimate`: what a batch over a file would cost, before it runs.
//!
//! Ours; the hosted API has no such call. Money is written as decimal strings in US dollars.

use std::io::BufReader;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::domain::endpoint::Endpoint;
use crate::domain::file::Purpose;
use crate::domain::id::FileId;
use crate::http::Api;
use crate::http::error::ApiError;
use crate::http::extract::{Params, PathId};
use crate::http::form::blocking;
use crate::route::{self, CostEstimate, EstimateError, EstimateLimits};
use crate::store::StoreError;

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// An estimate on the wire.
#[derive(Debug, Serialize)]
pub struct Estimate {
    object: &'static str,
    file_id: String,
    currency: &'static str,
    /// Over all models.
    total_cost: String,
    /// `false` if a model of the file has no price or nobody to serve it: the total then leaves it out.
    complete: bool,
    rows: u64,
    unusable_rows: u64,
    /// The first of the rows that cannot be read, counted from 1.
    unusable_lines: Vec<u64>,
    models: Vec<ModelCost>,
    basis: &'static str,
}

#[derive(Debug, Serialize)]
struct ModelCost {
    model: String,
    provider: Option<String>,
    upstream_model: Option<String>,
    problem: Option<String>,
    rows: u64,
    input_tokens: u64,
    output_tokens: u64,
    rows_without_output_limit: u64,
    images: u64,
    /// Null if no price is known.
    cost: Option<String>,
}

/// `GET /v1/files/{file_id}/cost-estimate`
pub async fn estimate(State(api): State<Arc<Api>>, PathId(id): PathId<FileId>, params: Params) -> Result<Json<Estimate>, ApiError> {
    let endpoint = params.choice("endpoint", &Endpoint::ALL.map(|endpoint| (endpoint.path(), endpoint)))?;
    let file = api.store.file(id, api.clock.now()).await?.ok_or_else(|| ApiError::not_found("file", id))?;
    if file.purpose != Purpose::Batch {
        let message = format!("`{id}` was uploaded for `{}`; only a file for `batch` has a cost", file.purpose.as_str());
        return Err(ApiError::invalid("file_id", message));
    }
    let (store, snapshot) = (api.store.clone(), api.catalog.current());
    let limits = EstimateLimits { max_line_bytes: api.limits.max_line_bytes };
    let estimated = blocking(move || {
        let content = BufReader::with_capacity(BUFFER, store.open_content(id)?);
        match route::estimate(content, endpoint, &snapshot, limits) {
            Err(EstimateError::Read(error)) => Err(StoreError::unreadable(id, &error)),
            Err(error @ EstimateError::TooManyModels) => Ok(Err(ApiError::invalid("file_id", error.to_string()))),
            Ok(estimate) => Ok(Ok(estimate)),
        }
    });
    Ok(Json(render(id, estimated.await??)))
}

fn render(id: FileId, estimate: CostEstimate) -> Estimate {
    let complete = estimate.unusable == 0 && estimate.models.iter().all(|model| model.priced);
    let models = estimate.models.into_iter().map(|model| {
        let (provider, upstream_model) = model.target.unzip();
        ModelCost {
            model: model.requested,
            provider,
            upstream_model,
            problem: model.problem,
            rows: model.rows,
            input_tokens: model.input_tokens,
            output_tokens: model.output_tokens,
            rows_without_output_limit: model.assumed_rows,
            images: model.images,
            cost: model.priced.then(|| model.cost.to_string()),
        }
    });
    Estimate {
        object: "file.cost_estimate",
        file_id: id.to_string(),
        currency: "USD",
        total_cost: estimate.total.to_string(),
        complete,
        rows: estimate.rows,
        unusable_rows: estimate.unusable,
        unusable_lines: estimate.unusable_lines,
        models: models.collect(),
        basis: estimate.basis,
    }
}
