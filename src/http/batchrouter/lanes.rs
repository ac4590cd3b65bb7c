//! The lanes of a quote: every offering of the models that its items name, as it is at the moment.

use std::collections::BTreeSet;

use super::supply::Supply;
use crate::catalog::{Offer, Privacy, Snapshot};
use crate::http::views::Live;
use crate::route::quote::{self, Group, Lane, Listing};
use crate::route::tokens::Tokenizer;

/// What is not known of a lane that takes every model.
static NOTHING_KNOWN: std::sync::LazyLock<Privacy> = std::sync::LazyLock::new(Privacy::default);

/// The lanes for these groups, in the order of the catalog.
pub fn lanes<'a>(snapshot: &'a Snapshot, groups: &'a [Group], live: &Live<'_>) -> Vec<Lane<'a>> {
    let models: BTreeSet<&str> = groups.iter().flat_map(|group| &group.models).map(String::as_str).collect();
    let mut lanes = Vec::new();
    for name in models {
        match snapshot.model(name) {
            Some(model) => lanes.extend(snapshot.offers(model).filter(is_counted).map(|offer| {
                let (supply, held) = Supply::of(&offer).for_quote(live);
                let price = offer.offering.rates.sheet(snapshot.today());
                let lane = Lane::of(model, &offer, price, supply);
                if held { Lane { listing: Listing::Closed("is held by the operator"), ..lane } } else { lane }
            })),
            None => lanes.extend(catch_all(snapshot, name)),
        }
    }
    lanes
}

/// Offerings of the stand-in beside real ones are not served, and not told of.
fn is_counted(offer: &Offer<'_>) -> bool {
    offer.provider.is_real() || offer.usable
}

/// The lane of a server that takes every model, for one that the catalog does not know.
fn catch_all<'a>(snapshot: &'a Snapshot, name: &'a str) -> Option<Lane<'a>> {
    let route = snapshot.resolve(name).ok()?;
    let own = snapshot.is_local(route.provider);
    Some(Lane {
        provider: route.provider,
        upstream: name,
        model: name,
        tokenizer: Tokenizer::of(name),
        own,
        listing: Listing::Open,
        endpoints: &[],
        context_window: None,
        max_input_tokens: None,
        max_output_tokens: None,
        input: &[],
        files: None,
        regions: &[],
        privacy: &NOTHING_KNOWN,
        tools: &[],
        price: own.then_some(route.price),
        supply: quote::Supply { room_rows: u64::MAX, room_tokens: u64::MAX, silent: false, queued_rows: 0, per_minute: None },
    })
}
