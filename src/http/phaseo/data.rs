//! `GET /v1/data/models?model_id=&limit=`: the life of a model, which Phaseo's Python client looks up
//! before it creates a batch that names one. It refuses to go on with a model that is deprecated or
//! retired, and matches the id with exactly what it asked for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::civil::Date;
use serde::Serialize;

use crate::catalog::{Model, Snapshot, Status};
use crate::http::Api;
use crate::http::error::ApiError;
use crate::http::extract::Params;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1_000;

#[derive(Debug, Serialize)]
pub struct Listing {
    models: Vec<Entry>,
    total: usize,
}

#[derive(Debug, Serialize)]
struct Entry {
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
pub async fn list(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Listing>, ApiError> {
    let (asked, limit) = (params.text("model_id")?, params.limit(DEFAULT_LIMIT, MAX_LIMIT)?);
    let snapshot = api.catalog.current();
    let (models, total) = match asked {
        Some(id) => (snapshot.model(id).map(|model| entry(&snapshot, model, id.to_owned())).into_iter().collect(), 1),
        None => {
            let all = snapshot.all_models();
            (all.iter().take(limit).map(|model| entry(&snapshot, model, model.qualified())).collect::<Vec<_>>(), all.len())
        }
    };
    Ok(Json(Listing { total: if models.is_empty() { 0 } else { total }, models }))
}

fn entry(snapshot: &Snapshot, model: &Model, model_id: String) -> Entry {
    let day = |day: Option<Date>| day.map(|day| day.to_string());
    let status = status(snapshot, model);
    let qualified = model.qualified();
    Entry {
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
