//! `/v1/models`: the models that a row may name.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::catalog::unix_seconds;
use crate::domain::error::Code;
use crate::http::request::PathText;
use crate::http::response::error::ApiError;
use crate::http::response::views::{Template, respond};
use crate::http::state::Api;

/// Clients may store the answer, but must ask each time whether it is still valid.
const CACHE: &str = "private, no-cache";

/// `Model`
#[derive(Debug, Serialize)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
}

/// `ListModelsResponse`
#[derive(Debug, Serialize)]
pub struct Models {
    object: &'static str,
    data: Vec<ModelObject>,
}

fn object(id: &str, created: i64, owned_by: &str) -> ModelObject {
    ModelObject { id: id.to_owned(), object: "model", created, owned_by: owned_by.to_owned() }
}

/// `GET /v1/models`
pub async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, ApiError> {
    respond(&api, "openai/models", &headers, CACHE, |snapshot| {
        let data = snapshot.models().map(|model| object(model.id, model.created, model.owned_by)).collect();
        Template::of(&Models { object: "list", data })
    })
    .await
}

/// `GET /v1/models/{model}`: also finds a model by an alias, and a name that only the catch-all
/// would serve.
pub async fn retrieve(State(api): State<Arc<Api>>, headers: HeaderMap, PathText(name): PathText) -> Result<Response, ApiError> {
    let snapshot = api.service.catalog.current();
    let short: String = name.chars().take(crate::domain::row::openai::MAX_MODEL_CHARS).collect();
    let route = snapshot.resolve(&short).map_err(|error| ApiError::new(Code::ModelNotFound, error.to_string()).param("model"))?;
    if snapshot.model(&short).is_none() {
        // The catch-all serves any name, so there would be no bound on the views.
        return Ok(Json(object(route.model, 0, route.provider)).into_response());
    }
    respond(&api, &format!("openai/model/{short}"), &headers, CACHE, move |snapshot| {
        Template::of(&snapshot.model(&short).map(|known| object(&known.id, known.released.map_or(0, unix_seconds), &known.organisation)))
    })
    .await
}
