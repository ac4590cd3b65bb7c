//! `/v1/files`: upload, list, retrieve, delete.

pub mod cost_estimate;

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};

use super::objects::{Deleted, FileObject, List};
use crate::domain::file::File;
use crate::domain::id::FileId;
use crate::http::layers::caller::Caller;
use crate::http::request::file_upload::{file_query, receive};
use crate::http::request::multipart::MultipartForm;
use crate::http::request::{Params, PathId};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::Deletion;

/// `GET /v1/files`
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    params: Params,
) -> Result<Json<List<FileObject>>, ApiError> {
    let query = file_query(&params, caller.org, api.service.clock.now())?;
    let listing = api.service.store.files(query).await?;
    Ok(Json(List::of(listing, |file| (file.id.to_string(), FileObject::from(file)))))
}

/// Finds a file that the caller reaches.
///
/// # Errors
/// When there is no such file.
pub async fn find(api: &Api, caller: &Caller, id: FileId) -> Result<File, ApiError> {
    let file = api.service.store.file(id, api.service.clock.now()).await?.filter(|file| caller.reaches(file.org));
    file.ok_or_else(|| ApiError::not_found("file", id))
}

/// `GET /v1/files/{file_id}`
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<FileId>,
) -> Result<Json<FileObject>, ApiError> {
    let file = find(&api, &caller, id).await?;
    Ok(Json(FileObject::from(&file)))
}

/// `DELETE /v1/files/{file_id}`
pub async fn delete(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<FileId>,
) -> Result<Json<Deleted>, ApiError> {
    find(&api, &caller, id).await?;
    let store = api.service.store.clone();
    match api.to_the_end(async move { store.delete_file(id).await }).await?? {
        Deletion::Deleted => Ok(Json(Deleted::file(id))),
        Deletion::NotFound => Err(ApiError::not_found("file", id)),
    }
}

/// `POST /v1/files`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    form: MultipartForm,
) -> Result<Json<FileObject>, ApiError> {
    Ok(Json(FileObject::from(&receive(&api, &caller, form).await?)))
}
