//! Which provider serves a model: the one decision of a snapshot, made when the snapshot is built.

use jiff::civil::Date;
use rust_decimal::Decimal;

use super::model::{Model, Offering, Provider};
use super::vocabulary::Status;
use crate::domain::money::PriceSheet;

/// The choice for a known model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The offering with this index.
    Offering(usize),
    CatchAll,
    StandIn,
    Nobody,
}

/// Providers with a special role, as indexes; only usable ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Roles {
    /// The provider that takes every model that no other provider serves.
    pub catch_all: Option<usize>,
    /// The provider that serves known models in place of the real providers, if none of those is
    /// usable.
    pub stand_in: Option<usize>,
}

impl Roles {
    /// Assigns the roles among providers; each provider comes with whether it can be called.
    ///
    /// Several providers may be willing to take every model. A server whose address the operator
    /// gave comes before a hosted service, then the order of the file names decides; an upstream of
    /// the command line is the only candidate.
    ///
    /// There is a stand-in only as long as no real provider is configured. A disabled provider
    /// counts as configured: disabling it must not turn an operator's real answers into simulated
    /// ones.
    pub fn of(providers: &[(Provider, bool)], configured: &dyn Fn(&Provider) -> bool) -> Self {
        let usable = || providers.iter().enumerate().filter(|(_, (_, ready))| *ready).map(|(index, (provider, _))| (index, provider));
        let catch_all = usable().filter(|(_, provider)| provider.catch_all).min_by_key(|(_, provider)| !provider.is_local);
        // Simulated answers among real ones would be taken for real.
        let only_simulated = !providers.iter().any(|(provider, _)| provider.is_real() && configured(provider));
        let stand_in = usable().find(|(_, provider)| provider.stand_in && only_simulated);
        Self { catch_all: catch_all.map(|(index, _)| index), stand_in: stand_in.map(|(index, _)| index) }
    }
}

/// The cheapest usable offering; else the catch-all; else the stand-in.
pub(super) fn choose(model: &Model, providers: &[(Provider, bool)], roles: Roles, today: Date) -> Choice {
    let provider = |offering: &Offering| providers.iter().find(|(provider, _)| provider.id() == offering.provider);
    // The stand-in's own models are asked for by name, knowingly. For any other model an offering
    // of the stand-in must not compete with real ones, where it would win by being free.
    let simulation = model.offerings.iter().all(|offering| provider(offering).is_some_and(|(provider, _)| provider.stand_in));
    let best = model
        .offerings
        .iter()
        .enumerate()
        .filter(|(_, offering)| offering.is_open(today))
        .filter_map(|(index, offering)| Some((index, offering, provider(offering)?)))
        .filter(|(_, _, (provider, ready))| *ready && (simulation || !provider.stand_in))
        .min_by_key(|(_, offering, (provider, _))| rank(offering, provider, today));
    // A server of the operator's own may have any model. A hosted service does not receive a
    // request that was meant for another provider.
    let takes_it = |index: usize| providers[index].0.is_local || model.offerings.is_empty();
    match best {
        Some((index, _, _)) => Choice::Offering(index),
        None if roles.catch_all.is_some_and(takes_it) => Choice::CatchAll,
        None if roles.stand_in.is_some() => Choice::StandIn,
        None => Choice::Nobody,
    }
}

/// Paused offerings come last, and those without an established price come before them; among
/// equals, `min_by_key` keeps the first written.
fn rank(offering: &Offering, provider: &Provider, today: Date) -> (bool, bool, Decimal) {
    let price = offering.rates.sheet(today);
    let paused = offering.status == Status::Paused || provider.status == Status::Paused;
    let sum = price.input.unwrap_or_default().saturating_add(price.output.unwrap_or_default());
    (paused, price == PriceSheet::default(), sum)
}
