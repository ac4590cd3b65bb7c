//! Answers that depend only on the catalog and on the state of the lanes: rendered once, served as
//! bytes to every client.
//!
//! A view is built from a snapshot into a [`Template`]: text with holes for live values. The text
//! is serialised once per snapshot and query. Filling the holes is copying; it happens at most once
//! per generation of the executor's board, about once a second, and when lanes are held or
//! released. In between every request is answered with the same bytes, the same strong `ETag`, and
//! the same compressed forms.
//!
//! Invariants: an answer shows one snapshot, never parts of two; one view is made at a time,
//! however many clients ask; the bytes that are kept have a bound.

mod content_coding;
pub mod kept;
mod template;

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use self::content_coding::Coding;
use self::kept::EncodedView;
pub use self::template::Template;
use super::error::ApiError;
use super::range;
use crate::catalog::Snapshot;
use crate::http::state::Api;

/// Answers with the view of that name; if it is not kept, `build` makes it from a snapshot.
///
/// # Errors
/// When the view could not be made.
pub async fn respond(
    api: &Arc<Api>,
    name: &str,
    headers: &HeaderMap,
    cache_control: &'static str,
    build: impl FnOnce(&Snapshot) -> Template + Send + 'static,
) -> Result<Response, ApiError> {
    let coding = Coding::wanted(headers);
    let form = match api.views.find(&api.service, name).and_then(|made| made.form(coding).cloned()) {
        Some(form) => form,
        None => {
            let _turn = api.views.making.lock().await;
            let (api, name) = (api.clone(), name.to_owned());
            let make = move || api.views.made(&api.service, name, build).make(coding);
            tokio::task::spawn_blocking(make).await.map_err(ApiError::internal)?.map_err(ApiError::internal)?
        }
    };
    Ok(response(form, coding, headers, cache_control))
}

fn response(form: EncodedView, coding: Coding, request: &HeaderMap, cache_control: &'static str) -> Response {
    let known = form.etag.to_str().is_ok_and(|etag| range::is_known(request, etag));
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Body::from(form.body).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, form.etag);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if !known {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(name) = coding.name() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        }
    }
    response
}
