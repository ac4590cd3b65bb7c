//! `POST /v1/batches` as Phaseo has it: rows in the create itself or in a file, on the lanes that a quote of
//! them chooses, with the most that they may cost held before anything runs.
//!
//! Rows of the create become a file of their own; from then on there is one path for both.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::create_body::{Asked, Source, not_json};
use super::endpoint::{named, of_rows};
use super::object::object;
use super::{hold, shorthand, subscription};
use crate::catalog::{Offer, Snapshot};
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::phaseo::{Gateway, InputMode, Subscription};
use crate::domain::batch::{self, BatchSpec, Fallback, QuotedOrder};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::Endpoint;
use crate::domain::error::Code;
use crate::domain::file::Purpose;
use crate::domain::id::{BatchId, FileId, OrgId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::Credits;
use crate::domain::quote::Quote;
use crate::domain::row::batchrouter::{Defaults, members};
use crate::http::batchrouter::batches::{Content, create_once, materialise};
use crate::http::batchrouter::error as batchrouter;
use crate::http::batchrouter::making::{Manner, Wanted, in_turn, split};
use crate::http::batchrouter::manifest;
use crate::http::layers::auth::Caller;
use crate::http::openai::batches::create::idempotency_key;
use crate::http::phaseo::context::Context;
use crate::http::phaseo::error::{Refusal, told};
use crate::http::request::json_digest;
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::store::Idempotency;

/// Rows in one create; its server's effective limit. More of them come as a file.
const MAX_ROWS: usize = 10_000;
/// Members and elements of a body, each of which takes several times its bytes in memory.
const MAX_MEMBERS: usize = 2_000_000;
/// Pairs of metadata, the two that the daemon adds included.
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
        let most = api.limits.quotes.max_body_bytes;
        let read = api.quoting.read(request, &api, most).await;
        let (_held, body) = read.map_err(|error| Refusal::from(batchrouter::Refusal::of_body(error, most)))?;
        made(&api, &caller, &context, &headers, body).await
    };
    told(made.await, &context)
}

/// [`create`] of a body that has been read.
pub async fn create_from(api: &Arc<Api>, caller: Caller, context: &Context, headers: &HeaderMap, body: Bytes) -> Response {
    told(made(api, &caller, context, headers, body).await, context)
}

async fn made(api: &Arc<Api>, caller: &Caller, context: &Context, headers: &HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    api.check_open()?;
    api.check_room(0)?;
    let key = idempotency_key(headers)?.map(str::to_owned);
    let Prepared { mut asked, rows, endpoint, mode, once } = prepare(api, caller, body, key).await?;
    let subscription = subscription::resolve(api, caller.org, asked.subscription.take()).await?;
    let wanted = Wanted {
        items: rows.clone(),
        defaults: Defaults::default(),
        demands: asked.demands.clone(),
        manner: Manner { wishes: asked.wishes.clone(), as_asked: true, window: Some(asked.window.duration()), most: Some(most_rows(api)) },
    };
    let quote = in_turn(api, caller.org, move |_| Ok(wanted)).await.map_err(|refusal| refused(refusal, &asked.source))?;
    api.store.add_quote(quote.clone()).await.map_err(ApiError::from)?;
    let prepays = matches!(api.store.account(caller.org).await.map_err(ApiError::from)?.credits, Credits::Prepaid(_));
    let (held, content, count) = keep(api, &asked.source, rows, &quote, prepays).await?;
    let spec = Ready { asked, endpoint, mode, quote, held, count, subscription }.into_spec(api, caller, context)?;
    let creating = {
        let api = api.clone();
        async move { create_once(&api, spec, content, once).await }
    };
    let (batch, _) = api.to_the_end(creating).await?.map_err(not_held)?;
    Ok((StatusCode::OK, Json(object(api, headers, context, &batch).await?)).into_response())
}

/// Whatever is wrong with the rows of a file is told with one code.
fn refused(refusal: batchrouter::Refusal, source: &Source) -> Refusal {
    let of_rows = |code: &str| !matches!(code, "unknown_model" | "no_eligible_lane" | "price_ceiling" | "too_many_models");
    match (refusal, source) {
        (batchrouter::Refusal::Preflight { issues, .. }, Source::File(id)) if issues.iter().any(|issue| of_rows(issue.code)) => {
            let first = issues.iter().find(|issue| of_rows(issue.code));
            let message = first.map_or_else(String::new, |issue| format!("{}: {}", issue.path.replacen("items", "rows", 1), issue.message));
            not_priceable(*id, message)
        }
        (refusal, _) => refusal.into(),
    }
}

fn not_priceable(id: FileId, message: String) -> Refusal {
    Refusal::invalid("batch_input_file_not_priceable", message).with("file_id", id.to_string())
}

/// Rows that a create or a quote of its file may have.
fn most_rows(api: &Api) -> usize {
    api.limits.quotes.max_items.max(MAX_ROWS)
}

/// A hold that cannot be placed is told in the nested form.
fn not_held(error: ApiError) -> Refusal {
    match error.code() {
        Code::InsufficientCredits => {
            Refusal::nested(StatusCode::PAYMENT_REQUIRED, "insufficient_funds", "insufficient_balance", error.message().to_owned())
        }
        _ => error.into(),
    }
}

/// An `Idempotency-Key` is no part of the hosted contract, and a safe extension.
fn once(caller: &Caller, key: &str, body: &Bytes) -> Result<Idempotency, Refusal> {
    let scope = Sha256::new().chain_update(caller.org.as_u128().to_be_bytes()).chain_update(b"phaseo POST /v1/batches\0").chain_update(key);
    let request = json_digest::digest(body).map_err(not_json)?;
    Ok(Idempotency { key: scope.finalize().into(), request })
}

/// A create whose rows are lines.
struct Prepared {
    asked: Asked,
    /// An array of them, as they are written: all of those in a create, and the first ones of a file.
    rows: Bytes,
    endpoint: Endpoint,
    mode: InputMode,
    once: Option<Idempotency>,
}

async fn prepare(api: &Arc<Api>, caller: &Caller, body: Bytes, key: Option<String>) -> Result<Prepared, Refusal> {
    let turn = api.quoting.turn().await?;
    let (api, caller) = (api.clone(), *caller);
    let reading = move || {
        // Goes on when the client goes away, and so does its turn.
        let _turn = turn;
        if members(&body) > MAX_MEMBERS {
            return Err(Refusal::invalid("invalid_request_body", format!("the body has more than {MAX_MEMBERS} members and elements")));
        }
        let asked = Asked::read(&body)?;
        let once = key.map(|key| once(&caller, &key, &body)).transpose()?;
        match &asked.source {
            Source::Rows(kind, raw) => {
                let (rows, endpoint) = written(&api, &asked, *kind, raw)?;
                Ok(Prepared { asked, rows, endpoint, mode: InputMode::Requests, once })
            }
            Source::File(id) => {
                let (rows, endpoint) = uploaded(&api, caller.org, &asked, *id)?;
                Ok(Prepared { asked, rows, endpoint, mode: InputMode::File, once })
            }
        }
    };
    tokio::task::spawn_blocking(reading).await.map_err(ApiError::internal)?
}

/// The rows of a create as an array of lines.
fn written(api: &Api, asked: &Asked, kind: shorthand::Kind, raw: &Bytes) -> Result<(Bytes, Endpoint), Refusal> {
    let rows: Vec<Value> =
        serde_json::from_slice(raw).map_err(|error| Refusal::invalid("invalid_requests", format!("the rows must be an array: {error}")))?;
    let most = most_rows(api);
    if rows.len() > most {
        let message = format!("a create may have at most {most} rows, found {}; upload more of them as a file", rows.len());
        return Err(Refusal::invalid("batch_request_limit_exceeded", message));
    }
    let endpoint = asked.endpoint.map_or_else(|| of_rows(&api.catalog.current(), &rows, kind, asked), Ok)?;
    let catalog = api.catalog.current();
    let most_output = |model: &str| most_output(&catalog, model);
    let lines = shorthand::lines(&rows, kind, endpoint, &asked.common, &most_output).map_err(|fault| {
        Refusal::invalid(fault.reason, format!("row {}: {}", fault.row, fault.message)).with("request_index", fault.row)
    })?;
    let long = lines.iter().position(|line| line.len() > api.limits.max_line_bytes);
    if let Some(row) = long {
        let message = format!("row {row} is longer than the limit of {} bytes", api.limits.max_line_bytes);
        return Err(Refusal::invalid("invalid_request_body", message));
    }
    Ok((format!("[{}]", lines.join(",")).into(), endpoint))
}

/// The most that a model writes, wherever it is served; `None` if that is not known.
fn most_output(catalog: &Snapshot, model: &str) -> Option<u64> {
    let model = catalog.model(model)?;
    let offered = catalog.offers(model).filter(Offer::takes_work).map(|offer| offer.offering.max_output_tokens);
    offered.flatten().max().or(model.max_output_tokens)
}

/// What of a line of a file decides whether it can be priced.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    url: Option<&'a str>,
    #[serde(borrow, default)]
    method: Option<&'a str>,
}

/// The rows of a file as an array: all of them, or the first ones.
fn uploaded(api: &Api, org: OrgId, asked: &Asked, id: FileId) -> Result<(Bytes, Endpoint), Refusal> {
    let not_there = || Refusal::not_found("batch_input_file_not_found_or_not_owned", "file_id", &id.to_string());
    let file = api.store.attachment(id, api.clock.now()).map_err(ApiError::from)?.filter(|file| file.org == org);
    let file = file.ok_or_else(not_there)?;
    let not_priceable = |message: String| not_priceable(id, message);
    if file.purpose != Purpose::Batch {
        return Err(not_priceable(format!("the file was uploaded for `{}`, not for `batch`", file.purpose.as_str())));
    }
    let rows = manifest::items(api, org, id).map_err(|refusal| match refusal {
        batchrouter::Refusal::Preflight { issues, .. } => {
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
        let Ok(line) = serde_json::from_str::<Line<'_>>(line.get()) else {
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
    let endpoint = super::create_body::endpoint(endpoint.unwrap_or(Endpoint::Responses).path())?;
    Ok((rows, endpoint))
}

/// What is held for the rows, and their file. Of rows in a file no more than the sample is known by now; what is
/// held for the others is added when they are counted.
async fn keep(
    api: &Arc<Api>,
    source: &Source,
    rows: Bytes,
    quote: &Quote,
    prepays: bool,
) -> Result<(Option<Usd>, Content, Option<u32>), Refusal> {
    let turn = api.quoting.turn().await?;
    let (api, quote, file) = (
        api.clone(),
        quote.clone(),
        match source {
            Source::File(id) => Some(*id),
            Source::Rows(..) => None,
        },
    );
    let keeping = move || {
        let _turn = turn;
        let written = split(&rows, usize::MAX).map_err(Refusal::from)?;
        let held = hold::most(&written, &quote, prepays)?;
        match file {
            Some(id) => Ok((held, Content::Uploaded(id), None)),
            None => {
                let content = materialise(&api.store, &written).map_err(ApiError::from)?;
                Ok((held, Content::New(content), u32::try_from(written.len()).ok()))
            }
        }
    };
    tokio::task::spawn_blocking(keeping).await.map_err(ApiError::internal)?
}

/// Everything that a batch is made of.
struct Ready {
    asked: Asked,
    endpoint: Endpoint,
    mode: InputMode,
    quote: Quote,
    held: Option<Usd>,
    count: Option<u32>,
    subscription: Option<Subscription>,
}

impl Ready {
    fn into_spec(self, api: &Api, caller: &Caller, context: &Context) -> Result<BatchSpec, Refusal> {
        let Self { asked, endpoint, mode, quote, held, count, subscription } = self;
        let now = api.clock.now();
        let id = BatchId::generate(now);
        let metadata = Metadata::new(with_ids(asked.metadata, id, context));
        let metadata = metadata.map_err(|error| Refusal::invalid("invalid_batch_metadata", format!("`metadata` {error}")))?;
        let gateway = Gateway {
            request: context.request,
            endpoint,
            window: asked.window,
            mode,
            session: asked.session,
            provider: main_provider(&quote),
            subscription,
        };
        let order = QuotedOrder {
            quote: quote.id,
            deadline: quote.deadline,
            defaults: Defaults::default(),
            demands: quote.demands.clone(),
            fee: quote.fee,
            estimate: quote.estimate,
            each: quote.estimate.map(|estimate| Usd(estimate.total().0 / Decimal::from(quote.items.max(1)))),
            reserve: held.unwrap_or_default(),
            items: count,
            metadata: None,
            webhook: None,
            gateway: Some(gateway),
        };
        Ok(BatchSpec {
            id,
            dialect: Dialect::Phaseo,
            order: batch::Order::Items(Box::new(order)),
            input_file: match asked.source {
                Source::File(id) => id,
                Source::Rows(..) => FileId::from_u128(0),
            },
            created_at: now,
            metadata,
            output_expires_after: asked.output_expires_after,
            retry_of: None,
            org: caller.org,
            owner: caller.owner(),
            fallback: Fallback::Never,
        })
    }
}

/// The client's metadata with the two ids that the server adds while there is room for them.
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
