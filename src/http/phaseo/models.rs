//! `GET /v1/batches/models`: the models that a batch can use now, as Phaseo lists them.
//!
//! Rules of Phaseo's documentation: `params` picks provider entries that support at least one of
//! the named parameters. Everything else (parameters, details, prices) is computed from the
//! remaining entries. The newest models come first.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use rust_decimal::Decimal;
use serde::Serialize;

use super::params::{Details, NAMES, has, merge, of_offer};
use super::{CACHE, PhaseoList};
use crate::catalog::{Meter, Modality, Model, Offer, Snapshot};
use crate::http::request::Params;
use crate::http::response::error::ApiError;
use crate::http::response::views::{Template, respond};
use crate::http::state::Api;

/// `GET /v1/batches/models`
pub async fn list(State(api): State<Arc<Api>>, params: Params, headers: HeaderMap) -> Result<Response, ApiError> {
    let wanted = wanted(&params);
    let name = format!("phaseo/models/{}", wanted.as_ref().map_or("all".to_owned(), |names| names.join(",")));
    respond(&api, &name, &headers, CACHE, move |snapshot| Template::of(&listing(snapshot, wanted.as_deref()))).await
}

/// The known parameters among those that the query asks for; `None` without a filter.
fn wanted(params: &Params) -> Option<Vec<&'static str>> {
    let named = params.all("params");
    let named: Vec<_> = named.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
    let known = NAMES.into_iter().filter(|name| named.contains(name)).collect();
    (!named.is_empty()).then_some(known)
}

#[derive(Serialize)]
struct ModelEntry<'a> {
    model: String,
    name: &'a str,
    status: &'static str,
    input_types: &'a [Modality],
    output_types: &'a [Modality],
    #[serde(flatten)]
    supported: Supported,
    providers: Vec<ProviderEntry<'a>>,
    pricing: Pricing,
}

#[derive(Serialize)]
struct ProviderEntry<'a> {
    id: &'a str,
    #[serde(flatten)]
    supported: Supported,
}

/// The supported parameters and their details, each under two names with equal values.
#[derive(Serialize)]
struct Supported {
    supported_params: Vec<&'static str>,
    supported_parameters: Vec<&'static str>,
    supported_params_detail: Details,
    supported_parameters_detail: Details,
}

impl From<Details> for Supported {
    fn from(details: Details) -> Self {
        let names: Vec<_> = details.keys().copied().collect();
        Self {
            supported_params: names.clone(),
            supported_parameters: names,
            supported_params_detail: details.clone(),
            supported_parameters_detail: details,
        }
    }
}

fn listing<'a>(snapshot: &'a Snapshot, wanted: Option<&[&str]>) -> PhaseoList<ModelEntry<'a>> {
    let mut models: Vec<_> = snapshot.all_models().iter().filter(|model| is_current(snapshot, model)).collect();
    models.sort_by_cached_key(|model| (std::cmp::Reverse(model.released), model.name.to_lowercase(), model.qualified()));
    let entries = models.into_iter().filter_map(|model| entry(snapshot, model, wanted));
    PhaseoList { object: "list", data: entries.collect() }
}

/// Whether a model is neither retired nor deprecated.
fn is_current(snapshot: &Snapshot, model: &Model) -> bool {
    let ahead = |day: Option<jiff::civil::Date>| day.is_none_or(|day| day > snapshot.today());
    ahead(model.retired) && ahead(model.deprecated)
}

fn entry<'a>(snapshot: &'a Snapshot, model: &'a Model, wanted: Option<&[&str]>) -> Option<ModelEntry<'a>> {
    let mut offers: Vec<_> = snapshot.offers(model).filter(Offer::takes_work).map(|offer| (offer, of_offer(&offer))).collect();
    offers.retain(|(_, details)| wanted.is_none_or(|names| names.iter().any(|name| has(details, name))));
    offers.sort_by_key(|(offer, _)| offer.provider.id());
    if offers.is_empty() {
        return None;
    }
    let merged = merge(offers.iter().map(|(offer, details)| (offer.provider.id(), details)));
    let pricing = Pricing { pricing_plan: "standard", meters: meters(snapshot, offers.iter().map(|(offer, _)| offer)) };
    let providers = offers.into_iter().map(|(offer, details)| ProviderEntry { id: offer.provider.id(), supported: details.into() });
    Some(ModelEntry {
        model: model.qualified(),
        name: &model.name,
        status: "active",
        input_types: &model.input,
        output_types: &model.output,
        supported: merged.into(),
        providers: providers.collect(),
        pricing,
    })
}

/// `pricing_plan` is a constant of the API; the prices are the lowest of any plan.
#[derive(Serialize)]
struct Pricing {
    pricing_plan: &'static str,
    meters: BTreeMap<&'static str, Option<MeterObject>>,
}

#[derive(Serialize)]
struct MeterObject {
    provider_id: String,
    unit: &'static str,
    unit_size: u32,
    price_per_unit: String,
    currency: &'static str,
}

/// The 21 meters of the API and their names here; `null` if no provider charges by a meter.
const METERS: [(&str, Option<Meter>); 21] = [
    ("input_tokens", None),
    ("input_characters", Some(Meter::Characters)),
    ("input_text_bytes", None),
    ("input_text_tokens", Some(Meter::Input)),
    ("input_image_tokens", Some(Meter::ImageInput)),
    ("input_image", None),
    ("input_video_tokens", Some(Meter::VideoInput)),
    ("input_audio_tokens", Some(Meter::AudioInput)),
    ("input_audio_seconds", Some(Meter::AudioSecond)),
    ("output_tokens", None),
    ("output_text_tokens", Some(Meter::Output)),
    ("output_image_tokens", Some(Meter::ImageOutput)),
    ("output_image", Some(Meter::Image)),
    ("output_audio_tokens", Some(Meter::AudioOutput)),
    ("output_audio_seconds", None),
    ("web_search", Some(Meter::WebSearch)),
    ("implicit_cached_input_text_tokens", None),
    ("cached_read_text_tokens", Some(Meter::CachedInput)),
    ("cached_write_text_tokens", Some(Meter::CacheWrite)),
    ("cached_write_text_tokens_5m", Some(Meter::CacheWrite)),
    ("cached_write_text_tokens_1h", Some(Meter::CacheWrite1h)),
];

fn meters<'a>(snapshot: &Snapshot, offers: impl Iterator<Item = &'a Offer<'a>> + Clone) -> BTreeMap<&'static str, Option<MeterObject>> {
    let rates = offers.flat_map(|offer| {
        let holding = offer.offering.rates.all().iter().filter(|rate| rate.holds(snapshot.today()));
        holding.map(|rate| (offer.provider.id(), rate))
    });
    let cheapest = |meter: Meter| -> Option<(&str, Decimal)> {
        let priced = rates.clone().filter_map(|(provider, rate)| Some((provider, *rate.amounts.get(&meter)?)));
        priced.min_by_key(|(_, amount)| *amount)
    };
    let object = |meter: Meter| {
        let (provider, amount) = cheapest(meter)?;
        let (unit, unit_size) = meter.unit();
        let price_per_unit = amount.normalize().to_string();
        Some(MeterObject { provider_id: provider.to_owned(), unit, unit_size, price_per_unit, currency: "USD" })
    };
    METERS.into_iter().map(|(name, meter)| (name, meter.and_then(object))).collect()
}
