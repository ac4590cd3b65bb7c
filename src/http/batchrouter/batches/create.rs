//! `POST /v1/batches`: items become the input of a batch on the lanes of a quote, once for each
//! `Idempotency-Key`.
//!
//! Everything that can be wrong is found before anything is reserved or kept.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use rust_decimal::Decimal;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::create_body::{Asked, Input, Receiver, check_receiver};
use super::expect::{of_items, scaled, within};
use super::show;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::priority::Control;
use crate::domain::batch::problem::ProblemCode;
use crate::domain::batch::{self, Batch, BatchSpec, Fallback, QuotedOrder};
use crate::domain::dialect::Dialect;
use crate::domain::error::Code;
use crate::domain::file::Purpose;
use crate::domain::id::{BatchId, FileId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Credits, micros_up};
use crate::domain::quote::constraints::Constraints;
use crate::domain::quote::{Estimate, KeptQuote, Quote};
use crate::domain::row::batchrouter::{Defaults, members};
use crate::domain::time::later;
use crate::domain::vocabulary::Operation;
use crate::domain::webhook::Webhook;
use crate::http::batchrouter::error::{Issue, MAX_ISSUES, Refusal};
use crate::http::batchrouter::items::{self, Files, Read, Reading};
use crate::http::batchrouter::making::{Wanted, in_turn, split};
use crate::http::batchrouter::manifest;
use crate::http::batchrouter::quotes;
use crate::http::layers::auth::Caller;
use crate::http::openai::batches::create::{idempotency_key, made_and_deleted};
use crate::http::request::json_digest;
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::quote::Group;
use crate::store::{CreateOutcome, Idempotency, MadeInput, NewFile, Sealed, Store, StoreError};

/// Members and elements of a body, each of which takes several times its bytes in memory.
const MAX_MEMBERS: usize = 2_000_000;
/// Characters of an `Idempotency-Key` (its guide to submitting).
const KEY_CHARS: std::ops::RangeInclusive<usize> = 8..=128;
/// How long the items that came with a request can be read after their batch had to be done.
const KEPT: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// `POST /v1/batches`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Refusal> {
    api.check_open()?;
    let most = api.limits.quotes.max_body_bytes;
    let (_held, body) = api.quoting.read(request, &api, most).await.map_err(|error| Refusal::of_body(error, most))?;
    create_from(&api, caller, &headers, body).await
}

/// [`create`] of a body that has been read.
///
/// # Errors
/// When the request cannot be served; nothing is kept of it then.
pub async fn create_from(api: &Arc<Api>, caller: Caller, headers: &HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    api.check_open()?;
    let (asked, once) = read(api, &caller, headers, &body).await?;
    asked.webhook.as_ref().map_or(Ok(()), |receiver| check_receiver(api, receiver))?;
    if let Some(earlier) = earlier(api, &caller, headers, &once).await? {
        return Ok(earlier);
    }
    api.check_room(0)?;
    let (quote, made) = match asked.quote {
        Some(id) => match usable(api, &caller, &asked, id).await {
            Ok(quote) => (quote, false),
            // The same request may have made its batch a moment ago.
            Err(refused) => match earlier(api, &caller, headers, &once).await? {
                Some(earlier) => return Ok(earlier),
                None => return Err(refused),
            },
        },
        None => (quote_for(api, &caller, &body).await?, true),
    };
    let shown = made.then(|| quote.shown.clone());
    let prepared = prepare(api, &asked, &quote, body).await?;
    check_credits(api, &caller, &prepared).await?;
    let most = [asked.demands.max_price, quote.demands.max_price].into_iter().flatten().min();
    most.map_or(Ok(()), |most| within(most, prepared.estimate))?;
    let spec = spec(api, &caller, asked, &quote, &prepared, most)?;
    let creating = {
        let (api, file) = (api.clone(), prepared.content);
        async move { create_once(&api, spec, file, Some(once)).await }
    };
    let (batch, created) = api.to_the_end(creating).await??;
    let mut answer = json!({ "batch": show(api, headers, &batch) });
    if let Some(shown) = shown.filter(|_| created) {
        answer["quote"] = serde_json::from_slice(&shown).map_err(ApiError::internal)?;
    }
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Refuses what cannot be reserved for: nobody knows what it costs, and its organisation prepays.
async fn check_credits(api: &Api, caller: &Caller, prepared: &Prepared) -> Result<(), ApiError> {
    match (prepared.estimate, api.store.account(caller.org).await?.credits) {
        (Some(_), _) | (None, Credits::Unlimited) => Ok(()),
        (None, Credits::Prepaid(_)) => {
            let message = "the organisation prepays, and nobody knows what the items cost: a lane of their model has no prices";
            Err(ApiError::new(Code::InsufficientCredits, message))
        }
    }
}

/// Reads a body. Takes time, and a turn, for one that is large.
async fn read(api: &Arc<Api>, caller: &Caller, headers: &HeaderMap, body: &Bytes) -> Result<(Asked, Idempotency), Refusal> {
    let turn = api.quoting.turn().await?;
    let (caller, headers, body) = (*caller, headers.clone(), body.clone());
    let reading = move || {
        let _turn = turn;
        if members(&body) > MAX_MEMBERS {
            return Err(ApiError::new(Code::TooLarge, format!("the body has more than {MAX_MEMBERS} members and elements")).into());
        }
        let once = idempotency(&headers, &caller, &body)?;
        Ok((Asked::read(&body)?, once))
    };
    tokio::task::spawn_blocking(reading).await.map_err(ApiError::internal)?
}

/// The key that a create must have, bound to what the body says.
fn idempotency(headers: &HeaderMap, caller: &Caller, body: &[u8]) -> Result<Idempotency, ApiError> {
    let key = idempotency_key(headers)?.ok_or_else(|| {
        let message = "the header `Idempotency-Key` is missing; it has 8 to 128 characters, and each new batch has its own";
        ApiError::new(Code::MissingIdempotencyKey, message).param("Idempotency-Key")
    })?;
    if !KEY_CHARS.contains(&key.len()) {
        return Err(ApiError::invalid("Idempotency-Key", "`Idempotency-Key` must have 8 to 128 visible ASCII characters"));
    }
    let scope =
        Sha256::new().chain_update(caller.org.as_u128().to_be_bytes()).chain_update(b"batchrouter POST /v1/batches\0").chain_update(key);
    let request =
        json_digest::digest(body).map_err(|error| ApiError::new(Code::InvalidJson, format!("the body is not valid JSON: {error}")))?;
    Ok(Idempotency { key: scope.finalize().into(), request })
}

/// The batch that the same request made before, although its quote is used up by now.
async fn earlier(api: &Api, caller: &Caller, headers: &HeaderMap, once: &Idempotency) -> Result<Option<Response>, ApiError> {
    let Some(used) = api.store.used_key(&once.key).await? else { return Ok(None) };
    if used.request != once.request {
        return Err(key_reused());
    }
    let batch = super::find(api, caller, used.batch.ok_or_else(made_and_deleted)?).await?;
    let answer = json!({ "batch": show(api, headers, &batch) });
    Ok(Some((StatusCode::ACCEPTED, Json(answer)).into_response()))
}

fn key_reused() -> ApiError {
    let message = "this `Idempotency-Key` was used before for another request; use a new key for each new batch";
    ApiError::new(Code::IdempotencyMismatch, message).param("Idempotency-Key")
}

/// The quote that a create names, if a batch can be made from it.
async fn usable(api: &Api, caller: &Caller, asked: &Asked, id: crate::domain::id::QuoteId) -> Result<Quote, Refusal> {
    let look = api.quoting.look().await?;
    let KeptQuote { quote, batch } = quotes::find(api, caller, id).await?;
    // What was shown of it may be long, and is not needed: it waits for its turn without.
    let quote = Quote { shown: Vec::new(), ..quote };
    drop(look);
    if let Some(batch) = batch {
        return Err(quote_used(batch).into());
    }
    if !quote.is_valid(api.clock.now()) {
        return Err(ApiError::new(Code::QuoteExpired, "the prices of the quote hold no more; make a new quote").into());
    }
    asked.check_against(&quote, &api.limits.quotes.tiers)?;
    Ok(quote)
}

fn quote_used(batch: BatchId) -> ApiError {
    ApiError::new(Code::QuoteUsed, format!("`{}` was made from the quote; make a new quote for another batch", batch.in_hex()))
}

/// A quote of the items themselves, for a create that names none. Ours.
async fn quote_for(api: &Arc<Api>, caller: &Caller, body: &Bytes) -> Result<Quote, Refusal> {
    let (org, body) = (caller.org, body.clone());
    let quote = in_turn(api, org, move |api| Wanted::read(api, org, &body)).await?;
    api.store.add_quote(quote.clone()).await.map_err(ApiError::from)?;
    Ok(quote)
}

/// The input of a batch, checked as far as it can be at once.
struct Prepared {
    /// The items as a file, if they came with the request.
    content: Content,
    /// Items, as far as they are known.
    items: Option<u32>,
    defaults: Defaults,
    /// What they are expected to cost; `None` if nobody knows.
    estimate: Option<Estimate>,
}

/// The input of a batch: new, or a file that was uploaded.
pub enum Content {
    New(Sealed),
    Uploaded(FileId),
}

async fn prepare(api: &Arc<Api>, asked: &Asked, quote: &Quote, body: Bytes) -> Result<Prepared, Refusal> {
    let stated = &asked.defaults;
    let defaults = Defaults {
        operation: stated.operation.or(quote.defaults.operation),
        models: if stated.models.is_empty() { quote.defaults.models.clone() } else { stated.models.clone() },
    };
    match &asked.input {
        Input::File(id) => {
            manifest::check(api.store.file(*id, api.clock.now()).await.map_err(ApiError::from)?, quote.org, *id)?;
            let items = asked.item_count;
            Ok(Prepared { content: Content::Uploaded(*id), items, defaults, estimate: scaled(quote, items.unwrap_or(quote.items)) })
        }
        Input::Inline(items) => {
            let turn = api.quoting.turn().await?;
            let (api, items, quote) = (api.clone(), items.clone(), quote.clone());
            let check = move || {
                // Goes on when the client goes away, and so does its turn.
                let _held = (turn, body);
                prepare_inline(&api, &items, &quote, defaults)
            };
            tokio::task::spawn_blocking(check).await.map_err(ApiError::internal)?
        }
    }
}

fn prepare_inline(api: &Api, items: &Bytes, quote: &Quote, defaults: Defaults) -> Result<Prepared, Refusal> {
    let refused = |issues| Refusal::Preflight { issues, lanes: Vec::new() };
    let written = split(items, api.limits.quotes.max_items)?;
    let too_long = too_long(&written, api.limits.max_line_bytes);
    if !too_long.is_empty() {
        return Err(refused(too_long));
    }
    let files = Files { store: &api.store, org: quote.org, now: api.clock.now() };
    let reading = Reading { defaults: &defaults, as_asked: false };
    let read = items::read(&written, reading, &api.catalog.current(), &files).map_err(refused)?;
    let issues = not_quoted(&read, quote);
    if !issues.is_empty() {
        return Err(refused(issues));
    }
    let count = u32::try_from(written.len()).unwrap_or(u32::MAX);
    let estimate = of_items(&read, count, quote);
    let content = materialise(&api.store, &written).map_err(ApiError::from)?;
    Ok(Prepared { content: Content::New(content), items: Some(count), defaults, estimate })
}

/// Items that are longer than a row may be.
fn too_long(items: &[&RawValue], most: usize) -> Vec<Issue> {
    let long = items.iter().enumerate().filter(|(_, item)| item.get().len() > most);
    let issue = |(place, _)| Issue {
        code: ProblemCode::RowTooLong.as_str(),
        path: format!("items[{place}]"),
        message: format!("the item is longer than the limit of {most} bytes"),
    };
    long.map(issue).take(MAX_ISSUES).collect()
}

/// Items of kinds that the quote has no lane for.
fn not_quoted(read: &Read, quote: &Quote) -> Vec<Issue> {
    let groups = read.groups.iter().zip(&read.operations).zip(&read.asked);
    let unknown = groups.filter(|((group, operation), _)| quote.group(**operation, &group.models).is_none());
    let issue = |((group, operation), asked): ((&Group, &Operation), &Vec<String>)| {
        let names = asked.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Issue {
            code: "model_not_quoted",
            path: format!("items[{}].model", group.items.first().copied().unwrap_or(0)),
            message: format!("the quote has no lane for {names} with the operation `{operation}`; quote a sample of every kind of item"),
        }
    };
    unknown.map(issue).take(MAX_ISSUES).collect()
}

/// The items as the lines of a file: they are one path from then on.
///
/// # Errors
/// When the store cannot keep them.
pub fn materialise(store: &Store, items: &[&RawValue]) -> Result<Sealed, StoreError> {
    let mut spool = store.spool()?;
    let mut lines = Vec::with_capacity(1 << 20);
    for item in items {
        // Line breaks can only stand between tokens, where a space says the same.
        lines.extend(item.get().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        lines.push(b'\n');
        if lines.len() >= 1 << 20 {
            spool.write(&lines)?;
            lines.clear();
        }
    }
    spool.write(&lines)?;
    spool.seal()
}

fn spec(api: &Api, caller: &Caller, asked: Asked, quote: &Quote, prepared: &Prepared, most: Option<Usd>) -> Result<BatchSpec, ApiError> {
    let now = api.clock.now();
    let reserve = prepared.estimate.map_or(Usd::ZERO, |estimate| micros_up(estimate.total()));
    let webhook = asked.webhook.map(|receiver| sealed(api, receiver)).transpose()?;
    let order = QuotedOrder {
        quote: quote.id,
        deadline: quote.deadline,
        defaults: prepared.defaults.clone(),
        demands: Constraints { max_price: most, ..quote.demands.clone() },
        fee: quote.fee,
        estimate: prepared.estimate,
        each: quote.estimate.map(|estimate| Usd(estimate.total().0 / Decimal::from(quote.items.max(1)))),
        reserve,
        items: prepared.items,
        metadata: asked.metadata,
        webhook,
        gateway: None,
    };
    Ok(BatchSpec {
        id: BatchId::generate(now),
        dialect: Dialect::BatchRouter,
        order: batch::Order::Items(Box::new(order)),
        input_file: match &prepared.content {
            Content::New(_) => FileId::from_u128(0),
            Content::Uploaded(id) => *id,
        },
        created_at: now,
        metadata: Metadata::default(),
        output_expires_after: None,
        retry_of: None,
        org: caller.org,
        owner: caller.owner(),
        fallback: Fallback::Never,
    })
}

/// A receiver with its secret as it is kept.
///
/// # Errors
/// When the machine has no random numbers.
pub fn sealed(api: &Api, receiver: Receiver) -> Result<Webhook, ApiError> {
    use secrecy::ExposeSecret;
    Ok(Webhook { url: receiver.url, sealed_secret: api.seal(receiver.secret.expose_secret())? })
}

/// Creates the batch, and its input with it if that is new. Says whether the batch is new.
///
/// # Errors
/// When the store has failed, or the batch cannot be made; nothing is kept then.
pub async fn create_once(api: &Api, spec: BatchSpec, content: Content, once: Option<Idempotency>) -> Result<(Batch, bool), ApiError> {
    let (new, control) = (spec.id, Control::default());
    let outcome = match content {
        Content::New(content) => {
            let file = NewFile {
                filename: format!("{}.jsonl", new.in_hex()),
                purpose: Purpose::Batch,
                mime: Some("application/x-ndjson".to_owned()),
                org: spec.org,
                created_at: spec.created_at,
                expires_at: Some(later(spec.deadline(), KEPT)),
            };
            api.store.create_batch_with(spec, MadeInput { file, content }, control, once).await?
        }
        Content::Uploaded(file) => match api.store.create_batch(spec, control, once).await? {
            CreateOutcome::InputGone => return Err(ApiError::not_found("file", file.in_hex())),
            other => other,
        },
    };
    let id = match outcome {
        CreateOutcome::Created => {
            api.executor.take(new).await?;
            tracing::info!(batch = %new, "batch created from a quote");
            new
        }
        CreateOutcome::Existing(id) => id,
        CreateOutcome::KeyReused => return Err(key_reused()),
        CreateOutcome::Deleted => return Err(made_and_deleted()),
        CreateOutcome::InputGone => return Err(ApiError::internal(format!("{new} was to be made with its input, and has none"))),
        CreateOutcome::QuoteUsed(batch) => return Err(quote_used(batch)),
        CreateOutcome::NotCovered(shortfall) => {
            return Err(ApiError::new(Code::InsufficientCredits, format!("{shortfall}; nothing was reserved")));
        }
    };
    let batch = api.store.batch(id).await?;
    let batch = batch.ok_or_else(|| ApiError::internal(format!("{id} was created and cannot be found")))?;
    Ok((batch, id == new))
}
