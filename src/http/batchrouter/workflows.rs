//! Workflows: `GET /v1/catalog/workflow-products`, a single workflow, and `POST
//! /v1/quotes/workflow`. BatchRouter documents that workflows exist; the form is our own, except
//! the body of the quote (the older of BatchRouter's pages).

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use serde_json::{Value, json};

use super::error::Refusal;
use super::quotes::object;
use crate::catalog::Workflow;
use crate::domain::error::Code;
use crate::domain::row::batchrouter::Defaults;
use crate::domain::text::shown;
use crate::http::layers::caller::Caller;
use crate::http::request::{Object, PathText};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::quotes::create::{QuoteOptions, QuoteRequest};
use crate::service::{Service, ServiceError};

/// `GET /v1/catalog/workflow-products`
pub async fn list(State(api): State<Arc<Api>>) -> Json<Value> {
    let catalog = api.service.catalog.current();
    Json(json!({ "data": catalog.workflows().iter().map(|workflow| product(&api, workflow)).collect::<Vec<_>>() }))
}

/// `GET /v1/catalog/workflow-products/{slug}`
pub async fn retrieve(State(api): State<Arc<Api>>, PathText(slug): PathText) -> Result<Json<Value>, Refusal> {
    let catalog = api.service.catalog.current();
    let found = catalog.workflows().iter().find(|workflow| workflow.slug == slug);
    let found = found.ok_or_else(|| ApiError::not_found("workflow", shown(&slug)))?;
    Ok(Json(product(&api, found)))
}

/// A workflow as it is shown: what a client sends for each item, where the item runs, what the
/// results contain, and how the end of the batch is reported.
fn product(api: &Api, workflow: &Workflow) -> Value {
    let constraints = &workflow.constraints;
    json!({
        "slug": workflow.slug,
        "version": workflow.version,
        "workflow": workflow.reference(),
        "name": workflow.name,
        "description": workflow.description,
        "preset_manifest": {
            "operation": workflow.operation,
            "models": workflow.models,
            "item_template": { "customer_item_id": "{{customer_item_id}}", "operation": workflow.operation, "input": workflow.input() },
        },
        "route_product": {
            "routing_mode": constraints.mode,
            "sla_tier": constraints.tier,
            "privacy_tier": constraints.privacy_tier,
            "allowed_regions": constraints.regions,
            "required_tools": constraints.tools,
        },
        "artifact_contract": {
            "content_type": "application/x-ndjson",
            "description": workflow.artifact.description,
            "fields": workflow.artifact.fields,
        },
        "webhook_contract": {
            "events": ["batch.completed", "batch.failed", "batch.cancelled", "batch.expired"],
            "signature_header": "X-BatchRouter-Signature",
        },
        "success_sla": { "tier": constraints.tier, "target_seconds": api.service.limits.quotes.tiers.of(constraints.tier).as_secs() },
    })
}

/// `POST /v1/quotes/workflow`: `{"workflow": "<slug>@v<version>", "estimated_items": N}`
pub async fn quote(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Object) -> Result<Response, Refusal> {
    api.check_open()?;
    api.check_room(0)?;
    let reference = body.need_text("workflow", "it names a workflow and its version, such as `summary@v1`")?;
    let catalog = api.service.catalog.current();
    let workflow = catalog.workflows().iter().find(|workflow| workflow.reference() == reference);
    let workflow = workflow.ok_or_else(|| {
        let known = catalog.workflows().iter().map(|workflow| format!("`{}`", workflow.reference())).collect::<Vec<_>>();
        let known = if known.is_empty() { "this catalog has none".to_owned() } else { format!("there are {}", known.join(", ")) };
        ApiError::new(Code::NotFound, format!("there is no workflow `{}`; {known}", shown(reference)))
    })?;
    let (count, asked) = (estimated_items(&api, &body)?, workflow.clone());
    // The items are made only when the quote's turn has come, because they are large and the body
    // is not.
    let request = move |_: &Service| wanted(&asked, count);
    let mut quote = api.service.make_quote(caller.org, request, object::shown).await.map_err(Refusal::from)?;
    let mut shown: Value = serde_json::from_slice(&quote.shown).map_err(ApiError::internal)?;
    shown["workflow"] = json!(workflow.reference());
    quote.shown = serde_json::to_vec(&shown).map_err(ApiError::internal)?;
    tracing::info!(quote = %quote.id, workflow = workflow.reference(), "quote made");
    api.service.store.add_quote(quote).await.map_err(ApiError::from)?;
    Ok(Json(shown).into_response())
}

fn estimated_items(api: &Api, body: &Object) -> Result<usize, ApiError> {
    let most = api.service.limits.quotes.max_items;
    let count = body.integer("estimated_items")?.unwrap_or(1);
    let count = usize::try_from(count).ok().filter(|count| (1..=most).contains(count));
    count.ok_or_else(|| body.invalid("estimated_items", &format!("must be from 1 to {most}; a batch may have more items than its quote")))
}

/// The request for a quote of `count` items of a workflow.
fn wanted(workflow: &Workflow, count: usize) -> Result<(Bytes, QuoteRequest), ServiceError> {
    let input = workflow.input();
    let items: Vec<_> = (0..count).map(|place| json!({ "customer_item_id": place.to_string(), "input": input })).collect();
    let items = serde_json::to_vec(&items).map_err(ServiceError::internal)?;
    let defaults = Defaults { operation: Some(workflow.operation), models: workflow.models.clone() };
    Ok((items.into(), QuoteRequest { defaults, constraints: workflow.constraints.clone(), options: QuoteOptions::default() }))
}
