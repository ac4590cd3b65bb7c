//! The check of a model's offerings and their prices.

use std::collections::BTreeMap;

use toml::Spanned;

use super::super::model::{Limits, Model, Offering, Privacy, Provider};
use super::super::rates::{Meter, Rate, Rates};
use super::super::schema::{Field, WrittenOffering, WrittenPrice};
use super::super::vocabulary::{HostedTool, Plan, Status, Verification, slug};
use super::context::ValidateContext;
use super::shared::{check_capacity, check_limits, check_privacy};
use crate::catalog::validate::shared::{MAX_TOKENS, check_endpoints, check_files};
use crate::domain::row::openai::MAX_MODEL_CHARS;

/// An offering before the values that it inherits from its provider are filled in.
pub(super) struct Found {
    offering: Offering,
    privacy: Privacy,
    own_regions: bool,
    own_capacity: bool,
}

impl Found {
    /// Fills in the values that are inherited from the provider.
    pub fn complete(self, providers: &[Provider]) -> Offering {
        let mut offering = self.offering;
        let Some(provider) = providers.iter().find(|provider| provider.id() == offering.provider) else { return offering };
        offering.privacy = self.privacy.or(&provider.privacy);
        if !self.own_regions {
            offering.regions.clone_from(&provider.regions);
        }
        if !self.own_capacity {
            offering.capacity = provider.capacity;
        }
        offering
    }
}

/// Checks an offering of `model`. `None` if faults leave too little of it.
pub(super) fn check(context: &mut ValidateContext<'_>, written: &Spanned<WrittenOffering>, model: &Model) -> Option<Found> {
    let (offering, within) = (written.get_ref(), written.span());
    context.required(&offering.provider, within, "provider", "the id of a provider");
    // Whether the provider exists is decided when all files are read.
    let provider = context.text(&offering.provider, "provider");
    let upstream = context.parse(&offering.upstream, "upstream", |name| match name.chars().count() {
        1..=MAX_MODEL_CHARS => Ok(name.clone()),
        _ => Err(format!("must be a name of 1 to {MAX_MODEL_CHARS} characters")),
    });
    let status = context.word(&offering.status, "status", Status::parse, Status::choices);
    let retired = context.date(&offering.retired, "retired");
    let endpoints = check_endpoints(context, &offering.endpoints);
    let context_window = context.number(&offering.context_window, "context_window", 1..=MAX_TOKENS);
    let max_output_tokens = context.number(&offering.max_output_tokens, "max_output_tokens", 1..=MAX_TOKENS);
    let regions = context.list(&offering.regions, "regions", slug);
    let tools = context.words(&offering.hosted_tools, "hosted_tools", HostedTool::parse, HostedTool::choices);
    let capabilities = context.list(&offering.runtime_capabilities, "runtime_capabilities", slug);
    let verification = context.word(&offering.verification, "verification", Verification::parse, Verification::choices);
    let files = check_files(context, &offering.files);
    let privacy = check_privacy(context, &offering.privacy);
    let limits: Limits = check_limits(context, &offering.limits);
    let capacity = check_capacity(context, &offering.capacity);
    let rates = check_rates(context, &offering.price);
    let plain = Offering::plain(&provider?, upstream.as_deref().unwrap_or(&model.id), model);
    let (own_regions, own_capacity) = (regions.is_some(), capacity.is_some());
    let offering = Offering {
        status: status.unwrap_or(Status::Active),
        retired: retired.or(model.retired),
        endpoints: endpoints.unwrap_or(plain.endpoints),
        context_window: context_window.or(plain.context_window),
        max_output_tokens: max_output_tokens.or(plain.max_output_tokens),
        regions: regions.unwrap_or_default(),
        hosted_tools: tools.unwrap_or_else(|| model.hosted_tools.clone()),
        runtime_capabilities: capabilities.unwrap_or_default(),
        files: files.or(plain.files),
        verification: verification.unwrap_or(Verification::Undeclared),
        limits,
        capacity: capacity.unwrap_or(plain.capacity),
        rates,
        ..plain
    };
    Some(Found { offering, privacy, own_regions, own_capacity })
}

fn check_rates(context: &mut ValidateContext<'_>, written: &[Spanned<WrittenPrice>]) -> Rates {
    let mut rates: Vec<Rate> = Vec::new();
    for price in written {
        let Some(rate) = check_rate(context, price) else { continue };
        if rates.iter().any(|earlier| earlier.overlaps(&rate)) {
            let message = format!("there is another `{}` price for the same days; use `from` and `until` to part them", rate.plan);
            context.fault(price.span(), message);
        }
        rates.push(rate);
    }
    Rates::new(rates)
}

fn check_rate(context: &mut ValidateContext<'_>, written: &Spanned<WrittenPrice>) -> Option<Rate> {
    let (price, within) = (written.get_ref(), written.span());
    let plan = context.word(&price.plan, "price.plan", Plan::parse, Plan::choices);
    let (from, until) = (context.date(&price.from, "price.from"), context.date(&price.until, "price.until"));
    if let (Some(first), Some(end), Some(field)) = (from, until, &*price.until)
        && end <= first
    {
        context.fault(field.span(), format!("`price.until` is {end}; it must be later than `price.from`, {first}"));
    }
    let mut amounts = BTreeMap::new();
    for (meter, field) in amounts_of(price) {
        if let Some(amount) = context.price(field, &format!("price.{}", meter.word())) {
            amounts.insert(meter, amount);
        }
    }
    if amounts_of(price).iter().all(|(_, field)| field.is_none()) && context.whole {
        context.fault(
            within.clone(),
            "`price` names no amount; write one, \"0\" for a free one, or leave the table out if no price is established",
        );
    }
    let note = context.text(&price.note, "price.note");
    context.required(&price.source, within.clone(), "price.source", "the URL where the price is published");
    context.required(&price.verified_at, within, "price.verified_at", "the day the fact was last checked, such as 2025-08-07");
    let source = context.page(&price.source, "price.source");
    let verified_at = context.date(&price.verified_at, "price.verified_at");
    let evidence = super::super::evidence::Evidence { source: source?, verified_at: verified_at? };
    Some(Rate { plan: plan.unwrap_or(Plan::Standard), from, until, amounts, note, evidence })
}

fn amounts_of(price: &WrittenPrice) -> [(Meter, &Field<String>); 17] {
    [
        (Meter::Input, &price.input),
        (Meter::CachedInput, &price.cached_input),
        (Meter::CacheWrite, &price.cache_write),
        (Meter::CacheWrite1h, &price.cache_write_1h),
        (Meter::Output, &price.output),
        (Meter::ImageInput, &price.image_input),
        (Meter::ImageOutput, &price.image_output),
        (Meter::AudioInput, &price.audio_input),
        (Meter::AudioOutput, &price.audio_output),
        (Meter::VideoInput, &price.video_input),
        (Meter::Request, &price.request),
        (Meter::Image, &price.image),
        (Meter::VideoSecond, &price.video_second),
        (Meter::AudioSecond, &price.audio_second),
        (Meter::Characters, &price.characters),
        (Meter::Page, &price.page),
        (Meter::WebSearch, &price.web_search),
    ]
}
