//! `GET /v1/catalog/models`: the catalog with the live state of the lanes, as in BatchRouter's
//! guide to models and catalog. Where the guide leaves a question open, the choice is described in
//! `docs/catalog.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::json;

use crate::catalog::{HostedTool, Meter, Model, Offer, Operation, Plan, Rate, Snapshot, Status};
use crate::domain::endpoint::Endpoint;
use crate::domain::time::Timestamp;
use crate::http::request::Params;
use crate::http::response::error::ApiError;
use crate::http::response::views::{Template, respond};
use crate::http::state::Api;
use crate::service::capacity::{CapacityStatus, Freshness, HEARTBEAT_SECONDS, LaneCapacity, Supply};

/// Clients may cache the catalog, but must revalidate it each time.
const CACHE: &str = "public, no-cache";

/// The filter of a request; all its conditions must hold.
#[derive(Debug, Clone, Default)]
struct Filter {
    operation: Option<Operation>,
    provider: Option<String>,
    tool: Option<HostedTool>,
}

impl Filter {
    fn read(params: &Params) -> Result<Self, ApiError> {
        let pairs = |words: &'static [Operation]| words.iter().map(|word| (word.word(), *word)).collect::<Vec<_>>();
        let tools: Vec<_> = HostedTool::ALL.iter().map(|word| (word.word(), *word)).collect();
        Ok(Self {
            operation: params.choice("operation", &pairs(Operation::ALL))?,
            provider: params.text("provider")?.map(str::to_owned),
            tool: params.choice("hosted_tool", &tools)?,
        })
    }

    /// A name for the view; `None` if no model can match, so that no view is kept for the filter.
    fn name(&self, snapshot: &Snapshot) -> Option<String> {
        let Self { operation, provider, tool } = self;
        if provider.as_ref().is_some_and(|id| snapshot.provider(id).is_none()) {
            return None;
        }
        let word = |word: Option<&'static str>| word.unwrap_or("");
        let (operation, tool) = (word(operation.map(Operation::word)), word(tool.map(HostedTool::word)));
        Some(format!("batchrouter/catalog/{operation}/{tool}/{}", provider.as_deref().unwrap_or("")))
    }

    /// Whether a model matches; provider and tool must match in the same offering.
    fn matches(&self, snapshot: &Snapshot, model: &Model) -> bool {
        let offer = |offer: Offer<'_>| {
            self.provider.as_ref().is_none_or(|id| *id == offer.provider.id())
                && self.tool.is_none_or(|tool| offer.offering.hosted_tools.contains(&tool))
        };
        let any_offer = self.provider.is_none() && self.tool.is_none();
        self.operation.is_none_or(|operation| model.operations.contains(&operation)) && (any_offer || snapshot.offers(model).any(offer))
    }
}

/// `GET /v1/catalog/models`
pub async fn models(State(api): State<Arc<Api>>, params: Result<Params, ApiError>, headers: HeaderMap) -> Response {
    let answer = match params.and_then(|params| Filter::read(&params)) {
        Ok(filter) => match filter.name(&api.service.catalog.current()) {
            Some(name) => respond(&api, &name, &headers, CACHE, move |snapshot| template(snapshot, &filter)).await,
            None => Ok(Json(json!({ "data": [], "provider_count": 0, "pricing_updated_at": null })).into_response()),
        },
        Err(error) => Err(error),
    };
    let mut response = answer.unwrap_or_else(ApiError::into_batchrouter);
    cors(response.headers_mut());
    response
}

/// `OPTIONS /v1/catalog/models`: the preflight request of browsers before they send custom headers.
pub async fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    cors(response.headers_mut());
    response
}

fn cors(headers: &mut HeaderMap) {
    let all: [(HeaderName, &'static str); 5] = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, if-none-match"),
        (ACCESS_CONTROL_EXPOSE_HEADERS, "etag, x-request-id"),
        (ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    headers.extend(all.map(|(name, value)| (name, HeaderValue::from_static(value))));
}

/// `CatalogModel` without its live fields.
#[derive(Serialize)]
struct ModelObject<'a> {
    slug: &'a str,
    display_name: &'a str,
    provider: Option<&'a str>,
    operations: &'a [Operation],
    context_window: Option<u64>,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    input_modalities: &'a [crate::catalog::Modality],
    output_modalities: &'a [crate::catalog::Modality],
    supports_file_uploads: bool,
    accepted_file_types: &'a [String],
    max_file_size: Option<u64>,
    hosted_tools: Vec<HostedTool>,
    model_family: Option<&'a str>,
    organisation: &'a str,
    accepted_aliases: Vec<String>,
    endpoints: Vec<&'static str>,
    released_at: Option<String>,
    deprecated_at: Option<String>,
    retired_at: Option<String>,
}

/// `ProviderOffering` without its live fields.
#[derive(Serialize)]
struct OfferingObject<'a> {
    provider: &'a str,
    provider_name: &'a str,
    task_type: &'a str,
    upstream_model: &'a str,
    context_window: Option<u64>,
    max_output_tokens: Option<u64>,
    price: Option<Price>,
    batch_price: Option<Price>,
    regions: &'a [String],
    retention_days: Option<u32>,
    supports_zdr: Option<bool>,
    data_collection: Option<crate::catalog::DataCollection>,
    training_use: Option<bool>,
    privacy_tiers: &'a [String],
    privacy_terms_url: Option<&'a str>,
    hosted_tools: &'a [HostedTool],
    runtime_capabilities: &'a [String],
    accepted_file_types: &'a [String],
    supports_file_uploads: bool,
    status: Status,
    metadata_verification_status: crate::catalog::Verification,
}

/// `price`: US dollars as decimal strings.
#[derive(Serialize)]
struct Price {
    currency: &'static str,
    input_per_mtok: String,
    output_per_mtok: String,
    cached_input_per_mtok: Option<String>,
    /// Our own extension: everything else that is charged for, by meter, with its unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    other_rates: BTreeMap<&'static str, OtherRate>,
    /// Our own extension: what the numbers leave out.
    note: Option<String>,
    source: String,
    verified_at: String,
}

#[derive(Serialize)]
struct OtherRate {
    amount: String,
    unit: &'static str,
    unit_size: u32,
}

fn price(rate: &Rate) -> Price {
    let amount = |meter| rate.amounts.get(&meter).map(ToString::to_string);
    let zero = || Decimal::ZERO.to_string();
    let per_mtok = [Meter::Input, Meter::Output, Meter::CachedInput];
    let other = rate.amounts.iter().filter(|(meter, _)| !per_mtok.contains(meter)).map(|(meter, amount)| {
        let (unit, unit_size) = meter.unit();
        (meter.word(), OtherRate { amount: amount.to_string(), unit, unit_size })
    });
    Price {
        currency: "usd",
        input_per_mtok: amount(Meter::Input).unwrap_or_else(zero),
        output_per_mtok: amount(Meter::Output).unwrap_or_else(zero),
        cached_input_per_mtok: amount(Meter::CachedInput),
        other_rates: other.collect(),
        note: rate.note.clone(),
        source: rate.evidence.source.clone(),
        verified_at: rate.evidence.verified_at.to_string(),
    }
}

fn template(snapshot: &Snapshot, filter: &Filter) -> Template {
    let mut template = Template::new();
    let (mut providers, mut priced) = (BTreeSet::new(), None);
    template.text("{\"data\":[");
    for (index, model) in snapshot.all_models().iter().filter(|model| filter.matches(snapshot, model)).enumerate() {
        if index > 0 {
            template.text(",");
        }
        let offers: Vec<_> = snapshot.offers(model).collect();
        providers.extend(offers.iter().map(|offer| offer.provider.id()));
        let days = offers.iter().flat_map(|offer| offer.offering.rates.all()).map(|rate| rate.evidence.verified_at);
        priced = priced.max(days.max());
        add_model(&mut template, snapshot, model, &offers);
    }
    let updated = priced.map(|day| format!("{day}T00:00:00Z"));
    template.text("],\"provider_count\":");
    template.json(&providers.len());
    template.text(",\"pricing_updated_at\":");
    template.json(&updated);
    template.text("}");
    template
}

fn add_model(template: &mut Template, snapshot: &Snapshot, model: &Model, offers: &[Offer<'_>]) {
    // A provider that takes every model may serve this model without an offering for it.
    let serving = snapshot.resolve(&model.id).map(|route| route.provider).ok();
    let primary = offers.iter().find(|offer| Some(offer.provider.id()) == serving).or(offers.first()).map(|offer| offer.provider.id());
    let tools: BTreeSet<_> = offers.iter().flat_map(|offer| &offer.offering.hosted_tools).chain(&model.hosted_tools).copied().collect();
    let day = |day: Option<jiff::civil::Date>| day.map(|day| day.to_string());
    let files = model.files.as_ref();
    let names = model.aliases.iter().cloned().chain(Some(model.qualified()).filter(|name| *name != model.id));
    template.open_object(&ModelObject {
        slug: &model.id,
        display_name: &model.name,
        provider: primary,
        operations: &model.operations,
        context_window: model.context_window,
        max_input_tokens: model.max_input_tokens.or(model.context_window),
        max_output_tokens: model.max_output_tokens,
        input_modalities: &model.input,
        output_modalities: &model.output,
        supports_file_uploads: files.is_some(),
        accepted_file_types: files.map_or(&[], |files| &files.types),
        max_file_size: files.map_or(Some(0), |files| files.max_bytes),
        hosted_tools: tools.into_iter().collect(),
        model_family: model.family.as_deref(),
        organisation: &model.organisation,
        accepted_aliases: names.collect(),
        endpoints: model.endpoints.iter().map(|endpoint| endpoint.path()).collect(),
        released_at: day(model.released),
        deprecated_at: day(model.deprecated),
        retired_at: day(model.retired),
    });
    template.text(",\"is_available\":");
    let supplies: Vec<_> = offers.iter().map(Supply::of).collect();
    template.hole({
        let supplies = supplies.clone();
        move |live, out| {
            let available = supplies.iter().any(|supply| supply.is_available(live));
            out.extend_from_slice(if available { b"true" } else { b"false" });
            None
        }
    });
    template.text(",\"provider_offerings\":[");
    for (index, (offer, supply)) in offers.iter().zip(supplies).enumerate() {
        if index > 0 {
            template.text(",");
        }
        add_offering(template, snapshot, model, offer, supply);
    }
    template.text("]}");
}

fn add_offering(template: &mut Template, snapshot: &Snapshot, model: &Model, offer: &Offer<'_>, supply: Supply) {
    let offering = offer.offering;
    let task = model.operations.first().map(|operation| operation.word());
    let path = || offering.endpoints.first().map_or("", |endpoint: &Endpoint| endpoint.tail().trim_start_matches('/'));
    let on = |plan| offering.rates.on(snapshot.today(), plan).map(price);
    template.open_object(&OfferingObject {
        provider: offer.provider.id(),
        provider_name: &offer.provider.name,
        task_type: task.unwrap_or_else(path),
        upstream_model: &offering.upstream,
        context_window: offering.context_window,
        max_output_tokens: offering.max_output_tokens,
        price: on(Plan::Standard),
        batch_price: on(Plan::Batch),
        regions: &offering.regions,
        retention_days: offering.privacy.retention_days,
        supports_zdr: offering.privacy.zdr,
        data_collection: offering.privacy.data_collection,
        training_use: offering.privacy.training_use,
        privacy_tiers: &offering.privacy.tiers,
        privacy_terms_url: offering.privacy.terms_url.as_deref(),
        hosted_tools: &offering.hosted_tools,
        runtime_capabilities: &offering.runtime_capabilities,
        accepted_file_types: offering.files.as_ref().map_or(&[], |files| &files.types),
        supports_file_uploads: offering.files.is_some(),
        status: offer.status,
        metadata_verification_status: offering.verification,
    });
    template.text(",");
    template.hole(move |live, out| write_capacity(&supply.capacity(live), out));
    template.text("}");
}

/// The work that a lane can take now.
#[derive(Serialize)]
struct SupplyObject {
    capacity_status: &'static str,
    available_queue_items: u64,
    available_queue_tokens: u64,
    capacity_freshness: FreshnessObject,
}

#[derive(Serialize)]
struct FreshnessObject {
    status: &'static str,
    last_heartbeat_at: Option<String>,
    ttl_seconds: u64,
}

/// Appends the live fields of an offering, without braces.
fn write_capacity(capacity: &LaneCapacity, out: &mut Vec<u8>) -> Option<Timestamp> {
    let object = SupplyObject {
        capacity_status: match capacity.status {
            CapacityStatus::Active => "active",
            CapacityStatus::Draining => "draining",
            CapacityStatus::Paused => "paused",
        },
        available_queue_items: capacity.room.0,
        available_queue_tokens: capacity.room.1,
        capacity_freshness: FreshnessObject {
            status: match capacity.freshness {
                Freshness::Fresh => "fresh",
                Freshness::Stale => "stale_heartbeat",
                Freshness::Unknown => "unknown",
            },
            last_heartbeat_at: capacity.last_answer.map(|at| at.to_string()),
            ttl_seconds: HEARTBEAT_SECONDS,
        },
    };
    let json = serde_json::to_vec(&object).unwrap_or_default();
    out.extend_from_slice(json.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).unwrap_or(&json));
    capacity.good_until
}
