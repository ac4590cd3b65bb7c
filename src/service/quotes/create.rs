//! Making a quote: its items are priced on the lanes as they are at the moment, and every request
//! that can be refused is refused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rust_decimal::Decimal;
use serde_json::value::RawValue;

use super::items::{self, AttachedFiles, NewItem, ReadItems, Reading};
use super::lanes::lanes;
use super::outcome::{Decided, Outcome};
use super::pricing::{Pricing, digits};
use super::worst_case::{Demands, reserve, worst_case};
use crate::domain::endpoint::Endpoint;
use crate::domain::id::{OrgId, QuoteId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::{Account, with_fee};
use crate::domain::quote::constraints::{Constraints, RoutingPreferences};
use crate::domain::quote::output_stats::OutputStats;
use crate::domain::quote::{Quote, QuotedGroup, QuotedLane};
use crate::domain::row::batchrouter::Defaults;
use crate::domain::time::later;
use crate::domain::vocabulary::{Modality, Operation};
use crate::quote::{Considered, GroupDecision, Lane, LaneVerdict, Rejection, Terms, decide, fits};
use crate::service::live_lanes::Live;
use crate::service::{Issue, IssueCode, IssuePath, ItemsError, Service, ServiceError};

/// The most lanes in one answer; a lane that serves several groups counts for each.
const MAX_LANES: usize = 4_000;

/// The content of a quote request besides its items.
#[derive(Debug, Clone)]
pub struct QuoteRequest {
    pub defaults: Defaults,
    pub constraints: Constraints,
    pub options: QuoteOptions,
}

/// The options in which dialects differ when a quote is made. The default is BatchRouter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteOptions {
    pub preferences: RoutingPreferences,
    /// Items only go to lanes that take them in the form the client asked for, without conversion.
    pub as_asked: bool,
    /// The time within which items must be done, if it differs from that of their tier.
    pub window: Option<Duration>,
}

impl Default for QuoteOptions {
    fn default() -> Self {
        Self { preferences: RoutingPreferences::NONE, as_asked: false, window: None }
    }
}

/// A quote that is not kept yet, and the outcome of making it.
pub struct MadeQuote {
    pub quote: Quote,
    pub outcome: Outcome,
    pub read: ReadItems,
}

/// Splits an array of items into their original texts, at most `most` of them.
///
/// # Errors
/// When `items` is not an array, or has too many items or none.
pub fn split(items: &Bytes, most: usize) -> Result<Vec<&RawValue>, ServiceError> {
    let items: Vec<&RawValue> = serde_json::from_slice(items).map_err(|_| ServiceError::Items(ItemsError::NotAnArray))?;
    match items.len() {
        0 => Err(ServiceError::Items(ItemsError::Empty)),
        count if count > most => Err(ServiceError::Items(ItemsError::TooMany(most))),
        _ => Ok(items),
    }
}

impl Service {
    /// Makes a quote of items that are written as an array, when its turn has come. `request`
    /// returns the request and may take time; `show` renders the client's view of the quote. The
    /// quote is not kept yet.
    ///
    /// # Errors
    /// Errors of `request`, and of a quote that cannot be made.
    pub async fn make_quote<E: From<ServiceError> + Send + 'static>(
        self: &Arc<Self>,
        org: OrgId,
        request: impl FnOnce(&Self) -> Result<(Bytes, QuoteRequest), E> + Send + 'static,
        show: fn(&Outcome) -> Vec<u8>,
    ) -> Result<Quote, E> {
        let account = self.store.account(org).await.map_err(ServiceError::from)?;
        let service = self.clone();
        let making = move || {
            let (items, request) = request(&service)?;
            let written = split(&items, service.limits.quotes.max_items)?;
            let written: Vec<_> = written.into_iter().map(NewItem::Written).collect();
            let MadeQuote { quote, outcome, read } = service.quote_items(&written, &request, org, account)?;
            let worst = worst_case(&read, &quote, Demands { limits: false, prepaid: false })?;
            let reserve = quote.estimate.map(|estimate| reserve(worst, Some(estimate), quote.constraints.max_price));
            Ok(Quote { shown: show(&Outcome { reserve, ..outcome }), ..quote })
        };
        self.turns.take(org, making).await
    }

    /// Makes a quote of items at once. The quote is neither kept nor rendered yet. Blocks.
    ///
    /// # Errors
    /// When the items are faulty, or no lanes can serve them as demanded.
    pub fn quote_items(
        &self,
        written: &[NewItem<'_>],
        request: &QuoteRequest,
        org: OrgId,
        account: Account,
    ) -> Result<MadeQuote, ServiceError> {
        let QuoteRequest { defaults, constraints, options } = request;
        let terms = &self.limits.quotes;
        let (catalog, now) = (self.catalog.current(), self.clock.now());
        let files = AttachedFiles { store: &self.store, org, now };
        let reading = Reading { defaults, as_asked: options.as_asked };
        let read = items::read(written, reading, &catalog, &files).map_err(ServiceError::preflight)?;
        let (board, holds) = (self.executor.board(), self.executor.lane_holds());
        let mut lanes = lanes(&catalog, &read.groups, &Live { board: &board, holds: &holds, now });
        check_lanes(&read, &lanes)?;
        let asked = endpoints(&read);
        for lane in &mut lanes {
            lane.observed_output = self.observed_output(lane, asked.get(lane.model))?;
        }
        let window = options.window.unwrap_or_else(|| terms.tiers.of(constraints.tier));
        let decision =
            decide(&read.items, &read.groups, &lanes, constraints, &Terms { window, fee: terms.fee, preferences: &options.preferences });
        let decided = Decided { read: &read, lanes: &lanes, decision: &decision, constraints, fee: terms.fee };
        let takers = decided.takers();
        let outcome = Outcome {
            id: QuoteId::generate(now),
            created_at: now,
            valid_until: later(now, terms.validity),
            deadline: later(now, window),
            window,
            constraints: constraints.clone(),
            items: read.items.len(),
            unplaced: decision.groups.iter().map(|group| group.unplaced.len()).sum(),
            pricing: decided.pricing(),
            fallback_ceiling: decided.fallback_ceiling(),
            tokens: decided.tokens(),
            reserve: None,
            account,
            lanes: decided.considered(&takers, &catalog),
        };
        let outcome = refuse(&decided, outcome)?;
        let groups = decision.groups.iter().zip(&takers).enumerate();
        let groups = groups.map(|(place, (group, takers))| quoted(&read, place, group, takers, &lanes, terms.fee)).collect();
        let quote = Quote {
            id: outcome.id,
            org,
            created_at: now,
            valid_until: outcome.valid_until,
            deadline: outcome.deadline,
            constraints: constraints.clone(),
            defaults: defaults.clone(),
            fee: terms.fee,
            items: u32::try_from(read.items.len()).unwrap_or(u32::MAX),
            estimate: outcome.pricing.map(Pricing::estimate),
            groups,
            shown: Vec::new(),
        };
        drop(lanes);
        Ok(MadeQuote { quote, outcome, read })
    }

    /// The usual length of a lane's answers, in tokens, for the endpoint with the most answers.
    fn observed_output(&self, lane: &Lane<'_>, asked: Option<&BTreeSet<Endpoint>>) -> Result<Option<u64>, ServiceError> {
        let mut best = OutputStats::default();
        for endpoint in asked.into_iter().flatten() {
            let found = self.store.observed(lane.provider, lane.upstream, *endpoint)?;
            best = if found.answers > best.answers { found } else { best };
        }
        Ok(best.mean())
    }
}

/// The endpoints that each model is asked for.
fn endpoints(read: &ReadItems) -> HashMap<&str, BTreeSet<Endpoint>> {
    let mut endpoints: HashMap<&str, BTreeSet<Endpoint>> = HashMap::new();
    for group in &read.groups {
        let first = group.items.first().and_then(|place| read.items.get(*place as usize));
        let asked: Vec<Endpoint> = first.map_or(&[][..], |item| item.formats).iter().map(|format| format.endpoint()).collect();
        // The statistics of answers to items are kept together, whatever form the answers had.
        let conversation = asked.contains(&Endpoint::Messages).then_some(Endpoint::ChatCompletions);
        for model in &group.models {
            endpoints.entry(model).or_default().extend(asked.iter().copied().chain(conversation));
        }
    }
    endpoints
}

/// Refuses a request whose answer would list too many lanes.
fn check_lanes(read: &ReadItems, lanes: &[Lane<'_>]) -> Result<(), ServiceError> {
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
    Err(ServiceError::issue(IssueCode::TooManyModels, IssuePath::Field("items"), message))
}

/// The facts about a group's lanes that a batch needs.
fn quoted(read: &ReadItems, place: usize, group: &GroupDecision, takers: &[bool], lanes: &[Lane<'_>], fee: Decimal) -> QuotedGroup {
    let whole = read.groups.get(place).map_or(0, |group| group.items.len());
    let of = |(considered, takes_over): (&Considered, &bool)| {
        let lane = &lanes[considered.lane];
        let items = match &considered.verdict {
            LaneVerdict::Selected(items) => u32::try_from(items.len()).unwrap_or(u32::MAX),
            LaneVerdict::Rejected(_) => 0,
        };
        QuotedLane {
            provider: lane.provider.to_owned(),
            upstream: lane.upstream.to_owned(),
            model: lane.model.to_owned(),
            price: lane.price,
            most_input: [lane.context_window, lane.max_input_tokens].into_iter().flatten().min(),
            // Nothing longer fits into the window.
            most_output: lane.max_output_tokens.or(lane.context_window),
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

/// The average cost of one item on a lane: over all `whole` items of the group, or over the items
/// that the lane serves.
fn each(considered: &Considered, whole: usize, fee: Decimal) -> Option<Usd> {
    let (cost, items) = match (&considered.verdict, considered.whole) {
        (LaneVerdict::Selected(items), _) => (considered.cost?, items.len()),
        (LaneVerdict::Rejected(_), Some(cost)) => (cost, whole),
        (LaneVerdict::Rejected(_), None) => return None,
    };
    Some(Usd(with_fee(cost, fee).0 / Decimal::from(items.max(1))))
}

/// Refuses items that no lanes can serve, or only at a price above the client's limit.
fn refuse(decided: &Decided<'_>, outcome: Outcome) -> Result<Outcome, ServiceError> {
    let mut issues = Vec::new();
    let mut momentary = true;
    for (group, asked) in decided.decision.groups.iter().zip(&decided.read.asked) {
        let Some(first) = group.unplaced.first() else { continue };
        momentary &= group.unplaced.iter().all(|place| has_lane_later(decided, group, *place));
        let message = format!(
            "no lane of {} can serve {} of the items; `details.quote_lanes` has the reasons",
            asked.iter().map(|model| format!("`{model}`")).collect::<Vec<_>>().join(", "),
            group.unplaced.len(),
        );
        issues.push(Issue { code: IssueCode::NoEligibleLane, path: IssuePath::item(*first), message });
    }
    let total = outcome.pricing.map(Pricing::total);
    if let (true, Some(ceiling), Some(total)) = (issues.is_empty(), decided.constraints.max_price, total)
        && total > ceiling.0
    {
        let message = format!("all items together cost {} USD, more than {ceiling} USD", digits(total));
        issues.push(Issue { code: IssueCode::PriceCeiling, path: IssuePath::Field("max_price"), message });
        momentary = false;
    }
    let outcome = Box::new(outcome);
    match (issues.is_empty(), momentary) {
        (true, _) => Ok(*outcome),
        (false, false) => Err(ServiceError::Preflight { issues, outcome: Some(outcome) }),
        (false, true) => Err(ServiceError::NoCapacity { issues, outcome }),
    }
}

/// Whether an item without a lane could have one at another moment.
fn has_lane_later(decided: &Decided<'_>, group: &GroupDecision, place: u32) -> bool {
    let Some(item) = decided.read.items.get(place as usize) else { return false };
    let is_open = |considered: &Considered| match &considered.verdict {
        LaneVerdict::Selected(_) => true,
        LaneVerdict::Rejected(reasons) => considered.eligible || reasons.iter().all(Rejection::is_momentary),
    };
    group.lanes.iter().any(|considered| is_open(considered) && fits(&decided.lanes[considered.lane], item))
}
