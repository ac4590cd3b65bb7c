//! `/v1/uploads`: a large file in parts, joined on completion.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};

use super::objects::{PartObject, UploadObject};
use crate::domain::error::Code;
use crate::domain::file::upload::{LIFETIME, MAX_PARTS, Upload, UploadState};
use crate::domain::id::{PartId, UploadId};
use crate::domain::time::later;
use crate::http::layers::caller::Caller;
use crate::http::request::file_upload::{not_unpacked, purposes, unpack_limits, uploadable};
use crate::http::request::multipart::{Cap, MultipartForm, seal};
use crate::http::request::{Object, PathId, parse_id};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::{CompleteError, PartError};

/// The most characters of a file's name and of its media type.
const MAX_TEXT_CHARS: usize = 255;

/// `POST /v1/uploads`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Object,
) -> Result<Json<UploadObject>, ApiError> {
    api.check_open()?;
    body.only(&["filename", "purpose", "bytes", "mime_type", "expires_after"])?;
    let bytes = body.need_integer("bytes", "it is the size of the whole file")?;
    let most = api.limits.max_upload_bytes;
    let bytes = u64::try_from(bytes).ok().filter(|bytes| (1..=most).contains(bytes));
    let bytes = bytes.ok_or_else(|| ApiError::invalid("bytes", format!("`bytes` must be from 1 to {most}")))?;
    let purpose = uploadable(body.need_text("purpose", &format!("it must be one of {}", purposes()))?)?;
    let now = api.service.clock.now();
    let upload = Upload {
        id: UploadId::generate(now),
        org: caller.org,
        created_at: now,
        expires_at: later(now, LIFETIME),
        filename: short(&body, "filename", "it is the name of the file")?,
        bytes,
        mime_type: short(&body, "mime_type", "it is the media type of the file, such as `application/jsonl`")?,
        purpose,
        file_expires_after: body.expires_after("expires_after")?,
        state: UploadState::Pending,
    };
    api.check_room(bytes)?;
    api.service.store.create_upload(upload.clone()).await?;
    Ok(Json(UploadObject::new(&upload, None)))
}

fn short(body: &Object, field: &str, what: &str) -> Result<String, ApiError> {
    let text = body.need_text(field, what)?;
    if text.is_empty() || text.chars().count() > MAX_TEXT_CHARS || text.chars().any(char::is_control) {
        let message = format!("`{field}` must have 1 to {MAX_TEXT_CHARS} characters, none of them a control character");
        return Err(ApiError::invalid(field, message));
    }
    Ok(text.to_owned())
}

/// Finds an upload of the caller's; uploads of others count as absent.
async fn find(api: &Api, caller: &Caller, id: UploadId) -> Result<Upload, ApiError> {
    let upload = api.service.store.upload(id, api.service.clock.now()).await?.filter(|upload| upload.org == caller.org);
    upload.ok_or_else(|| ApiError::not_found("upload", id))
}

/// `GET /v1/uploads/{upload_id}`: an addition of batchd, for clients that lost track.
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<UploadId>,
) -> Result<Json<UploadObject>, ApiError> {
    let now = api.service.clock.now();
    let upload = find(&api, &caller, id).await?;
    let file = match upload.state {
        UploadState::Completed { file } => api.service.store.file(file, now).await?,
        UploadState::Pending | UploadState::Cancelled | UploadState::Expired => None,
    };
    Ok(Json(UploadObject::new(&upload, file.as_ref())))
}

/// `POST /v1/uploads/{upload_id}/parts`
pub async fn add_part(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<UploadId>,
    mut form: MultipartForm,
) -> Result<Json<PartObject>, ApiError> {
    let cap = Cap { bytes: api.limits.max_part_bytes, what: "a part of an upload" };
    form.check(&api, cap)?;
    // Checked before 64 MiB are read for nothing; whether the upload is pending is decided when the
    // part is added.
    find(&api, &caller, id).await?;
    let mut data = None;
    while let Some(part) = form.next().await? {
        if part.name != "data" {
            part.text().await?;
        } else if data.is_some() {
            return Err(ApiError::invalid("data", "the form has the field `data` twice"));
        } else {
            data = Some(part.spool(&api, cap).await?);
        }
    }
    let data = data.ok_or_else(|| ApiError::missing("data", "it holds the bytes of the part"))?;
    let content = seal(data).await?;
    let (store, now) = (api.service.store.clone(), api.service.clock.now());
    let added = api.to_the_end(async move { store.add_part(id, content, now).await }).await?;
    match added {
        Ok(part) => Ok(Json(PartObject::from(&part))),
        Err(PartError::NotFound) => Err(ApiError::not_found("upload", id)),
        Err(error @ (PartError::NotPending(_) | PartError::TooManyParts)) => Err(ApiError::new(Code::Conflict, error.to_string())),
        Err(error @ PartError::TooManyBytes(..)) => Err(ApiError::new(Code::TooLarge, error.to_string()).param("data")),
        Err(PartError::Store(error)) => Err(error.into()),
    }
}

/// `POST /v1/uploads/{upload_id}/complete`
pub async fn complete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<UploadId>,
    body: Object,
) -> Result<Json<UploadObject>, ApiError> {
    api.check_open()?;
    body.only(&["part_ids", "md5"])?;
    let parts = part_ids(&body)?;
    let md5 = body.text("md5")?.map(String::from);
    let now = api.service.clock.now();
    let upload = find(&api, &caller, id).await?;
    // The joined file needs room beside its parts until it is complete.
    api.check_room(upload.bytes)?;
    let retention = api.limits.retention(upload.purpose);
    let store = api.service.store.clone();
    let unpack = unpack_limits(&api, api.limits.max_upload_bytes);
    let completed = api.to_the_end(async move { store.complete_upload(id, parts, md5, retention, unpack, now).await }).await?;
    match completed {
        Ok((upload, file)) => {
            tracing::info!(upload = %id, file = %file.id, bytes = file.bytes, "upload completed");
            Ok(Json(UploadObject::new(&upload, Some(&file))))
        }
        Err(CompleteError::NotFound) => Err(ApiError::not_found("upload", id)),
        Err(error @ CompleteError::NotPending(_)) => Err(ApiError::new(Code::Conflict, error.to_string())),
        Err(error @ (CompleteError::UnknownPart(_) | CompleteError::RepeatedPart(_))) => {
            Err(ApiError::invalid("part_ids", error.to_string()))
        }
        Err(error @ CompleteError::WrongSize { .. }) => Err(ApiError::new(Code::ChecksumMismatch, error.to_string()).param("part_ids")),
        Err(error @ CompleteError::WrongMd5 { .. }) => Err(ApiError::new(Code::ChecksumMismatch, error.to_string()).param("md5")),
        Err(CompleteError::Unpack(error)) => Err(not_unpacked(error)),
        Err(CompleteError::Store(error)) => Err(error.into()),
    }
}

fn part_ids(body: &Object) -> Result<Vec<PartId>, ApiError> {
    let ids = body.need_array("part_ids", "it lists the parts in the order of the file")?;
    if ids.len() > MAX_PARTS {
        return Err(ApiError::invalid("part_ids", format!("`part_ids` may name at most {MAX_PARTS} parts")));
    }
    let parse = |(index, value): (usize, &serde_json::Value)| {
        let param = format!("part_ids[{index}]");
        let text = value.as_str().ok_or_else(|| ApiError::invalid(&param, format!("`{param}` must be a string")))?;
        parse_id(&param, text)
    };
    ids.iter().enumerate().map(parse).collect()
}

/// `POST /v1/uploads/{upload_id}/cancel`
pub async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<UploadId>,
) -> Result<Json<UploadObject>, ApiError> {
    find(&api, &caller, id).await?;
    let (store, now) = (api.service.store.clone(), api.service.clock.now());
    match api.to_the_end(async move { store.cancel_upload(id, now).await }).await?? {
        Some(Ok(upload)) => Ok(Json(UploadObject::new(&upload, None))),
        Some(Err(state)) => Err(ApiError::new(Code::Conflict, format!("the upload is {state}; only a pending one can be cancelled"))),
        None => Err(ApiError::not_found("upload", id)),
    }
}
