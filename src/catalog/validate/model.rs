//! One model file.

use std::ops::Range;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use toml::Spanned;

use super::super::model::{Model, Offering, PriceEvidence};
use super::super::schema::{Field, ModelFile, WrittenModel, WrittenOffering, WrittenPrice};
use super::context::Context;
use crate::domain::endpoint::Endpoint;
use crate::domain::money::PriceSheet;
use crate::domain::request::MAX_MODEL_CHARS;

/// The largest number of tokens that a context may hold; far beyond any, it catches slips.
const MAX_TOKENS: i64 = 1_000_000_000;

/// Checks a model file. Models that a fault left too little of are left out.
pub(super) fn check(context: &mut Context<'_>, file: &ModelFile) -> Vec<Model> {
    context.schema(&file.schema);
    if file.model.is_empty() && context.whole {
        context.fault(0..0, "there is no `[[model]]` in the file; write at least one or remove the file");
    }
    file.model.iter().filter_map(|written| check_model(context, written.get_ref(), written.span())).collect()
}

fn check_model(context: &mut Context<'_>, written: &WrittenModel, within: Range<usize>) -> Option<Model> {
    context.required(&written.id, within.clone(), "id", "the model's canonical name");
    let id = context.parse(&written.id, "id", |id| check_name(id));
    let aliases = written.aliases.iter().filter_map(|alias| context.parse_value(alias, "aliases", |name| check_name(name))).collect();
    context.required(&written.organisation, within.clone(), "organisation", "who made the model");
    let organisation = context.text(&written.organisation, "organisation");
    context.required(&written.endpoints, within.clone(), "endpoints", "a list of paths such as `/v1/chat/completions`");
    let endpoints = check_endpoints(context, &written.endpoints);
    context.required(&written.created, within, "created", "the day the model appeared, such as 2025-08-07");
    let created = context.date(&written.created, "created");
    let name = context.text(&written.name, "name");
    let family = context.text(&written.family, "family");
    let context_window = context.number(&written.context_window, "context_window", 1..=MAX_TOKENS);
    let max_output_tokens = context.number(&written.max_output_tokens, "max_output_tokens", 1..=MAX_TOKENS);
    let offerings = written.offering.iter().filter_map(|offering| check_offering(context, offering, id.as_deref())).collect();
    let id = id?;
    Some(Model {
        name: name.unwrap_or_else(|| id.clone()),
        id,
        aliases,
        family,
        organisation: organisation?,
        created: created.map_or(0, unix_seconds),
        endpoints,
        context_window,
        max_output_tokens,
        offerings,
    })
}

/// Names as vendors write them: `gpt-4o`, `meta-llama/Llama-3.3-70B-Instruct`, `qwen3:8b`.
fn check_name(name: &str) -> Result<String, String> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte));
    if first && rest && name.len() <= MAX_MODEL_CHARS {
        return Ok(name.to_owned());
    }
    Err(format!("must be at most {MAX_MODEL_CHARS} of A-Z, a-z, 0-9, `.`, `_`, `:`, `/` and `-`, and start with a letter or digit"))
}

fn check_endpoints(context: &mut Context<'_>, field: &Field<Vec<Spanned<String>>>) -> Vec<Endpoint> {
    let Some(list) = field else { return Vec::new() };
    if list.get_ref().is_empty() {
        context.fault(list.span(), format!("`endpoints` is empty; it must hold at least one of {}", Endpoint::choices()));
    }
    let mut endpoints = Vec::new();
    for written in list.get_ref() {
        let parsed = context.parse_value(written, "endpoints", |path| {
            path.parse::<Endpoint>().map_err(|_| format!("must be one of {}", Endpoint::choices()))
        });
        match parsed {
            Some(endpoint) if endpoints.contains(&endpoint) => context.fault(written.span(), format!("`{endpoint}` is listed twice")),
            Some(endpoint) => endpoints.push(endpoint),
            None => {}
        }
    }
    endpoints
}

fn check_offering(context: &mut Context<'_>, written: &Spanned<WrittenOffering>, id: Option<&str>) -> Option<Offering> {
    let (offering, within) = (written.get_ref(), written.span());
    context.required(&offering.provider, within, "provider", "the id of a provider");
    // Whether the provider exists is decided when all files are read.
    let provider = context.text(&offering.provider, "provider");
    let upstream = context.parse(&offering.upstream, "upstream", |name| match name.chars().count() {
        1..=MAX_MODEL_CHARS => Ok(name.clone()),
        _ => Err(format!("must be a name of 1 to {MAX_MODEL_CHARS} characters")),
    });
    let retired = context.date(&offering.retired, "retired");
    let (price, evidence) = match &offering.price {
        Some(price) => check_price(context, price),
        None => (PriceSheet::default(), None),
    };
    Some(Offering { provider: provider?, upstream: upstream.or(id.map(str::to_owned))?, price, evidence, retired })
}

fn check_price(context: &mut Context<'_>, written: &Spanned<WrittenPrice>) -> (PriceSheet, Option<PriceEvidence>) {
    let (price, within) = (written.get_ref(), written.span());
    let sheet = PriceSheet {
        input: context.price(&price.input, "price.input"),
        cached_input: context.price(&price.cached_input, "price.cached_input"),
        output: context.price(&price.output, "price.output"),
        request: context.price(&price.request, "price.request"),
        image: context.price(&price.image, "price.image"),
    };
    let fields = [&price.input, &price.cached_input, &price.output, &price.request, &price.image];
    if fields.iter().all(|field| field.is_none()) && context.whole {
        context.fault(
            within.clone(),
            "`price` names no amount; write one, \"0\" for a free one, or leave the table out if no price is established",
        );
    }
    context.required(&price.source, within.clone(), "price.source", "the URL where the price is published");
    let source = context.parse(&price.source, "price.source", |url| match url.parse::<http::Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(url.clone()),
        Ok(_) | Err(_) => Err("must be an absolute `http` or `https` URL"),
    });
    context.required(&price.verified_at, within, "price.verified_at", "the day somebody last looked, such as 2025-08-07");
    let verified_at = context.date(&price.verified_at, "price.verified_at");
    (sheet, source.zip(verified_at).map(|(source, verified_at)| PriceEvidence { source, verified_at }))
}

/// The start of the day in UTC.
fn unix_seconds(day: Date) -> i64 {
    day.to_zoned(TimeZone::UTC).map_or(0, |zoned| zoned.timestamp().as_second())
}
