//! The lanes of a quote: every offering of the models that its items name, in its current state.

use std::collections::BTreeSet;

use crate::catalog::{Offer, Privacy, Route, Snapshot};
use crate::domain::provider::connection::Limits;
use crate::quote::tokens::Tokenizer;
use crate::quote::{Group, Lane, Listing};
use crate::service::capacity::Supply;
use crate::service::live_lanes::Live;

/// The privacy of a lane that takes every model: nothing is known of it.
static NOTHING_KNOWN: std::sync::LazyLock<Privacy> = std::sync::LazyLock::new(Privacy::default);

/// The lanes for these groups, model by model; the lanes of a model are in the order of the
/// catalog.
pub fn lanes<'a>(snapshot: &'a Snapshot, groups: &'a [Group], live: &Live<'_>) -> Vec<Lane<'a>> {
    let models: BTreeSet<&str> = groups.iter().flat_map(|group| &group.models).map(String::as_str).collect();
    let mut lanes = Vec::new();
    for name in models {
        let first = lanes.len();
        if let Some(model) = snapshot.model(name) {
            lanes.extend(snapshot.offers(model).filter(is_counted).map(|offer| {
                let (supply, held) = Supply::of(&offer).for_quote(live);
                let price = offer.offering.rates.sheet(snapshot.today());
                let lane = Lane::of(model, &offer, price, supply);
                if held { Lane { listing: HELD, ..lane } } else { lane }
            }));
        }
        // A server that takes every model takes this one if no provider that lists it can be
        // called.
        if let Ok(route) = snapshot.resolve(name)
            && !lanes[first..].iter().any(|lane| lane.provider == route.provider)
        {
            lanes.push(catch_all(snapshot, name, &route, live));
        }
    }
    lanes
}

const HELD: Listing = Listing::Closed("is held by the operator");

/// Whether an offering counts: those of the stand-in provider are neither served nor shown beside
/// real ones.
fn is_counted(offer: &Offer<'_>) -> bool {
    offer.provider.is_real() || offer.usable
}

/// The lane of a server that takes every model. The catalog knows nothing about the model there.
fn catch_all<'a>(snapshot: &'a Snapshot, name: &'a str, route: &Route<'a>, live: &Live<'_>) -> Lane<'a> {
    let own = snapshot.is_local(route.provider);
    let provider = snapshot.provider(route.provider);
    let limits = provider.map_or_else(Limits::default, |provider| provider.connection.limits);
    let (supply, held) = Supply::of_any(route.provider, route.upstream, limits).for_quote(live);
    let listing = match (held, snapshot.is_paused(route.provider, route.upstream)) {
        (true, _) => HELD,
        (false, true) => Listing::Closed("is paused"),
        (false, false) => Listing::Open,
    };
    Lane {
        provider: route.provider,
        upstream: route.upstream,
        model: name,
        tokenizer: Tokenizer::of(name),
        own,
        listing,
        endpoints: &[],
        context_window: None,
        max_input_tokens: None,
        max_output_tokens: None,
        input: &[],
        files: None,
        regions: provider.map_or(&[], |provider| &provider.regions),
        privacy: provider.map_or(&NOTHING_KNOWN, |provider| &provider.privacy),
        tools: &[],
        price: own.then_some(route.price),
        observed_output: None,
        supply,
    }
}
