//! `POST /v1/files` as BatchRouter has it, and `POST /v1/batches/input-manifests`, its older name
//! for input files alone: a form with `file`, or the lines themselves as the body.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::batches::download;
use super::error::Refusal;
use crate::domain::error::Code;
use crate::domain::file::{File, FileSource, Purpose};
use crate::domain::id::FileId;
use crate::domain::text::hex;
use crate::http::layers::caller::Caller;
use crate::http::request::file_upload::{ReceivedFile, keep};
use crate::http::request::multipart::{Cap, MultipartForm, seal, spool_body};
use crate::http::request::{PathId, header_text, media_type, unknown_choice};
use crate::http::response::error::ApiError;
use crate::http::response::signed_links::Signed;
use crate::http::response::time::moment;
use crate::http::state::Api;
use crate::store::Spool;

const ITEM_COUNT: HeaderName = HeaderName::from_static("x-batchrouter-item-count");
const SHA256: HeaderName = HeaderName::from_static("x-content-sha256");
/// Media types of bodies that consist of lines.
const LINES: [&str; 3] = ["application/x-ndjson", "application/jsonl", "application/x-jsonlines"];

/// Whether a body of this media type consists of lines.
pub fn is_lines(media: &str) -> bool {
    LINES.contains(&media)
}

/// `POST /v1/files`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    api.check_open()?;
    let upload = match media_type(&headers) {
        Some(kind) if is_lines(&kind) => {
            let cap = Cap { bytes: api.limits.max_file_bytes, what: "a file uploaded in one request" };
            let spool = spool_body(request, &api, cap).await?;
            ReceivedUpload { filename: "items.jsonl".to_owned(), mime: kind, spool, purpose: Purpose::Batch }
        }
        _ => read_form(&api, MultipartForm::from_request(request, &api).await?).await?,
    };
    let ReceivedUpload { filename, mime, spool, purpose } = upload;
    let content = seal(spool).await?;
    check_digest(&headers, &content.sha256)?;
    let received = ReceivedFile { filename, mime, purpose, content, expires_after: None }.unpacked(&api).await?;
    check_count(&headers, received.content.lines)?;
    let file = keep(&api, &caller, received).await?;
    Ok((StatusCode::CREATED, Json(object(&file))))
}

/// `GET /v1/files/{file_id}`: the file's object, or, for a signed link, the file's content.
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    signed: Option<Extension<Signed>>,
    id: Result<PathId<FileId>, ApiError>,
) -> Result<Response, Refusal> {
    if let Some(Extension(signed)) = signed {
        return Ok(download(&api, signed).await?);
    }
    let PathId(id) = id?;
    let file = api.service.store.file(id, api.service.clock.now()).await.map_err(ApiError::from)?;
    let file = file.filter(|file| caller.reaches(file.org)).ok_or_else(|| ApiError::not_found("file", id.in_hex()))?;
    Ok(Json(object(&file)).into_response())
}

struct ReceivedUpload {
    filename: String,
    mime: String,
    spool: Spool,
    purpose: Purpose,
}

async fn read_form(api: &Api, mut form: MultipartForm) -> Result<ReceivedUpload, ApiError> {
    let cap = Cap { bytes: api.limits.max_file_bytes, what: "a file uploaded in one request" };
    form.check(api, cap)?;
    let (mut file, mut purpose) = (None, None);
    while let Some(part) = form.next().await? {
        match part.name.as_str() {
            "file" if file.is_some() => return Err(ApiError::invalid("file", "the form has the field `file` twice")),
            "file" => file = Some((part.filename(), part.mime(), part.spool(api, cap).await?)),
            "purpose" => {
                let text = part.text().await?;
                // An attachment is what OpenAI calls user data.
                purpose = Some(match text.as_str() {
                    "batch" => Purpose::Batch,
                    "attachment" | "user_data" | "vision" => Purpose::UserData,
                    other => return Err(unknown_choice("purpose", other, "`batch`, `attachment`")),
                });
            }
            // The part is read to its end within the limit of a text, and ignored like unknown
            // fields elsewhere.
            _ => _ = part.text().await?,
        }
    }
    let (filename, mime, spool) = file.ok_or_else(|| ApiError::missing("file", "it holds the file to upload"))?;
    Ok(ReceivedUpload { filename, mime, spool, purpose: purpose.unwrap_or(Purpose::Batch) })
}

/// Compares the received content with the client's header about its digest.
fn check_digest(headers: &HeaderMap, sha256: &[u8; 32]) -> Result<(), ApiError> {
    let found = hex(sha256);
    match header_text(headers, &SHA256) {
        Some(stated) if !stated.trim().eq_ignore_ascii_case(&found) => mismatch(&SHA256, &format!("its SHA-256 is {found}")),
        Some(_) | None => Ok(()),
    }
}

/// Compares the content with the client's header about its number of lines.
fn check_count(headers: &HeaderMap, lines: u64) -> Result<(), ApiError> {
    match header_text(headers, &ITEM_COUNT) {
        Some(stated) if stated.trim().parse() != Ok(lines) => mismatch(&ITEM_COUNT, &format!("it has {lines} lines")),
        Some(_) | None => Ok(()),
    }
}

fn mismatch(name: &HeaderName, found: &str) -> Result<(), ApiError> {
    let message = format!("`{name}` does not fit the body: {found}; nothing was kept");
    Err(ApiError::new(Code::ChecksumMismatch, message).param(name.as_str()))
}

/// A file as this dialect shows it; `id`, `object` and `bytes` are there for clients in OpenAI's
/// style.
fn object(file: &File) -> Value {
    let id = file.id.in_hex();
    let purpose = match file.purpose {
        Purpose::UserData => "attachment",
        other => other.as_str(),
    };
    let sha256 = match &file.source {
        FileSource::Uploaded { sha256 } => Some(hex(sha256)),
        FileSource::View { .. } => None,
    };
    json!({
        "file_id": id, "input_file_id": id, "id": id, "object": "file", "filename": file.filename, "bytes": file.bytes,
        "purpose": purpose, "content_type": file.mime, "sha256": sha256,
        "created_at": moment(file.created_at), "expires_at": file.expires_at.map(moment),
    })
}
