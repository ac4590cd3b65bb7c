//! Making a quote: what a request wants, read; its items, priced on the lanes as they are at the moment;
//! what can be refused, refused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rust_decimal::Decimal;
use serde_json::json;
use serde_json::value::RawValue;

use super::error::{Issue, Refusal};
use super::items::{self, Files, Read, Reading};
use super::lanes::lanes;
use super::manifest;
use super::money::{Pricing, digits};
use super::quotes::object::{QuoteObject, lane_objects};
use super::routing;
use super::routing::{names, word};
use crate::domain::endpoint::Endpoint;
use crate::domain::id::{OrgId, QuoteId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Account, with_fee};
use crate::domain::quote::constraints::{Constraints, Wishes};
use crate::domain::quote::output_stats::Observed;
use crate::domain::quote::{Quote, QuotedGroup, QuotedLane};
use crate::domain::row::batchrouter::{Defaults, is_name};
use crate::domain::row::openai::MAX_MODEL_CHARS;
use crate::domain::time::{Timestamp, later};
use crate::domain::vocabulary::{Modality, Operation};
use crate::http::request::{Object, parse_id};
use crate::http::response::error::ApiError;
use crate::http::response::views::Live;
use crate::http::state::Api;
use crate::quote::{Considered, GroupDecision, Lane, Rejection, Terms, Verdict, decide, fits};

/// The fields that are read, besides the items.
pub const FIELDS: [&str; 13] = [
    "input_file_id",
    "input_item_count",
    "model",
    "models",
    "operation",
    "routing_mode",
    "sla_tier",
    "privacy_tier",
    "allowed_regions",
    "required_tools",
    "max_price",
    "price_protection_policy",
    "provider_preferences",
];
/// Lanes in one answer; one that serves several groups counts for each.
const MAX_LANES: usize = 4_000;

/// What the request says, as far as it can be said without the catalog.
#[derive(Debug)]
pub struct Wanted {
    /// An array, as it is written.
    pub items: Bytes,
    pub defaults: Defaults,
    pub demands: Constraints,
    pub manner: Manner,
}

/// How a quote is made, as far as dialects differ in that. The default is BatchRouter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manner {
    pub wishes: Wishes,
    /// Items go to lanes that take them as they are asked, and not in another form.
    pub as_asked: bool,
    /// When they must be done, if that is not what their tier says.
    pub window: Option<Duration>,
    /// Items that it may have, if those are not as many as the settings say.
    pub most: Option<usize>,
}

impl Default for Manner {
    fn default() -> Self {
        Self { wishes: Wishes::NONE, as_asked: false, window: None, most: None }
    }
}

impl Wanted {
    /// What a body says. Takes time if the items are in a file of the organisation's.
    ///
    /// # Errors
    /// When a field has a value that it cannot have, or the file cannot be used.
    pub fn read(api: &Api, org: OrgId, body: &Bytes) -> Result<Self, Refusal> {
        let (object, [items]) = Object::picking(body, &FIELDS, ["items"])?;
        let (defaults, demands) = (defaults(&object)?, routing::read(&object)?);
        let file = object.text("input_file_id")?.map(|id| parse_id("input_file_id", id)).transpose()?;
        let items = match (items.filter(|items| items.as_ref() != b"null"), file) {
            (Some(items), None) => items,
            (None, Some(file)) => manifest::items(api, org, file)?,
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("input_file_id", "`input_file_id` stands beside `items`; one is quoted").into());
            }
            (None, None) => {
                let message =
                    "it is an array of the items to be quoted, or of some that are like them; or `input_file_id` names a file of them";
                return Err(ApiError::missing("items", message).into());
            }
        };
        Ok(Self { items, defaults, demands, manner: Manner::default() })
    }
}

/// What a body says of all its items.
///
/// # Errors
/// When a field has a value that it cannot have.
pub fn defaults(object: &Object) -> Result<Defaults, ApiError> {
    let model = object.text("model")?.map(str::to_owned);
    let (field, models) = match names(object, "models")? {
        models if models.is_empty() => ("model", model.into_iter().collect()),
        models => ("models", models),
    };
    if !models.iter().all(|name| is_name(name)) {
        return Err(ApiError::invalid(field, format!("`{field}` must name models, with 1 to {MAX_MODEL_CHARS} characters each")));
    }
    let operation = word(object, "operation", Operation::parse, Operation::choices)?;
    Ok(Defaults { operation, models })
}

/// The items as they are written, at most so many.
///
/// # Errors
/// When they are no array, or too many or none.
pub fn split(items: &Bytes, most: usize) -> Result<Vec<&RawValue>, Refusal> {
    let wrong = |what: &str| ApiError::invalid("items", format!("items: {what}"));
    let items: Vec<&RawValue> = serde_json::from_slice(items).map_err(|_| wrong("Expected array of items"))?;
    match items.len() {
        0 => Err(wrong("Array must contain at least 1 element(s)").into()),
        count if count > most => Err(wrong(&format!("Array must contain at most {most} element(s)")).into()),
        _ => Ok(items),
    }
}

/// Makes a quote of what `wanted` reads, when its turn has come. It is not kept yet.
///
/// # Errors
/// Those of `wanted`, and of a quote that cannot be made.
pub async fn in_turn(
    api: &Arc<Api>,
    org: OrgId,
    wanted: impl FnOnce(&Api) -> Result<Wanted, Refusal> + Send + 'static,
) -> Result<Quote, Refusal> {
    let account = api.store.account(org).await.map_err(ApiError::from)?;
    let turn = api.quoting.turn().await?;
    let (api, span) = (api.clone(), tracing::Span::current());
    let making = move || {
        // Goes on when the client goes away, and so does its turn.
        let _turn = turn;
        span.in_scope(|| make(&api, wanted(&api)?, org, &account))
    };
    tokio::task::spawn_blocking(making).await.map_err(ApiError::internal)?
}

/// Makes a quote. Takes time.
///
/// # Errors
/// When the items are faulty, or no lanes can serve them as demanded.
fn make(api: &Api, wanted: Wanted, org: OrgId, account: &Account) -> Result<Quote, Refusal> {
    let Wanted { items, defaults, demands, manner } = wanted;
    let terms = &api.limits.quotes;
    let catalog = api.catalog.current();
    let written = split(&items, manner.most.unwrap_or(terms.max_items))?;
    let files = Files { store: &api.store, org, now: api.clock.now() };
    let read = items::read(&written, Reading { defaults: &defaults, as_asked: manner.as_asked }, &catalog, &files)
        .map_err(|issues| Refusal::Preflight { issues, lanes: Vec::new() })?;
    let (board, holds, now) = (api.executor.board(), api.executor.lane_holds(), api.clock.now());
    let mut lanes = lanes(&catalog, &read.groups, &Live { board: &board, holds: &holds, now });
    check_lanes(&read, &lanes)?;
    let asked = endpoints(&read);
    for lane in &mut lanes {
        lane.observed_output = observed(api, lane, asked.get(lane.model))?;
    }
    let window = manner.window.unwrap_or_else(|| terms.tiers.of(demands.tier));
    let decision = decide(&read.items, &read.groups, &lanes, &demands, &Terms { window, fee: terms.fee, wishes: &manner.wishes });
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
        account,
    };
    refuse(&object)?;
    let takers = object.takers();
    let groups = decision.groups.iter().zip(&takers).enumerate();
    let groups = groups.map(|(place, (group, takers))| quoted(&read, place, group, takers, &lanes, terms.fee)).collect();
    let estimate = object.pricing().map(Pricing::estimate);
    let shown = serde_json::to_vec(&object.json()).map_err(ApiError::internal)?;
    let (id, valid_until, deadline): (QuoteId, Timestamp, Timestamp) = (object.id, object.valid_until, object.deadline);
    let items = u32::try_from(read.items.len()).unwrap_or(u32::MAX);
    let fee = terms.fee;
    Ok(Quote { id, org, created_at: now, valid_until, deadline, demands, defaults, fee, items, estimate, groups, shown })
}

/// What each model is asked.
fn endpoints(read: &Read) -> HashMap<&str, BTreeSet<Endpoint>> {
    let mut endpoints: HashMap<&str, BTreeSet<Endpoint>> = HashMap::new();
    for group in &read.groups {
        let first = group.items.first().and_then(|place| read.items.get(*place as usize));
        let asked = first.map_or(&[][..], |item| item.endpoints);
        // The answers to items are kept together, whatever form they had.
        let conversation = asked.contains(&Endpoint::Messages).then_some(&Endpoint::ChatCompletions);
        for model in &group.models {
            endpoints.entry(model).or_default().extend(asked.iter().chain(conversation));
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
fn quoted(read: &Read, place: usize, group: &GroupDecision, takers: &[bool], lanes: &[Lane<'_>], fee: Decimal) -> QuotedGroup {
    let whole = read.groups.get(place).map_or(0, |group| group.items.len());
    let of = |(considered, takes_over): (&Considered, &bool)| {
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
            most_input: [lane.context_window, lane.max_input_tokens].into_iter().flatten().min(),
            most_output: lane.max_output_tokens,
            text_only: !lane.input.is_empty() && lane.input.iter().all(|each| *each == Modality::Text),
            usual_output: lane.observed_output,
            each: each(considered, whole, fee),
            items,
            takes_over: *takes_over,
        }
    };
    let lanes = group.lanes.iter().zip(takers).map(of).filter(|lane| lane.items > 0 || lane.takes_over).collect();
    QuotedGroup {
        operation: read.operations.get(place).copied().unwrap_or(Operation::Responses),
        models: read.groups.get(place).map(|group| group.models.clone()).unwrap_or_default(),
        asked: read.asked.get(place).cloned().unwrap_or_default(),
        lanes,
    }
}

/// What one item costs on a lane, on average: of all `whole` items of the group, or of those that it serves.
fn each(considered: &Considered, whole: usize, fee: Decimal) -> Option<Usd> {
    let (cost, items) = match (&considered.verdict, considered.whole) {
        (Verdict::Selected(items), _) => (considered.cost?, items.len()),
        (Verdict::Rejected(_), Some(cost)) => (cost, whole),
        (Verdict::Rejected(_), None) => return None,
    };
    Some(Usd(with_fee(cost, fee).0 / Decimal::from(items.max(1))))
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
