//! `POST /v1/quotes/model` (and its older name, `POST /v1/batches/quote`) and `GET
//! /v1/quotes/{id}`: what items would cost, on which lanes, and why other lanes were not selected.
//!
//! A quote is free and reserves nothing. Its prices hold until `valid_until`.

pub mod body;
pub mod object;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::Refusal;
use crate::domain::id::QuoteId;
use crate::domain::quote::KeptQuote;
use crate::http::layers::caller::Caller;
use crate::http::request::PathId;
use crate::http::request::held_body::read_held;
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// `POST /v1/quotes/model`
pub async fn create(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, request: Request) -> Result<Response, Refusal> {
    api.check_open()?;
    api.check_room(0)?;
    let service = &api.service;
    let most = service.limits.quotes.max_body_bytes;
    let (_held, body) = read_held(request, &api, caller.owner(), most).await.map_err(|error| Refusal::of_body(error, most))?;
    let quote = service.make_quote(caller.org, move |service| body::read(service, caller.org, &body), object::shown).await?;
    let shown = quote.shown.clone();
    tracing::info!(quote = %quote.id, "quote made");
    service.store.add_quote(quote).await?;
    Ok(as_json(shown))
}

/// `GET /v1/quotes/{quote_id}`
pub async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    id: Result<PathId<QuoteId>, ApiError>,
) -> Result<Response, Refusal> {
    let PathId(id) = id?;
    let _look = api.service.turns.look(caller.org).await;
    let KeptQuote { quote, batch } = api.service.quote(caller.org, id).await?;
    let status = match batch {
        Some(_) => "accepted",
        None if quote.is_valid(api.service.clock.now()) => return Ok(as_json(quote.shown)),
        None => "expired",
    };
    let mut shown: Value = serde_json::from_slice(&quote.shown).map_err(ApiError::internal)?;
    shown["quote_lock"]["status"] = json!(status);
    if let Some(batch) = batch {
        shown["quote_lock"]["batch_id"] = json!(batch.in_hex());
    }
    Ok(axum::Json(shown).into_response())
}

fn as_json(body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}
