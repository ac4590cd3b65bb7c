//! Results: `GET /v1/batches/{id}/results` in pages, and `.../artifact-url` with its link to all
//! results at once.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_decimal::Decimal;
use serde_json::json;

use super::result_row;
use super::{find, status_of};
use crate::domain::batch::priority::Owner;
use crate::domain::batch::{Batch, BatchInput, BatchSpec};
use crate::domain::error::Code;
use crate::domain::file::{FileSource, ResultPart};
use crate::domain::id::{BatchId, FileId, RowIndex};
use crate::http::Api;
use crate::http::batchrouter::error::Refusal;
use crate::http::layers::caller::Caller;
use crate::http::request::{Params, PathId};
use crate::http::response::error::ApiError;
use crate::http::response::file_content::{check_results, result_lines};
use crate::http::response::read_ahead::counted;
use crate::http::response::signed_links::{Base, Signed};
use crate::http::response::stream;
use crate::http::response::time::moment;
use crate::store::{LineRender, Lines, blocking};

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// A page ends when it reaches this many bytes, however many rows the client asked for.
const PAGE_BYTES: usize = 16 << 20;
const NDJSON: &str = "application/x-ndjson";

/// The fee on top of the providers' charges, in percent of these charges.
fn fee(spec: &BatchSpec) -> Decimal {
    match &spec.input {
        BatchInput::Quoted(order) => order.fee,
        BatchInput::Unquoted { .. } => Decimal::ZERO,
    }
}

/// `GET /v1/batches/{batch_id}/results`
pub async fn page(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    PathId(id): PathId<BatchId>,
    params: Params,
) -> Result<Response, Refusal> {
    let limit = params.limit(DEFAULT_PAGE, MAX_PAGE)?;
    let from = params.text("cursor")?.map(row_of).transpose()?.unwrap_or(RowIndex(0));
    let batch = find(&api, &caller, id).await?;
    let status = status_of(&api, &batch);
    if !batch.state.is_terminal() {
        let message = format!("the batch is {status}; its results can be read when it has ended");
        return Err(ApiError::new(Code::ResultsNotReady, message).into());
    }
    if headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains(NDJSON)) {
        return Ok(lines(&api, caller.owner(), &batch, ResultPart::All).await?);
    }
    let mut lines = result_lines(&api, &batch, ResultPart::All).await?;
    lines.start_at(from);
    let fee = fee(&batch.spec);
    // A result has more fields here than in its line.
    let expected = lines.expected_bytes().unwrap_or(0).saturating_mul(2).min(PAGE_BYTES as u64);
    let room = api.read_ahead.of(caller.owner()).acquire(expected).await.map_err(ApiError::from)?;
    let body = blocking(move || read_page(&mut lines, limit, fee)).await.map_err(ApiError::from)?;
    Ok(([(CONTENT_TYPE, "application/json")], counted(body.into(), room)).into_response())
}

/// A page in the form that is sent.
fn read_page(lines: &mut Lines, limit: usize, fee: Decimal) -> Result<Vec<u8>, crate::store::error::StoreError> {
    let mut body = b"{\"data\":[".to_vec();
    let (mut count, mut last) = (0, None);
    let mut next = lines.next_result()?;
    while let Some(result) = next.as_ref().filter(|_| count < limit && body.len() < PAGE_BYTES) {
        if count > 0 {
            body.push(b',');
        }
        result_row::write(result, fee, &mut body);
        (count, last) = (count + 1, Some(result.key.row));
        next = lines.next_result()?;
    }
    let cursor = next.and(last).map(cursor_after);
    body.extend_from_slice(format!("],\"has_more\":{},\"next_cursor\":{}}}", cursor.is_some(), json!(cursor)).as_bytes());
    Ok(body)
}

/// The cursor for the place after a row, which clients hand back.
fn cursor_after(row: RowIndex) -> String {
    URL_SAFE_NO_PAD.encode(format!("row:{}", row.0))
}

fn row_of(cursor: &str) -> Result<RowIndex, ApiError> {
    let row = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        text.strip_prefix("row:")?.parse::<u32>().ok()?.checked_add(1).map(RowIndex)
    };
    row().ok_or_else(|| ApiError::invalid("cursor", "`cursor` must be the `next_cursor` of an earlier page"))
}

/// Every result of a part, one row per line.
async fn lines(api: &Api, owner: Owner, batch: &Batch, part: ResultPart) -> Result<Response, ApiError> {
    let lines = result_lines(api, batch, part).await?;
    let fee = fee(&batch.spec);
    let render = LineRender(Arc::new(move |result, out| {
        result_row::write(result, fee, out);
        out.push(b'\n');
    }));
    Ok(([(CONTENT_TYPE, NDJSON)], stream::body(lines.rendered(render), api.read_ahead.of(owner))).into_response())
}

/// `GET /v1/batches/{batch_id}/artifact-url`
pub async fn artifact_url(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    PathId(id): PathId<BatchId>,
) -> Result<Response, Refusal> {
    let batch = find(&api, &caller, id).await?;
    if !batch.state.is_terminal() {
        let message = format!("the batch is {}; its results can be read when it has ended", status_of(&api, &batch));
        return Err(ApiError::new(Code::ResultsNotReady, message).into());
    }
    check_results(&api, &batch, ResultPart::All).await?;
    let base = Base::of(api.public_url.as_deref(), &headers);
    let link = base.link(api.service.store.seal(), artifact_of(id), api.service.clock.now());
    Ok(Json(json!({ "url": link.url, "expires_at": moment(link.expires_at), "content_type": NDJSON })).into_response())
}

/// The file with all results of a batch; its id has the batch's own number.
pub fn artifact_of(batch: BatchId) -> FileId {
    FileId::from_u128(batch.as_u128())
}

/// `GET /v1/files/{file_id}?expires=...&signature=...`: the target of a signed link.
pub async fn download(api: &Api, Signed(file): Signed) -> Result<Response, ApiError> {
    let known = api.service.store.file(file, api.service.clock.now()).await?;
    let (id, part) = match known.map(|file| file.source) {
        Some(FileSource::View { batch, part }) => (batch, part),
        Some(FileSource::Uploaded { .. }) => return Err(ApiError::not_found("result file", file.in_hex())),
        None => (BatchId::from_u128(file.as_u128()), ResultPart::All),
    };
    let batch = api.service.store.batch(id).await?.ok_or_else(|| ApiError::not_found("result file", file.in_hex()))?;
    // Whoever has the link, it is the batch's owner who gave it.
    let mut response = lines(api, batch.spec.owner, &batch, part).await?;
    let name = format!("attachment; filename=\"{}.jsonl\"", file.in_hex());
    response.headers_mut().insert(CONTENT_DISPOSITION, name.parse().map_err(ApiError::internal)?);
    Ok(response)
}
