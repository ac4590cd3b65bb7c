//! The bytes of a file, whole or a range of them.
//!
//! A file never changes, so its `ETag` is strong and a cut download can be continued. The tag is
//! the hash of an uploaded file, or the id of a view, whose lines are rendered the same way each
//! time.

use std::ops::Range;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::ApiError;
use super::range::{Selection, select};
use super::read_ahead::OwnersShare;
use super::stream;
use super::stream::{Content, PIECE, Whole};
use crate::domain::batch::Batch;
use crate::domain::batch::priority::Owner;
use crate::domain::error::Code;
use crate::domain::file::{ANY_TYPE, File, FileSource, ResultPart};
use crate::domain::id::BatchId;
use crate::domain::text::hex;
use crate::http::state::Api;
use crate::store::error::StoreError;
use crate::store::{Lines, blocking};

/// The content of a file as a request asks for it, read within the share of this owner.
///
/// # Errors
/// When the range does not exist, the content is damaged, or the results are gone.
pub async fn file_content(api: &Api, owner: Owner, file: &File, headers: &HeaderMap) -> Result<Response, ApiError> {
    let etag = etag(file);
    let (status, range) = match select(headers, &etag, file.bytes) {
        Selection::Whole => (StatusCode::OK, 0..file.bytes),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Selection::Unsatisfiable => return Err(ApiError::range_not_satisfiable(file.bytes)),
        Selection::NotModified => return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response()),
    };
    let share = api.read_ahead.of(owner);
    let body = open(api, share, file, (status == StatusCode::PARTIAL_CONTENT).then(|| range.clone())).await?;
    let kind = match file.source {
        FileSource::Uploaded { .. } => ANY_TYPE,
        FileSource::View { .. } => "application/jsonl",
    };
    let mut headers: Vec<(HeaderName, String)> = vec![
        (CONTENT_TYPE, kind.into()),
        (CONTENT_LENGTH, (range.end - range.start).to_string()),
        (CONTENT_DISPOSITION, disposition(&file.filename)),
        (ACCEPT_RANGES, "bytes".into()),
        (ETAG, etag),
        // A file that a client uploaded must not run as a page of this server.
        (X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        headers.push((CONTENT_RANGE, format!("bytes {}-{}/{}", range.start, range.end - 1, file.bytes)));
    }
    let mut response = (status, body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().map_err(ApiError::internal)?);
    }
    Ok(response)
}

fn etag(file: &File) -> String {
    match &file.source {
        FileSource::Uploaded { sha256 } => format!("\"{}\"", hex(sha256)),
        FileSource::View { .. } => format!("\"{}\"", file.id),
    }
}

/// The body of a range, or of all of it.
async fn open(api: &Api, share: OwnersShare, file: &File, range: Option<Range<u64>>) -> Result<Body, ApiError> {
    match file.source {
        FileSource::Uploaded { .. } => {
            let (store, file) = (api.service.store.clone(), file.clone());
            let place = api.files.take(share.owner()).await;
            match range {
                Some(range) => {
                    let open = move || Ok::<_, StoreError>(Content::new(file.id, (store.open_part(&file)?, place), range));
                    Ok(stream::body(blocking(open).await?, share))
                }
                None => {
                    let room = share.acquire(PIECE).await?;
                    let open = move || Whole::open(file.id, (store.open_verified(&file)?, place), room);
                    Ok(stream::body(blocking(open).await?, share))
                }
            }
        }
        FileSource::View { batch, part } => {
            let mut lines = view(api, batch, part, Some(file.bytes)).await?;
            let range = range.unwrap_or(0..file.bytes);
            let lines = blocking(move || lines.limit_to(range).map(|()| lines)).await?;
            Ok(stream::body(lines, share))
        }
    }
}

/// The lines of a part of a batch, while none of the files that show the part is gone.
///
/// # Errors
/// When such a file was deleted or has expired.
pub async fn result_lines(api: &Api, batch: &Batch, part: ResultPart) -> Result<Lines, ApiError> {
    check_results(api, batch, part).await?;
    // The size is known only for a batch that has ended.
    let expected = batch.state.is_terminal().then(|| batch.progress.bytes(part));
    view(api, batch.spec.id, part, expected).await
}

/// Checks that the files that show a part of a batch are all there. Rows are removed a while after
/// the files that show them, and must not be seen in the meantime.
///
/// # Errors
/// When a file was deleted or has expired.
pub async fn check_results(api: &Api, batch: &Batch, part: ResultPart) -> Result<(), ApiError> {
    let files = batch.state.files();
    let (output, errors) = match part {
        ResultPart::Output => (files.output, None),
        ResultPart::Errors => (None, files.errors),
        ResultPart::All => (files.output, files.errors),
    };
    for file in [output, errors].into_iter().flatten() {
        if api.service.store.file(file, api.service.clock.now()).await?.is_none() {
            return Err(results_gone(batch.spec.id));
        }
    }
    Ok(())
}

fn results_gone(batch: BatchId) -> ApiError {
    let message = format!("the results of `{batch}` have expired or were deleted, and are being or have been removed");
    ApiError::new(Code::ResultsExpired, message)
}

/// The lines of a part of a batch; they must have `expected` bytes, if that is known.
async fn view(api: &Api, batch: BatchId, part: ResultPart, expected: Option<u64>) -> Result<Lines, ApiError> {
    let lines = api.service.store.lines(batch, part).await?.ok_or_else(|| ApiError::not_found("batch", batch))?;
    match expected {
        // Removing the results of a large batch takes a while; a partly removed result is not an
        // answer.
        Some(bytes) if lines.bytes() != bytes => Err(results_gone(batch)),
        Some(_) | None => Ok(lines),
    }
}

/// The characters that need no encoding in any part of a URL (RFC 3986).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Makes clients save the file under its own name (RFC 6266): plain for old clients,
/// percent-encoded for the rest.
fn disposition(filename: &str) -> String {
    let plain: String = filename.chars().map(|c| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%') { c } else { '_' }).collect();
    let encoded = utf8_percent_encode(filename, UNRESERVED);
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_break_out_of_its_header() {
        assert_eq!(disposition("in put.jsonl"), "attachment; filename=\"in put.jsonl\"; filename*=UTF-8''in%20put.jsonl");
        let nasty = disposition("a\"; x=\\\r\né%41.txt");
        assert_eq!(
            nasty,
            "attachment; filename=\"a_; x=____ _41.txt\"; filename*=UTF-8''a%22%3B%20x%3D%5C%0D%0A%C3%A9%2541.txt"
                .replace("____ _", "_____")
        );
    }
}
