//! Open routes besides the catalog: the providers, the fees on top of their prices, and the health
//! of the daemon. BatchRouter documents that each of these exists; the paths and the forms are our
//! own.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::catalog::{Provider, Status};
use crate::http::{Api, ops};

/// `GET /v1/providers`: the provider directory.
pub async fn providers(State(api): State<Arc<Api>>) -> Json<Value> {
    let catalog = api.service.catalog.current();
    let models =
        |id: &str| catalog.all_models().iter().filter(|model| model.offerings.iter().any(|offering| offering.provider == id)).count();
    let object = |(provider, usable): (&Provider, bool)| {
        json!({
            "slug": provider.id(),
            "name": provider.name,
            "status": provider.status,
            "is_available": usable && provider.status == Status::Active,
            "model_count": models(provider.id()),
            "regions": provider.regions,
            "retention_days": provider.privacy.retention_days,
            "supports_zdr": provider.privacy.zdr,
            "data_collection": provider.privacy.data_collection,
            "training_use": provider.privacy.training_use,
            "privacy_tiers": provider.privacy.tiers,
            "privacy_terms_url": provider.privacy.terms_url,
            "documentation_url": provider.documentation_url,
        })
    };
    let data: Vec<_> = catalog.providers().map(object).collect();
    Json(json!({ "data": data }))
}

/// `GET /v1/pricing/fees`: the fee schedule.
pub async fn fees(State(api): State<Arc<Api>>) -> Json<Value> {
    let fee =
        json!({ "product": "model", "fee_percent": api.service.limits.quotes.fee.normalize().to_string(), "basis": "provider_subtotal" });
    Json(json!({ "currency": "usd", "data": [fee] }))
}

/// `GET /v1/health`
pub async fn health(state: State<Arc<Api>>) -> Response {
    match ops::healthz(state).await {
        Ok(well) => well.into_response(),
        Err(error) => error.into_batchrouter(),
    }
}
