//! `GET /v1/data/models?model_id=&limit=`: the life cycle of a model. Phaseo's Python client looks
//! it up before the client creates a batch that names a model. The client refuses a model that is
//! deprecated or retired, and expects exactly the id that it asked for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use jiff::civil::Date;
use serde::Serialize;

use super::CACHE;
use crate::catalog::{Model, Snapshot, Status};
use crate::http::request::Params;
use crate::http::response::error::ApiError;
use crate::http::response::views::{Template, respond};
use crate::http::state::Api;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1_000;

#[derive(Debug, Serialize)]
struct DataListing {
    models: Vec<DataEntry>,
    total: usize,
}

#[derive(Debug, Serialize)]
struct DataEntry {
    model_id: String,
    name: String,
    organisation_id: String,
    status: &'static str,
    release_date: Option<String>,
    deprecation_date: Option<String>,
    retirement_date: Option<String>,
    lifecycle: Lifecycle,
}

#[derive(Debug, Serialize)]
struct Lifecycle {
    status: &'static str,
    deprecation_date: Option<String>,
    retirement_date: Option<String>,
    replacement_model_id: Option<String>,
}

/// `GET /v1/data/models`
pub async fn list(State(api): State<Arc<Api>>, params: Params, headers: HeaderMap) -> Result<Response, ApiError> {
    let (asked, limit) = (params.text("model_id")?.map(str::to_owned), params.limit(DEFAULT_LIMIT, MAX_LIMIT)?);
    let view = match &asked {
        // An unknown name gets no view of its own, or the number of views would be unbounded.
        Some(id) if api.service.catalog.current().model(id).is_none() => {
            return Ok(Json(DataListing { models: Vec::new(), total: 0 }).into_response());
        }
        Some(id) => format!("phaseo/data/model/{id}"),
        None => format!("phaseo/data/models/{limit}"),
    };
    respond(&api, &view, &headers, CACHE, move |snapshot| Template::of(&listing(snapshot, asked, limit))).await
}

fn listing(snapshot: &Snapshot, asked: Option<String>, limit: usize) -> DataListing {
    match asked {
        Some(id) => {
            let models: Vec<_> = snapshot.model(&id).map(|model| entry(snapshot, model, id.clone())).into_iter().collect();
            DataListing { total: models.len(), models }
        }
        None => {
            let all = snapshot.all_models();
            let models = all.iter().take(limit).map(|model| entry(snapshot, model, model.qualified()));
            DataListing { models: models.collect(), total: all.len() }
        }
    }
}

fn entry(snapshot: &Snapshot, model: &Model, model_id: String) -> DataEntry {
    let day = |day: Option<Date>| day.map(|day| day.to_string());
    let status = status(snapshot, model);
    let qualified = model.qualified();
    DataEntry {
        model_id,
        name: model.name.clone(),
        organisation_id: qualified.split('/').next().unwrap_or_default().to_owned(),
        status,
        release_date: day(model.released),
        deprecation_date: day(model.deprecated),
        retirement_date: day(model.retired),
        lifecycle: Lifecycle {
            status,
            deprecation_date: day(model.deprecated),
            retirement_date: day(model.retired),
            replacement_model_id: None,
        },
    }
}

fn status(snapshot: &Snapshot, model: &Model) -> &'static str {
    let come = |day: Option<Date>| day.is_some_and(|day| day <= snapshot.today());
    let all_disabled = || {
        let mut offers = snapshot.offers(model).peekable();
        offers.peek().is_some() && offers.all(|offer| offer.status == Status::Disabled)
    };
    if come(model.retired) {
        "retired"
    } else if come(model.deprecated) {
        "deprecated"
    } else if all_disabled() {
        "disabled"
    } else {
        "active"
    }
}
