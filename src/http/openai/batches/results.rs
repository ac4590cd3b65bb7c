//! `GET /v1/files/{file_id}/content`: the content of results and of uploaded files.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use crate::domain::id::FileId;
use crate::http::layers::caller::Caller;
use crate::http::openai::files::find;
use crate::http::request::PathId;
use crate::http::response::error::ApiError;
use crate::http::response::file_content::file_content;
use crate::http::state::Api;

/// `GET /v1/files/{file_id}/content`
pub async fn content(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    PathId(id): PathId<FileId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = find(&api, &caller, id).await?;
    file_content(&api, caller.owner(), &file, &headers).await
}
