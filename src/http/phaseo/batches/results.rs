//! `GET /v1/batches/{batch_id}/results`: the lines of the output file, then the lines of the error
//! file.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawPathParams, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;

use super::find;
use crate::domain::batch::Batch;
use crate::domain::file::ResultPart;
use crate::http::Api;
use crate::http::layers::caller::Caller;
use crate::http::phaseo::context::Context;
use crate::http::phaseo::error::{Refusal, respond};
use crate::http::response::file_content::result_lines;
use crate::http::response::stream;

/// `GET /v1/batches/{batch_id}/results`
pub async fn results(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, context: Context, path: RawPathParams) -> Response {
    let read = async {
        let batch = find(&api, &caller, &path).await?;
        lines(&api, &caller, &batch).await
    };
    respond(read.await, &context)
}

async fn lines(api: &Api, caller: &Caller, batch: &Batch) -> Result<Response, Refusal> {
    let id = batch.spec.id.in_upper();
    if !batch.state.is_terminal() {
        let message = format!("the batch is {}; its results can be read when it has ended", batch.state.as_str());
        return Err(Refusal::flat(StatusCode::CONFLICT, "not_ready", "batch_not_terminal", message));
    }
    if batch.progress.total == 0 {
        let message = "nothing of the batch was run, so that there are no results";
        return Err(Refusal::flat(StatusCode::NOT_FOUND, "not_found", "batch_results_unavailable", message).with("batch_id", id));
    }
    // Both parts are opened before the first byte is sent.
    let output = result_lines(api, batch, ResultPart::Output).await?;
    let errors = result_lines(api, batch, ResultPart::Errors).await?;
    let body = [output, errors].map(|lines| stream::body(lines, api.read_ahead.of(caller.owner())).into_data_stream());
    let body = futures_util::stream::iter(body).flatten();
    let headers = [
        ("content-type", "application/x-ndjson".to_owned()),
        ("content-disposition", format!("attachment; filename=\"{id}.jsonl\"")),
        ("content-length", (batch.progress.output_bytes + batch.progress.error_bytes).to_string()),
        ("cache-control", "private, no-store".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}
