//! Phaseo's files: the same as OpenAI's, under two paths, in this dialect's envelope; and an upload
//! as JSON, which Phaseo's Python client sends.

use std::sync::Arc;

use axum::extract::{FromRequest, RawPathParams, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::context::Context;
use super::error::{Refusal, respond};
use crate::domain::error::Code;
use crate::domain::file::{File, Purpose};
use crate::domain::id::FileId;
use crate::http::layers::caller::Caller;
use crate::http::openai::objects::{FileObject, List};
use crate::http::request::file_upload::{ReceivedFile, file_query, keep, receive};
use crate::http::request::held_body::read_held;
use crate::http::request::multipart::MultipartForm;
use crate::http::request::{Params, media_type, named, not_json};
use crate::http::response::error::ApiError;
use crate::http::response::file_content::file_content;
use crate::http::state::Api;
use crate::store::{Sealed, blocking};

/// `POST /v1/files`: a form, or JSON with `purpose` and `file`.
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let created = async {
        api.check_open()?;
        let is_json = media_type(&headers).is_some_and(|kind| kind == "application/json" || kind.ends_with("+json"));
        if is_json {
            return from_json(&api, &caller, request).await;
        }
        let form = MultipartForm::from_request(request, &api).await?;
        let file = receive(&api, &caller, form).await.map_err(too_large)?;
        Ok(Json(FileObject::from(&file)).into_response())
    };
    respond(created.await, &context)
}

/// The refusal of an upload that is too large; other errors stay unchanged.
fn too_large(error: ApiError) -> Refusal {
    match error.code() {
        Code::TooLarge => {
            Refusal::nested(StatusCode::PAYLOAD_TOO_LARGE, "validation_error", "batch_file_too_large", error.message().to_owned())
        }
        _ => error.into(),
    }
}

/// An upload as JSON: the file is a `data:` URL, or its text.
#[derive(Deserialize)]
struct JsonUpload {
    #[serde(default)]
    purpose: Option<String>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    filename: Option<String>,
}

async fn from_json(api: &Arc<Api>, caller: &Caller, request: Request) -> Result<Response, Refusal> {
    let most = api.service.limits.quotes.max_body_bytes;
    let (_held, body) = read_held(request, api, caller.owner(), most).await.map_err(too_large)?;
    let upload: JsonUpload = serde_json::from_slice(&body).map_err(|error| match error.is_data() {
        true => Refusal::invalid("invalid_batch_file", format!("the body must be an object with the texts `purpose` and `file`: {error}")),
        false => not_json(&error).into(),
    })?;
    drop(body);
    let purpose = upload.purpose.as_deref().unwrap_or("batch");
    let purpose = Purpose::ALL.into_iter().find(|known| known.as_str() == purpose);
    let purpose =
        purpose.ok_or_else(|| Refusal::invalid("invalid_batch_file", "`purpose` must be `batch`, or another purpose of a file"))?;
    let content = content_of(upload.file.as_deref().unwrap_or_default())?;
    if content.is_empty() {
        return Err(Refusal::nested(StatusCode::BAD_REQUEST, "validation_error", "batch_file_empty", "`file` is missing or empty"));
    }
    let filename = upload.filename.filter(|name| !name.is_empty() && name.len() <= 255).unwrap_or_else(|| "batch.jsonl".to_owned());
    let content = sealed(api, content).await?;
    let received = ReceivedFile { filename, mime: "application/jsonl".to_owned(), purpose, content, expires_after: None };
    let received = received.unpacked(api).await.map_err(too_large)?;
    Ok(Json(FileObject::from(&keep(api, caller, received).await?)).into_response())
}

/// The bytes of a `data:` URL, or the bytes of any other text as they are.
fn content_of(text: &str) -> Result<Bytes, Refusal> {
    let Some((_, encoded)) = text.strip_prefix("data:").and_then(|rest| rest.split_once(',')) else {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    };
    let is_base64 = text.split(',').next().is_some_and(|head| head.ends_with(";base64"));
    match is_base64 {
        true => {
            let decoded = STANDARD.decode(encoded.trim());
            decoded.map(Bytes::from).map_err(|error| Refusal::invalid("invalid_batch_file", format!("`file` is no valid base64: {error}")))
        }
        false => Ok(Bytes::copy_from_slice(encoded.as_bytes())),
    }
}

/// Content that came within a JSON body, written to disk.
async fn sealed(api: &Api, content: Bytes) -> Result<Sealed, ApiError> {
    api.check_room(content.len() as u64)?;
    let store = api.service.store.clone();
    let sealing = move || {
        let mut spool = store.spool()?;
        spool.write(&content)?;
        spool.seal()
    };
    Ok(blocking(sealing).await?)
}

/// `GET /v1/files`: the hosted service has no list of files; this list is OpenAI's.
pub async fn list(State(api): State<Arc<Api>>, caller: Extension<Caller>, context: Context, params: Params) -> Response {
    let listed = async {
        let query = file_query(&params, caller.org, api.service.clock.now())?;
        let listing = api.service.store.files(query).await?;
        Ok(Json(List::of(listing, |file| (file.id.to_string(), FileObject::from(file)))).into_response())
    };
    respond(listed.await, &context)
}

/// The file that a path names, if it is the caller's.
async fn find(api: &Api, caller: &Caller, path: &RawPathParams) -> Result<File, Refusal> {
    let named = named(path, "file_id");
    let not_there = || Refusal::not_found("file_not_found_or_not_owned", "file_id", named);
    let id: FileId = named.parse().map_err(|_| not_there())?;
    let file = api.service.store.file(id, api.service.clock.now()).await?;
    file.filter(|file| caller.reaches(file.org)).ok_or_else(not_there)
}

/// `GET /v1/files/{file_id}`
pub async fn retrieve(State(api): State<Arc<Api>>, caller: Extension<Caller>, context: Context, path: RawPathParams) -> Response {
    let found = find(&api, &caller, &path).await;
    respond(found.map(|file| Json(FileObject::from(&file)).into_response()), &context)
}

/// `GET /v1/files/{file_id}/content`
pub async fn content(
    State(api): State<Arc<Api>>,
    caller: Extension<Caller>,
    context: Context,
    path: RawPathParams,
    headers: HeaderMap,
) -> Response {
    let read = async {
        let file = find(&api, &caller, &path).await?;
        Ok(file_content(&api, caller.owner(), &file, &headers).await?)
    };
    respond(read.await, &context)
}
