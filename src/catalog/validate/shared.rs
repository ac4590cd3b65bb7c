//! Tables that providers and offerings have in common: privacy, limits, capacity.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::super::model::{Capacity, Files, Limits, Privacy};
use super::super::schema::{Field, ListField, WrittenCapacity, WrittenFiles, WrittenLimits, WrittenPrivacy};
use super::super::vocabulary::{DataCollection, slug};
use super::context::ValidateContext;
use crate::domain::endpoint::Endpoint;

/// Far beyond any honest limit. It catches slips, and sums of such numbers do not overflow.
const MAX_NUMBER: i64 = 1_000_000_000_000_000;
/// The largest file size that a model may state, in bytes.
const MAX_FILE_BYTES: i64 = 1 << 40;
/// Ten years.
const MOST_DAYS: i64 = 3_650;
const CALLS: RangeInclusive<i64> = 1..=100_000;
const CALLS_A_MINUTE: RangeInclusive<i64> = 1..=100_000_000;

pub(super) fn check_privacy(context: &mut ValidateContext<'_>, field: &Field<WrittenPrivacy>) -> Privacy {
    let Some(written) = field.as_ref().map(toml::Spanned::get_ref) else { return Privacy::default() };
    let days = context.number(&written.retention_days, "privacy.retention_days", 0..=MOST_DAYS);
    Privacy {
        retention_days: days.and_then(|days| u32::try_from(days).ok()),
        zdr: context.flag(&written.zdr),
        data_collection: context.word(&written.data_collection, "privacy.data_collection", DataCollection::parse, DataCollection::choices),
        training_use: context.flag(&written.training_use),
        tiers: context.list(&written.tiers, "privacy.tiers", slug).unwrap_or_default(),
        terms_url: context.page(&written.terms_url, "privacy.terms_url"),
        evidence: context.evidence(&written.source, &written.verified_at, "privacy."),
    }
}

pub(super) fn check_limits(context: &mut ValidateContext<'_>, field: &Field<WrittenLimits>) -> Limits {
    let Some(written) = field.as_ref().map(toml::Spanned::get_ref) else { return Limits::default() };
    let narrow = |number: u64| u32::try_from(number).ok();
    Limits {
        in_flight: context.number(&written.in_flight, "limits.in_flight", CALLS).and_then(narrow),
        requests_per_minute: context.number(&written.requests_per_minute, "limits.requests_per_minute", CALLS_A_MINUTE).and_then(narrow),
        tokens_per_minute: context.number(&written.tokens_per_minute, "limits.tokens_per_minute", 1..=MAX_NUMBER),
    }
}

pub(super) fn check_capacity(context: &mut ValidateContext<'_>, field: &Field<WrittenCapacity>) -> Option<Capacity> {
    let written = field.as_ref()?.get_ref();
    let base = Capacity::default();
    Some(Capacity {
        queue_items: context.number(&written.queue_items, "capacity.queue_items", 1..=MAX_NUMBER).unwrap_or(base.queue_items),
        queue_tokens: context.number(&written.queue_tokens, "capacity.queue_tokens", 1..=MAX_NUMBER).unwrap_or(base.queue_tokens),
    })
}

/// The largest number of tokens that a context may hold. It is far beyond any real one and catches
/// slips.
pub const MAX_TOKENS: i64 = 1_000_000_000;

pub fn check_endpoints(context: &mut ValidateContext<'_>, field: &ListField<String>) -> Option<Vec<Endpoint>> {
    if let Some(list) = field.as_ref().filter(|list: &&Spanned<Vec<_>>| list.get_ref().is_empty()) {
        context.fault(list.span(), format!("`endpoints` is empty; it must hold at least one of {}", Endpoint::choices(&Endpoint::ALL)));
    }
    context.list(field, "endpoints", |path| {
        path.parse::<Endpoint>().map_err(|_| format!("must be one of {}", Endpoint::choices(&Endpoint::ALL)))
    })
}

pub fn check_files(context: &mut ValidateContext<'_>, field: &Field<WrittenFiles>) -> Option<Files> {
    let (written, within) = field.as_ref().map(|written| (written.get_ref(), written.span()))?;
    context.required(&written.types, within.clone(), "files.types", "a list of MIME types such as `image/png`");
    let types = context.list(&written.types, "files.types", check_mime).unwrap_or_default();
    if types.is_empty() && written.types.as_ref().is_some_and(|list| list.get_ref().is_empty()) {
        context.fault(within, "`files.types` is empty; leave `files` out if the model reads none");
    }
    let max_bytes = context.number(&written.max_bytes, "files.max_bytes", 1..=MAX_FILE_BYTES);
    (!types.is_empty()).then_some(Files { types, max_bytes })
}

pub fn check_mime(text: &str) -> Result<String, &'static str> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".*+-".contains(&b));
    match text.split_once('/') {
        Some((kind, sub)) if plain(kind) && plain(sub) && !kind.contains('*') && text.len() <= 128 => Ok(text.to_owned()),
        Some(_) | None => Err("must be a MIME type in lower case, such as `image/png` or `image/*`"),
    }
}
