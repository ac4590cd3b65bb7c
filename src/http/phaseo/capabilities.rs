//! `GET /v1/batches/capabilities`: what each usable provider can do in a batch, in Phaseo's form.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;

use super::{CACHE, PhaseoList};
use crate::catalog::{Offer, Provider, Snapshot, Status};
use crate::domain::endpoint::Endpoint;
use crate::http::response::error::ApiError;
use crate::http::response::views::{Template, respond};
use crate::http::state::Api;

/// `GET /v1/batches/capabilities`
pub async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, ApiError> {
    respond(&api, "phaseo/capabilities", &headers, CACHE, |snapshot| Template::of(&listing(snapshot))).await
}

#[derive(Serialize)]
struct CapabilityEntry<'a> {
    id: &'a str,
    name: &'a str,
    status: &'static str,
    preview_readiness: &'static str,
    reconciliation_mode: &'static str,
    submission_recovery: &'static str,
    endpoints: Vec<EndpointEntry>,
    gateway_input_modes: [&'static str; 1],
    native_input_modes: [&'static str; 1],
    documentation_url: Option<&'a str>,
    notes: Option<&'a str>,
}

#[derive(Serialize)]
struct EndpointEntry {
    endpoint: &'static str,
    mode: &'static str,
}

fn listing(snapshot: &Snapshot) -> PhaseoList<CapabilityEntry<'_>> {
    let mut served: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    for offer in snapshot.all_models().iter().flat_map(|model| snapshot.offers(model)).filter(Offer::takes_work) {
        let known = &offer.offering.endpoints;
        served.entry(offer.provider.id()).or_default().extend(if known.is_empty() { &Endpoint::HOSTED[..] } else { known });
    }
    let mut providers: Vec<_> = snapshot.providers().filter(|(provider, usable)| *usable && takes_work(provider)).collect();
    providers.sort_by_key(|(provider, _)| provider.id());
    let entries = providers.into_iter().map(|(provider, _)| entry(provider, served.get(provider.id()).map_or(&[], |each| each)));
    PhaseoList { object: "list", data: entries.collect() }
}

fn takes_work(provider: &Provider) -> bool {
    match provider.status {
        Status::Active | Status::Deprecated => true,
        Status::Paused | Status::Disabled => false,
    }
}

/// Describes one provider. Providers are called row by row, so a provider has no job of its own
/// that could be polled or looked up. A row whose outcome is unknown is sent again with the same
/// `Idempotency-Key`.
fn entry<'a>(provider: &'a Provider, served: &[Endpoint]) -> CapabilityEntry<'a> {
    // A provider that takes every model may be asked for any endpoint.
    let serves = |endpoint: &Endpoint| provider.catch_all || served.contains(endpoint);
    let endpoints = Endpoint::HOSTED.into_iter().filter(serves);
    CapabilityEntry {
        id: provider.id(),
        name: &provider.name,
        status: "active",
        preview_readiness: "validated",
        reconciliation_mode: "polling",
        submission_recovery: "metadata_lookup",
        endpoints: endpoints.map(|endpoint| EndpointEntry { endpoint: endpoint.path(), mode: "native" }).collect(),
        gateway_input_modes: ["file"],
        native_input_modes: ["requests"],
        documentation_url: provider.documentation_url.as_deref(),
        notes: provider.notes.as_deref(),
    }
}
