//! `POST /v1/quotes/model` (and its older name, `POST /v1/batches/quote`) and `GET /v1/quotes/{id}`:
//! what items would cost, on which lanes, and why not on the others.
//!
//! A quote is free and reserves nothing. Its prices hold until `valid_until`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::demands::{self, names, word};
use super::items::{self, Defaults, Read, is_name};
use super::lanes::lanes;
use super::money::{Pricing, digits};
use super::quote_object::{QuoteObject, lane_objects};
use super::refusal::{Issue, Refusal};
use crate::domain::endpoint::Endpoint;
use crate::domain::error::Code;
use crate::domain::id::QuoteId;
use crate::domain::observed::Observed;
use crate::domain::quote::{Quote, QuotedGroup, QuotedLane};
use crate::domain::request::MAX_MODEL_CHARS;
use crate::domain::routing::Constraints;
use crate::domain::share::Owner;
use crate::domain::time::{Timestamp, later};
use crate::domain::words::Operation;
use crate::http::Api;
use crate::http::access::Caller;
use crate::http::error::ApiError;
use crate::http::extract::{Object, PathId, announced_bytes, read_json};
use crate::http::views::Live;
use crate::route::quote::{Considered, GroupDecision, Lane, Rejection, Terms, Verdict, decide, fits};

/// `POST /v1/quotes/model`
pub async fn create(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, request: Request) -> Result<Response, Refusal> {
    api.check_open()?;
    api.check_room(0)?;
    let most = api.limits.quotes.max_body_bytes;
    // Bodies are held as a whole until their turn comes.
    let _held = api.quoting.hold(announced_bytes(request.headers()).unwrap_or(most).min(most)).await?;
    let body = read_json(request, &api, most).await.map_err(|error| Refusal::of_body(error, most))?;
    let turn = api.quoting.turn().await?;
    let making = {
        let api = api.clone();
        let span = tracing::Span::current();
        move || {
            // Goes on when the client goes away, and so does its turn.
            let _turn = turn;
            span.in_scope(|| make(&api, &body, Owner::of_key(&caller.key)))
        }
    };
    let quote = tokio::task::spawn_blocking(making).await.map_err(ApiError::internal)??;
    let shown = quote.shown.clone();
    tracing::info!(quote = %quote.id, "quote made");
    api.store.add_quote(quote).await.map_err(ApiError::from)?;
    Ok(as_json(shown))
}

/// `GET /v1/quotes/{quote_id}`
pub async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    id: Result<PathId<QuoteId>, ApiError>,
) -> Result<Response, Refusal> {
    let PathId(id) = id?;
    let quote = api.store.quote(id).await.map_err(ApiError::from)?;
    let quote = quote.ok_or_else(|| ApiError::new(Code::NotFound, format!("there is no quote `{}`", id.in_hex())))?;
    if quote.owner != Owner::of_key(&caller.key) {
        return Err(ApiError::new(Code::Forbidden, "the quote belongs to another API key").into());
    }
    if quote.is_valid(api.clock.now()) {
        return Ok(as_json(quote.shown));
    }
    let mut shown: Value = serde_json::from_slice(&quote.shown).map_err(ApiError::internal)?;
    shown["quote_lock"]["status"] = json!("expired");
    Ok(axum::Json(shown).into_response())
}

fn as_json(body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// The fields that are read, besides the items.
const FIELDS: [&str; 10] = [
    "model",
    "models",
    "operation",
    "routing_mode",
    "sla_tier",
    "privacy_tier",
    "allowed_regions",
    "required_tools",
    "max_price",
    "provider_preferences",
];
/// Lanes in one answer; one that serves several groups counts for each.
const MAX_LANES: usize = 20_000;

/// What the request says, as far as it can be said without the catalog.
struct Wanted {
    items: Bytes,
    defaults: Defaults,
    demands: Constraints,
}

impl Wanted {
    fn read(body: &Bytes) -> Result<Self, ApiError> {
        let (object, items) = Object::picking(body, &FIELDS, "items")?;
        let items =
            items.ok_or_else(|| ApiError::missing("items", "it is an array of the items to be quoted, or of some that are like them"))?;
        let model = object.text("model")?.map(str::to_owned);
        let (field, models) = match names(&object, "models")? {
            models if models.is_empty() => ("model", model.into_iter().collect()),
            models => ("models", models),
        };
        if !models.iter().all(|name| is_name(name)) {
            return Err(ApiError::invalid(field, format!("`{field}` must name models, with 1 to {MAX_MODEL_CHARS} characters each")));
        }
        let operation = word(&object, "operation", Operation::parse, Operation::choices)?;
        Ok(Self { items, defaults: Defaults { operation, models }, demands: demands::read(&object)? })
    }
}

/// The items as they are written, at most so many.
fn split(items: &Bytes, most: usize) -> Result<Vec<&RawValue>, Refusal> {
    let wrong = |what: &str| ApiError::invalid("items", format!("items: {what}"));
    let items: Vec<&RawValue> = serde_json::from_slice(items).map_err(|_| wrong("Expected array of items"))?;
    match items.len() {
        0 => Err(wrong("Array must contain at least 1 element(s)").into()),
        count if count > most => Err(wrong(&format!("Array must contain at most {most} element(s)")).into()),
        _ => Ok(items),
    }
}

/// Makes a quote. Takes time.
fn make(api: &Api, body: &Bytes, owner: Owner) -> Result<Quote, Refusal> {
    let Wanted { items, defaults, demands } = Wanted::read(body)?;
    let terms = &api.limits.quotes;
    let catalog = api.catalog.current();
    let written = split(&items, terms.max_items)?;
    let read = items::read(&written, &defaults, &catalog).map_err(|issues| Refusal::Preflight { issues, lanes: Vec::new() })?;
    let (board, holds, now) = (api.executor.board(), api.executor.lane_holds(), api.clock.now());
    let mut lanes = lanes(&catalog, &read.groups, &Live { board: &board, holds: &holds, now });
    check_lanes(&read, &lanes)?;
    let asked = endpoints(&read);
    for lane in &mut lanes {
        lane.observed_output = observed(api, lane, asked.get(lane.model))?;
    }
    let window = terms.tiers.of(demands.tier);
    let decision = decide(&read.items, &read.groups, &lanes, &demands, &Terms { window, fee: terms.fee });
    let object = QuoteObject {
        id: QuoteId::generate(now),
        now,
        valid_until: later(now, terms.validity),
        deadline: later(now, window),
        window,
        fee: terms.fee,
        demands: &demands,
        read: &read,
        lanes: &lanes,
        decision: &decision,
        catalog: &catalog,
    };
    refuse(&object)?;
    let groups = read.asked.iter().zip(&decision.groups).map(|(asked, group)| quoted(asked, group, &lanes, &demands));
    let groups = groups.collect();
    let shown = serde_json::to_vec(&object.json()).map_err(ApiError::internal)?;
    let (id, valid_until, deadline): (QuoteId, Timestamp, Timestamp) = (object.id, object.valid_until, object.deadline);
    Ok(Quote { id, owner, created_at: now, valid_until, deadline, demands, groups, shown })
}

/// What each model is asked.
fn endpoints(read: &Read) -> HashMap<&str, BTreeSet<Endpoint>> {
    let mut endpoints: HashMap<&str, BTreeSet<Endpoint>> = HashMap::new();
    for group in &read.groups {
        let first = group.items.first().and_then(|place| read.items.get(*place as usize));
        for model in &group.models {
            endpoints.entry(model).or_default().extend(first.map_or(&[][..], |item| item.endpoints));
        }
    }
    endpoints
}

/// How long the answers of a lane have usually been, by what it was asked most.
fn observed(api: &Api, lane: &Lane<'_>, asked: Option<&BTreeSet<Endpoint>>) -> Result<Option<u64>, ApiError> {
    let mut best = Observed::default();
    for endpoint in asked.into_iter().flatten() {
        let found = api.store.observed(lane.provider, lane.upstream, *endpoint)?;
        best = if found.answers > best.answers { found } else { best };
    }
    Ok(best.mean())
}

/// Refuses a request whose answer would have no end.
fn check_lanes(read: &Read, lanes: &[Lane<'_>]) -> Result<(), Refusal> {
    let mut of_model: HashMap<&str, usize> = HashMap::new();
    for lane in lanes {
        *of_model.entry(lane.model).or_default() += 1;
    }
    let models = read.groups.iter().flat_map(|group| &group.models);
    let count: usize = models.filter_map(|model| of_model.get(model.as_str())).sum();
    if count <= MAX_LANES {
        return Ok(());
    }
    let message = format!("the items name models with {count} lanes altogether; a quote can have {MAX_LANES}");
    Err(Refusal::Preflight { issues: vec![Issue { code: "too_many_models", path: "items".to_owned(), message }], lanes: Vec::new() })
}

/// What a batch needs to know of a group's lanes.
fn quoted(asked: &[String], group: &GroupDecision, lanes: &[Lane<'_>], demands: &Constraints) -> QuotedGroup {
    let eligible = group.lanes.iter().filter(|considered| considered.eligible);
    let of = |considered: &Considered| {
        let lane = &lanes[considered.lane];
        let items = match &considered.verdict {
            Verdict::Selected(items) => u32::try_from(items.len()).unwrap_or(u32::MAX),
            Verdict::Rejected(_) => 0,
        };
        QuotedLane {
            provider: lane.provider.to_owned(),
            upstream: lane.upstream.to_owned(),
            model: lane.model.to_owned(),
            price: lane.price,
            items,
        }
    };
    let lanes = eligible.map(of).filter(|lane| lane.items > 0 || demands.preferences.allow_fallbacks).collect();
    QuotedGroup { models: asked.to_vec(), lanes }
}

/// Refuses what no lanes can serve, or only dearer than the client allows.
fn refuse(quote: &QuoteObject<'_>) -> Result<(), Refusal> {
    let mut issues = Vec::new();
    let mut momentary = true;
    for (group, asked) in quote.decision.groups.iter().zip(&quote.read.asked) {
        let Some(first) = group.unplaced.first() else { continue };
        momentary &= group.unplaced.iter().all(|place| has_lane_later(quote, group, *place));
        let message = format!(
            "no lane of {} can serve {} of the items; `details.quote_lanes` has the reasons",
            asked.iter().map(|model| format!("`{model}`")).collect::<Vec<_>>().join(", "),
            group.unplaced.len(),
        );
        issues.push(Issue { code: "no_eligible_lane", path: format!("items[{first}]"), message });
    }
    let total = quote.pricing().map(Pricing::total);
    if let (true, Some(ceiling), Some(total)) = (issues.is_empty(), quote.demands.max_price, total)
        && total > ceiling.0
    {
        let message = format!("all items together cost {} USD, more than {ceiling} USD", digits(total));
        issues.push(Issue { code: "price_ceiling", path: "max_price".to_owned(), message });
        momentary = false;
    }
    if issues.is_empty() {
        return Ok(());
    }
    let lanes = lane_objects(quote);
    if !momentary {
        return Err(Refusal::Preflight { issues, lanes });
    }
    let unplaced: usize = quote.decision.groups.iter().map(|group| group.unplaced.len()).sum();
    let requested = quote.read.items.len();
    let details = json!({
        "requested_items": requested,
        "allocated_items": requested - unplaced,
        "routing_mode": quote.demands.mode,
        "sla_tier": quote.demands.tier,
        "privacy_tier": quote.demands.privacy_tier,
        "preflight": { "ok": false, "issues": issues },
        "quote_lanes": lanes,
    });
    Err(Refusal::NoCapacity { details })
}

/// Whether an item that has no lane could have one at another moment.
fn has_lane_later(quote: &QuoteObject<'_>, group: &GroupDecision, place: u32) -> bool {
    let Some(item) = quote.read.items.get(place as usize) else { return false };
    let is_open = |considered: &Considered| match &considered.verdict {
        Verdict::Selected(_) => true,
        Verdict::Rejected(reasons) => considered.eligible || reasons.iter().all(Rejection::is_momentary),
    };
    group.lanes.iter().any(|considered| is_open(considered) && fits(&quote.lanes[considered.lane], item))
}
