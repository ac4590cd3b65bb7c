//! `GET /v1/files/{file_id}/cost-estimate`: the cost of a batch over a file, before it runs.
//!
//! An addition of batchd; the hosted API has no such call. Money is written as decimal strings in
//! US dollars.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Weak};

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::find;
use crate::domain::endpoint::Endpoint;
use crate::domain::file::Purpose;
use crate::domain::id::FileId;
use crate::http::layers::caller::Caller;
use crate::http::request::{Params, PathId};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::quote::file_estimate::{self, CostEstimate, EstimateError, EstimateLimits};
use crate::store::blocking;
use crate::store::error::StoreError;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Concurrent estimates: each keeps a processor busy, which the running batches need too.
static SLOTS: Semaphore = Semaphore::const_new(2);

/// An estimate on the wire.
#[derive(Debug, Serialize)]
pub struct Estimate {
    object: &'static str,
    file_id: String,
    currency: &'static str,
    /// The cost over all models.
    total_cost: String,
    /// `false` if a model of the file has no price or no provider: the total then omits that model.
    complete: bool,
    rows: u64,
    unusable_rows: u64,
    /// The first rows that cannot be read, counted from 1.
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
    /// Null if the price is not known.
    cost: Option<String>,
}

/// `GET /v1/files/{file_id}/cost-estimate`
pub async fn estimate(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<FileId>,
    params: Params,
) -> Result<Json<Estimate>, ApiError> {
    let endpoint = params.choice("endpoint", &Endpoint::ALL.map(|endpoint| (endpoint.path(), endpoint)))?;
    let file = find(&api, &caller, id).await?;
    if file.purpose != Purpose::Batch {
        let message = format!("`{id}` was uploaded for `{}`; only a file for `batch` has a cost", file.purpose.as_str());
        return Err(ApiError::invalid("file_id", message));
    }
    let (store, snapshot) = (api.service.store.clone(), api.service.catalog.current());
    let limits = EstimateLimits { max_line_bytes: api.service.limits.max_line_bytes };
    let slot = SLOTS.acquire().await.map_err(ApiError::internal)?;
    let wanted = Arc::new(());
    let asked = Arc::downgrade(&wanted);
    let estimated = blocking(move || {
        // Held until the work ends, which may be after the client has gone away.
        let _slot = slot;
        let content = BufReader::with_capacity(BUFFER, WhileAsked { inner: store.open_verified(&file)?, asked });
        match file_estimate::estimate(content, endpoint, &snapshot, limits) {
            Err(EstimateError::Read(error)) => Err(StoreError::unreadable(id, &error)),
            Err(error @ EstimateError::TooManyModels) => Ok(Err(ApiError::invalid("file_id", error.to_string()))),
            Ok(estimate) => Ok(Ok(estimate)),
        }
    });
    let estimate = estimated.await??;
    // Held until here: when the client goes away, this handler is dropped and `wanted` with it.
    drop(wanted);
    Ok(Json(render(id, estimate)))
}

/// A reader that fails once no client waits for the estimate.
struct WhileAsked<R> {
    inner: R,
    asked: Weak<()>,
}

impl<R: Read> Read for WhileAsked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.asked.strong_count() {
            0 => Err(io::Error::other("the client went away")),
            _ => self.inner.read(buf),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ends_when_nobody_asks_any_more() {
        let wanted = Arc::new(());
        let mut reader = WhileAsked { inner: io::repeat(b'x'), asked: Arc::downgrade(&wanted) };
        let mut buf = [0; 8];
        assert_eq!(reader.read(&mut buf).unwrap(), 8);
        drop(wanted);
        assert!(reader.read(&mut buf).is_err());
    }
}
