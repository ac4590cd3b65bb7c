//! `POST /v1/batches` as Phaseo has it. The rows stand in the create itself or in a file, a quote
//! of the rows chooses their lanes, and the most that the rows may cost is held before anything
//! runs.
//!
//! Rows of the create become a file of their own; from then on, both kinds take the same path.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::common::RowSyntax;
use super::create_body::{CreateBody, RowSource};
use super::endpoint::{named, of_rows, quotable};
use super::object::object;
use super::shorthand;
use super::subscription;
use crate::catalog::{Offer, Snapshot};
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::phaseo::{InputMode, PhaseoDetails, Subscription};
use crate::domain::batch::{BatchInput, Fallback, QuotedInput};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::Endpoint;
use crate::domain::file::Purpose;
use crate::domain::id::{BatchId, FileId, OrgId};
use crate::domain::quote::Quote;
use crate::domain::row::batchrouter::{Defaults, members};
use crate::http::layers::caller::Caller;
use crate::http::phaseo::context::Context;
use crate::http::phaseo::error::{Refusal, respond};
use crate::http::request::forwarded::forwarded;
use crate::http::request::held_body::{MAX_MEMBERS, read_held};
use crate::http::request::idempotency::{bound_to_body, idempotency_key};
use crate::http::state::Api;
use crate::service::batches::create::NewBatch;
use crate::service::batches::rows::{QuotedRows, RowsToQuote};
use crate::service::quotes::create::{QuoteOptions, QuoteRequest};
use crate::service::quotes::manifest;
use crate::service::{Service, ServiceError};
use crate::store::Idempotency;

/// The most rows in one create: the effective limit of Phaseo's server. More rows come as a file.
const MAX_ROWS: usize = 10_000;
/// The most pairs of metadata, including the two that the daemon adds.
const MAX_METADATA: usize = 16;

/// `POST /v1/batches`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    context: Context,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let made = async {
        api.check_open()?;
        let most = api.service.limits.quotes.max_body_bytes;
        let read = read_held(request, &api, caller.owner(), most).await;
        let (_held, body) = read.map_err(|error| Refusal::of_body(error, most))?;
        made(&api, &caller, &context, &headers, body).await
    };
    respond(made.await, &context)
}

/// [`create`] of a body that has been read.
pub async fn create_from(api: &Arc<Api>, caller: Caller, context: &Context, headers: &HeaderMap, body: Bytes) -> Response {
    respond(made(api, &caller, context, headers, body).await, context)
}

async fn made(api: &Arc<Api>, caller: &Caller, context: &Context, headers: &HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    api.check_open()?;
    api.check_room(0)?;
    let key = idempotency_key(headers)?.map(str::to_owned);
    let PreparedCreate { mut asked, rows, endpoint, once } = prepare(api, caller, body, key).await?;
    api.service.check_once(caller.org, once.as_ref()).await?;
    let subscription = subscription::resolve(api, caller.org, asked.subscription.take()).await?;
    let options = QuoteOptions { preferences: asked.preferences.clone(), as_asked: true, window: Some(asked.window.duration()) };
    let request = QuoteRequest { defaults: Defaults::default(), constraints: asked.constraints.clone(), options };
    let quoted = api.service.quote_rows(caller.org, rows, request).await.map_err(|error| refused(error, &asked.source))?;
    let new = Ready { asked, endpoint, quoted, subscription }.into_batch(api, caller, context)?;
    let forwarded = forwarded(headers, &api.service.catalog.current())?;
    let created = api.service.create_batch(NewBatch { once, headers: forwarded, ..new }).await?;
    Ok((StatusCode::OK, Json(object(api, headers, context, &created.batch).await?)).into_response())
}

/// Every fault in the rows of a file is reported with one code.
fn refused(error: ServiceError, source: &RowSource) -> Refusal {
    match (error, source) {
        (ServiceError::Preflight { issues, .. }, RowSource::File(id)) if issues.iter().any(|issue| issue.code.is_of_rows()) => {
            let first = issues.iter().find(|issue| issue.code.is_of_rows());
            let message = first.map_or_else(String::new, |issue| format!("{}: {}", issue.path.named("rows"), issue.message));
            not_priceable(*id, message)
        }
        (error, _) => error.into(),
    }
}

fn not_priceable(id: FileId, message: String) -> Refusal {
    Refusal::invalid("batch_input_file_not_priceable", message).with("file_id", id.to_string())
}

/// The most rows that a create, or a quote of its file, may have.
fn most_rows(service: &Service) -> usize {
    service.limits.quotes.max_items.max(MAX_ROWS)
}

/// A create whose rows have been read.
struct PreparedCreate {
    asked: CreateBody,
    rows: RowsToQuote,
    endpoint: Endpoint,
    once: Option<Idempotency>,
}

async fn prepare(api: &Api, caller: &Caller, body: Bytes, key: Option<String>) -> Result<PreparedCreate, Refusal> {
    let (service, caller) = (api.service.clone(), caller.clone());
    let reading = move || {
        if members(&body) > MAX_MEMBERS {
            return Err(Refusal::invalid("invalid_request_body", format!("the body has more than {MAX_MEMBERS} members and elements")));
        }
        let asked = CreateBody::read(&body)?;
        // `Idempotency-Key` is not part of the hosted contract, but a safe extension.
        let once = key.map(|key| bound_to_body(caller.org, "phaseo POST /v1/batches", &key, &body)).transpose()?;
        let (rows, endpoint) = match &asked.source {
            RowSource::Rows(kind, raw) => written(&service, &asked, *kind, raw)?,
            RowSource::File(id) => uploaded(&service, caller.org, &asked, *id)?,
        };
        Ok(PreparedCreate { asked, rows, endpoint, once })
    };
    api.service.turns.take(caller.org, reading).await
}

/// The rows of a create.
fn written(service: &Service, asked: &CreateBody, kind: RowSyntax, raw: &Bytes) -> Result<(RowsToQuote, Endpoint), Refusal> {
    let rows: Vec<Value> =
        serde_json::from_slice(raw).map_err(|error| Refusal::invalid("invalid_requests", format!("the rows must be an array: {error}")))?;
    let most = most_rows(service);
    if rows.len() > most {
        let message = format!("a create may have at most {most} rows, found {}; upload more of them as a file", rows.len());
        return Err(Refusal::invalid("batch_request_limit_exceeded", message));
    }
    let catalog = service.catalog.current();
    let endpoint = asked
        .endpoint
        .map_or_else(|| of_rows(&catalog, &rows, kind, asked.common.model.as_deref(), asked.constraints.preferences.only.first()), Ok)?;
    let most_output = |model: &str| most_output(&catalog, model);
    let rows = shorthand::parse(rows, kind, endpoint, &asked.common, &most_output).map_err(|fault| {
        Refusal::invalid(fault.reason, format!("row {}: {}", fault.row, fault.message)).with("request_index", fault.row)
    })?;
    let most = service.limits.max_line_bytes;
    if let Some(row) = rows.iter().position(|row| row.line.len() > most) {
        return Err(Refusal::invalid("invalid_request_body", format!("row {row} is longer than the limit of {most} bytes")));
    }
    Ok((RowsToQuote::Parsed { url: endpoint, rows }, endpoint))
}

/// The most output tokens of a model, wherever it is served; `None` if unknown.
fn most_output(catalog: &Snapshot, model: &str) -> Option<u64> {
    let model = catalog.model(model)?;
    let offered = catalog.offers(model).filter(Offer::takes_work).map(|offer| offer.offering.max_output_tokens);
    offered.flatten().max().or(model.max_output_tokens)
}

/// The members of a file's line that decide whether the line can be priced.
#[derive(Deserialize)]
struct FileLine<'a> {
    #[serde(borrow, default)]
    url: Option<&'a str>,
    #[serde(borrow, default)]
    method: Option<&'a str>,
}

/// The rows of a file as an array: all rows, or the first ones.
fn uploaded(service: &Service, org: OrgId, asked: &CreateBody, id: FileId) -> Result<(RowsToQuote, Endpoint), Refusal> {
    let not_there = || Refusal::not_found("batch_input_file_not_found_or_not_owned", "file_id", &id.to_string());
    let file = service.store.attachment(id, service.clock.now())?.filter(|file| file.org == org);
    let file = file.ok_or_else(not_there)?;
    let not_priceable = |message: String| not_priceable(id, message);
    if file.purpose != Purpose::Batch {
        return Err(not_priceable(format!("the file was uploaded for `{}`, not for `batch`", file.purpose.as_str())));
    }
    let rows = manifest::items_of(service, &file).map_err(|error| match error {
        ServiceError::Preflight { issues, .. } => {
            not_priceable(issues.first().map_or_else(String::new, |issue| format!("{}: {}", issue.path, issue.message)))
        }
        other => other.into(),
    })?;
    let lines: Vec<&RawValue> = serde_json::from_slice(&rows).map_err(|error| not_priceable(error.to_string()))?;
    if lines.is_empty() {
        return Err(not_priceable("the file has no rows".to_owned()));
    }
    let mut endpoint = asked.endpoint;
    for (number, line) in (1..).zip(lines) {
        let Ok(line) = serde_json::from_str::<FileLine<'_>>(line.get()) else {
            return Err(not_priceable(format!("line {number}: the line must be an object whose `url` and `method` are texts")));
        };
        let url =
            line.url.and_then(named).ok_or_else(|| not_priceable(format!("line {number}: `url` is missing, or no endpoint of a batch")))?;
        let wanted = *endpoint.get_or_insert(url);
        if url != wanted {
            return Err(not_priceable(format!("line {number}: `url` is `{url}`, and the batch is for `{wanted}`")));
        }
        if line.method.is_some_and(|method| !method.eq_ignore_ascii_case("POST")) {
            return Err(not_priceable(format!("line {number}: `method` must be `POST`")));
        }
    }
    let endpoint = quotable(endpoint.unwrap_or(Endpoint::Responses).path())?;
    Ok((RowsToQuote::Uploaded { file: id, sample: rows }, endpoint))
}

/// Everything that is needed to make a batch.
struct Ready {
    asked: CreateBody,
    endpoint: Endpoint,
    quoted: QuotedRows,
    subscription: Option<Subscription>,
}

impl Ready {
    fn into_batch(self, api: &Api, caller: &Caller, context: &Context) -> Result<NewBatch, Refusal> {
        let Self { asked, endpoint, quoted, subscription } = self;
        let QuotedRows { quote, source, held, count } = quoted;
        let gateway = PhaseoDetails {
            request: context.request,
            endpoint,
            window: asked.window,
            mode: if let RowSource::File(_) = asked.source { InputMode::File } else { InputMode::Requests },
            session: asked.session,
            provider: main_provider(&quote),
            subscription,
        };
        let order = QuotedInput { reserve: held.unwrap_or_default(), items: count, gateway: Some(gateway), ..QuotedInput::of(&quote) };
        let order = BatchInput::Quoted(Box::new(order));
        let new = NewBatch::new(api.service.clock.now(), Dialect::Phaseo, caller.org, caller.owner(), order, source);
        let metadata = Metadata::new(with_ids(asked.metadata, new.id, context));
        let metadata = metadata.map_err(|error| Refusal::invalid("invalid_batch_metadata", format!("`metadata` {error}")))?;
        Ok(NewBatch { metadata, output_expires_after: asked.output_expires_after, fallback: Fallback::Never, ..new })
    }
}

/// The client's metadata, with the two ids that the server adds as far as there is room.
fn with_ids(mut pairs: Vec<(String, String)>, id: BatchId, context: &Context) -> Vec<(String, String)> {
    for (name, value) in [("phaseo_batch_id", id.in_upper()), ("phaseo_request_id", context.request.in_upper())] {
        if pairs.len() < MAX_METADATA && pairs.iter().all(|(known, _)| known != name) {
            pairs.push((name.to_owned(), value));
        }
    }
    pairs
}

/// The provider that serves most of the rows.
fn main_provider(quote: &Quote) -> String {
    let lanes = quote.groups.iter().flat_map(|group| &group.lanes);
    lanes.max_by_key(|lane| lane.items).map(|lane| lane.provider.clone()).unwrap_or_default()
}
