//! Checks that a lane of a given name exists, and suggests which one was probably meant.

use crate::catalog::Snapshot;
use crate::domain::error::Code;
use crate::domain::provider::lane_hold::LaneSelector;
use crate::domain::suggest::{did_you_mean, nearest};
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// Refuses a lane that is neither in the catalog nor in use: a hold on a misspelt name holds
/// nothing.
///
/// # Errors
/// When there is no such lane; the error lists those that exist.
pub fn check(api: &Api, lane: &LaneSelector) -> Result<(), ApiError> {
    let (catalog, board) = (api.service.catalog.current(), api.service.executor.board());
    let mut used = board.lanes().map(|(provider, upstream, _)| (provider, upstream));
    let LaneSelector { provider, upstream } = lane;
    let Some(upstream) = upstream else {
        let known = catalog.provider(provider).is_some() || used.any(|(used, _)| used == provider);
        return if known { Ok(()) } else { Err(no_provider(provider, &catalog)) };
    };
    if catalog.offering(provider, upstream).is_some() || used.any(|used| used == (provider, Some(upstream))) {
        return Ok(());
    }
    match catalog.provider(provider) {
        Some(_) => Err(no_model(provider, upstream, &catalog)),
        None => Err(no_provider(provider, &catalog)),
    }
}

fn no_provider(asked: &str, catalog: &Snapshot) -> ApiError {
    let near = nearest(&short(asked), catalog.providers().map(|(provider, _)| ([provider.id()], provider.id().to_owned())));
    let hint = did_you_mean(&near).unwrap_or_else(|| "`batchd catalog list` shows who there is".to_owned());
    not_found(format!("there is no provider `{}`; {hint}", short(asked)))
}

fn no_model(provider: &str, asked: &str, catalog: &Snapshot) -> ApiError {
    let offerings = catalog.all_models().iter().flat_map(|model| {
        let own = model.offerings.iter().filter(|offering| offering.provider == provider);
        own.map(|offering| {
            let names = model.aliases.iter().chain([&model.id, &offering.upstream]);
            (names.map(String::as_str).collect::<Vec<_>>(), format!("{provider}/{}", offering.upstream))
        })
    });
    let hint = did_you_mean(&nearest(&short(asked), offerings))
        .unwrap_or_else(|| format!("whatever the provider takes besides what it offers in the catalog is one lane, `{provider}`"));
    not_found(format!("the catalog has no offering of `{provider}` that it calls `{}`; {hint}", short(asked)))
}

fn not_found(message: String) -> ApiError {
    ApiError::new(Code::NotFound, message).param("lane")
}

fn short(asked: &str) -> String {
    asked.chars().take(100).collect()
}
