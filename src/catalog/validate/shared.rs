//! Tables that providers and offerings have in common: privacy, limits, capacity.

use std::ops::RangeInclusive;

use super::super::model::{Capacity, Limits, Privacy};
use super::super::schema::{Field, WrittenCapacity, WrittenLimits, WrittenPrivacy};
use super::super::vocabulary::{DataCollection, slug};
use super::context::ValidateContext;

/// Far beyond any honest limit; it catches slips, and sums of it do not overflow.
const MAX_NUMBER: i64 = 1_000_000_000_000_000;
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
