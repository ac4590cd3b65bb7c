//! `GET /v1/batches/{batch_id}/requests`: the rows one by one, without their request and response
//! bodies.
//!
//! The list is not stored: a row's place, id and body are in the input file, and its outcome is in
//! the results.

use std::io::{BufReader, Seek, SeekFrom};
use std::sync::Arc;

use axum::extract::{RawPathParams, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::billing::{nanos, number};
use super::find;
use super::moments::{text, updated};
use crate::domain::batch::{Batch, BatchState};
use crate::domain::file::ResultPart;
use crate::domain::id::{RowIndex, RowKey};
use crate::domain::row::lines::{Line, Lines};
use crate::domain::row::output::{CANCELLED, EXPIRED};
use crate::domain::row::{Outcome, RowResult};
use crate::domain::text::hex;
use crate::http::layers::caller::Caller;
use crate::http::phaseo::context::Context;
use crate::http::phaseo::error::respond;
use crate::http::request::Params;
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::error::StoreError;
use crate::store::{Page, ROWS_PER_PAGE, blocking};

const DEFAULT_ROWS: usize = 100;
const MAX_ROWS: usize = 1_000;
/// The most rows whose results are read for one answer: a filter may match few rows of many.
const MOST_LOOKED_AT: usize = 100_000;
/// The most characters of an error's message.
const MAX_MESSAGE: usize = 500;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RequestsQuery {
    limit: usize,
    offset: usize,
    status: Option<String>,
}

impl RequestsQuery {
    /// Reads a query: numbers are clamped, and a value that is not a number counts as absent.
    fn read(params: &Params) -> Self {
        let number = |name: &str| params.all(name).first().and_then(|text| text.trim().parse::<usize>().ok());
        Self {
            limit: number("limit").unwrap_or(DEFAULT_ROWS).clamp(1, MAX_ROWS),
            offset: number("offset").unwrap_or(0),
            status: params.all("status").first().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()),
        }
    }
}

/// `GET /v1/batches/{batch_id}/requests`
pub async fn requests(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    path: RawPathParams,
    params: Params,
) -> Response {
    let read = async {
        let batch = find(&api, &caller, &path).await?;
        let (id, asked) = (batch.spec.id.in_upper(), RequestsQuery::read(&params));
        let pages = api.service.store.pages(batch.spec.id).await.map_err(ApiError::from)?;
        let reader = api.clone();
        let data = blocking(move || rows(&reader, &batch, &pages, &asked)).await.map_err(ApiError::from)?;
        Ok(([("cache-control", crate::http::phaseo::CACHE)], Json(json!({ "object": "list", "batch_id": id, "data": data })))
            .into_response())
    };
    respond(read.await, &context)
}

fn rows(api: &Api, batch: &Batch, pages: &[Page], asked: &RequestsQuery) -> Result<Vec<Value>, StoreError> {
    let mut wanted = Vec::new();
    let (mut skip, mut looked_at) = (asked.offset, 0);
    'pages: for (number, page) in (0_u32..).zip(pages) {
        for slot in 0..u32::from(page.rows) {
            if !may_be(batch, page, slot, asked.status.as_deref()) {
                continue;
            }
            let row = RowIndex(number * ROWS_PER_PAGE + slot);
            // Without a filter, the result of a skipped row need not be read.
            let result = match skip > 0 && asked.status.is_none() || !page.is_done(slot) {
                true => None,
                false => {
                    looked_at += 1;
                    api.service.store.result_of(RowKey { batch: batch.spec.id, row })?
                }
            };
            let status = status(batch, result.as_ref());
            if asked.status.as_ref().is_some_and(|asked| asked != status) {
                if looked_at == MOST_LOOKED_AT {
                    break 'pages;
                }
                continue;
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            wanted.push((row, status, result));
            if wanted.len() == asked.limit {
                break 'pages;
            }
        }
    }
    with_input(api, batch, pages, wanted)
}

/// Whether a row may have a status, as far as its page shows.
fn may_be(batch: &Batch, page: &Page, slot: u32, status: Option<&str>) -> bool {
    match status {
        None => true,
        Some("completed") => page.includes(slot, ResultPart::Output),
        Some("failed" | "cancelled" | "expired") => page.includes(slot, ResultPart::Errors),
        Some(word) => !page.is_done(slot) && word == open(batch),
    }
}

/// The status of rows without a result.
fn open(batch: &Batch) -> &'static str {
    match batch.state {
        BatchState::Validating => "validating",
        _ => "in_progress",
    }
}

fn status(batch: &Batch, result: Option<&RowResult>) -> &'static str {
    match result.map(|result| &result.outcome) {
        None => open(batch),
        Some(Outcome::Succeeded(_)) => "completed",
        Some(Outcome::Rejected(_) | Outcome::Failed { .. }) => "failed",
        Some(Outcome::Expired { .. }) => "expired",
        Some(Outcome::Cancelled { .. }) => "cancelled",
    }
}

/// Adds to the rows what the input file says about them. The rows come in the order of the file, so
/// each page is read once.
fn with_input(
    api: &Api,
    batch: &Batch,
    pages: &[Page],
    wanted: Vec<(RowIndex, &'static str, Option<RowResult>)>,
) -> Result<Vec<Value>, StoreError> {
    let unreadable = |error: std::io::Error| StoreError::unreadable(batch.spec.input_file, &error);
    let mut shown = Vec::with_capacity(wanted.len());
    let mut wanted = wanted.into_iter().peekable();
    while let Some((first, ..)) = wanted.peek() {
        let number = first.0 / ROWS_PER_PAGE;
        let Some(page) = pages.get(number as usize) else { break };
        let mut content = api.service.store.open_content(batch.spec.input_file)?;
        content.seek(SeekFrom::Start(page.input_offset)).map_err(unreadable)?;
        let mut lines = Lines::new(BufReader::new(content), api.service.limits.max_line_bytes);
        let mut row = number * ROWS_PER_PAGE;
        while wanted.peek().is_some_and(|(next, ..)| next.0 / ROWS_PER_PAGE == number) && lines.advance().map_err(unreadable)?.is_some() {
            if let Some((at, status, result)) = wanted.next_if(|(next, ..)| next.0 == row) {
                shown.push(object(batch, at, status, result.as_ref(), lines.latest()));
            }
            row += 1;
        }
        // Rows that the file has lost since it was checked cannot be shown.
        while wanted.next_if(|(next, ..)| next.0 / ROWS_PER_PAGE == number).is_some() {}
    }
    Ok(shown)
}

fn object(batch: &Batch, row: RowIndex, status: &'static str, result: Option<&RowResult>, line: Line<'_>) -> Value {
    let asked = match line {
        Line::Text(text) => batch.spec.input.parse(text).ok(),
        Line::TooLong => None,
    };
    let gateway = batch.spec.gateway().map(|(_, gateway)| gateway);
    let id = batch.spec.id.in_upper();
    let response = result.and_then(|result| result.outcome.response()).map(|response| response.status);
    let provider = result.and_then(|result| result.attempts.last()).and_then(|attempt| attempt.lane.split('/').next());
    let succeeded = result.filter(|result| result.outcome.is_success());
    json!({
        "id": row_id(batch, row),
        "custom_id": asked.as_ref().map(|asked| asked.custom_id.as_ref()).or(result.map(|result| result.custom_id.as_str())),
        "request_index": row.0,
        "provider": provider.or(gateway.map(|gateway| gateway.provider.as_str())),
        "native_batch_id": id,
        "method": "POST",
        "endpoint": gateway.map(|gateway| gateway.endpoint.path()),
        "model": asked.as_ref().map(|asked| asked.model.as_ref()),
        "status": status,
        "request_body_hash": asked.as_ref().map(|asked| hex(&Sha256::digest(asked.body))),
        "response_status": response,
        "response_body": null,
        "error_body": result.and_then(error),
        "usage": succeeded.map(|result| json!({
            "input_tokens": result.usage.input_tokens, "output_tokens": result.usage.output_tokens, "total_tokens": result.usage.total_tokens(),
        })),
        "cost_nanos": succeeded.map(|result| nanos(result.cost)),
        "cost_usd": succeeded.map(|result| number(result.cost)),
        "meta": { "input_mode": gateway.map(|gateway| gateway.mode) },
        "created_at": text(batch.spec.created_at),
        "updated_at": text(result.map_or_else(|| updated(batch), |result| result.finished_at)),
        "completed_at": result.map(|result| text(result.finished_at)),
    })
}

/// A UUID for a row: always the same for the same row.
fn row_id(batch: &Batch, row: RowIndex) -> String {
    let number = RowKey { batch: batch.spec.id, row }.number();
    uuid::Builder::from_random_bytes(number.to_be_bytes()).into_uuid().to_string()
}

fn error(result: &RowResult) -> Option<Value> {
    let short = |message: &str| message.chars().take(MAX_MESSAGE).collect::<String>();
    let plain = |(code, message): (&str, &str)| json!({ "type": "batch_error", "code": code, "message": short(message) });
    match &result.outcome {
        Outcome::Succeeded(_) => None,
        Outcome::Failed { error, .. } => Some(plain((&error.code, &error.message))),
        Outcome::Expired { .. } => Some(plain(EXPIRED)),
        Outcome::Cancelled { .. } => Some(plain(CANCELLED)),
        Outcome::Rejected(response) => {
            let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            let of = |name: &str| body["error"][name].as_str().map(short);
            let message = of("message").unwrap_or_else(|| "the provider refused the request".to_owned());
            Some(json!({ "type": of("type").unwrap_or_else(|| "provider_error".to_owned()), "code": of("code"), "message": message }))
        }
    }
}
