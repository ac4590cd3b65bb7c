//! `/v1/models`: the models that a row may name.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::catalog::{Discovered, Snapshot, unix_seconds};
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
    let listing = api.service.catalog.server_models();
    let name = format!("openai/models/{}", listing.generation);
    respond(&api, &name, &headers, CACHE, move |snapshot| {
        let known = snapshot.models().map(|model| object(model.id, model.created, model.owned_by));
        let of_server = listing.models.iter().filter_map(|model| of_server(snapshot, model));
        Template::of(&Models { object: "list", data: known.chain(of_server).collect() })
    })
    .await
}

/// A model that the operator's own server lists, if rows that name it go there and the seeds do not
/// list it.
fn of_server(snapshot: &Snapshot, model: &Discovered) -> Option<ModelObject> {
    let server = snapshot.own_catch_all()?.id();
    let route = snapshot.resolve(&model.id).ok().filter(|route| route.provider == server && route.upstream == model.id)?;
    let is_listed = snapshot.models().any(|listed| listed.id == route.model);
    let owner = model.owned_by.as_deref().unwrap_or(server);
    (!is_listed).then(|| object(&model.id, model.created.unwrap_or(0), owner))
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
