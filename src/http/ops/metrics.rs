//! `GET /metrics`: the state of the catalog, the lanes and the file descriptors, in the text format of Prometheus
//! (OpenMetrics). Everything is read at the time of the scrape; nothing is counted on the side.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::catalog::{Origin, Standing};
use crate::descriptors::open;
use crate::domain::provider::lane_hold::hold_on;
use crate::http::response::error::ApiError;
use crate::http::state::Api;

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A number that is shown as it is.
type Number = Gauge<i64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabels {
    provider: String,
    /// The provider's name for the model; empty for all that the catalog does not know.
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlaceLabels {
    user: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// `GET /metrics`
pub async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let mut registry = Registry::with_prefix("batchd");
    add_catalog(&mut registry, &api);
    add_lanes(&mut registry, &api);
    add_store(&mut registry, &api);
    add_descriptors(&mut registry, &api);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, FORMAT)], text).into_response())
}

fn number(registry: &mut Registry, name: &str, help: &str, value: impl TryInto<i64>) {
    let gauge = Number::default();
    gauge.set(value.try_into().unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn add_catalog(registry: &mut Registry, api: &Api) {
    let (snapshot, Standing { accepted, refused, reloads }) = (api.catalog.current(), api.catalog.standing());
    let origin = match accepted.origin {
        Origin::Embedded => "embedded",
        Origin::Folder(_) => "folder",
        Origin::Stored(_) => "last_good",
    };
    let info = Info::new(vec![("hash", accepted.hash.clone()), ("origin", origin.to_owned())]);
    registry.register("catalog", "The catalog that holds", info);
    number(registry, "catalog_version", "Grows with each accepted catalog", accepted.version);
    number(registry, "catalog_accepted_timestamp_seconds", "When it was accepted", accepted.at.as_second());
    number(registry, "catalog_models", "Models in the catalog", snapshot.all_models().len());
    number(registry, "catalog_providers", "Providers in the catalog", snapshot.providers().count());
    number(registry, "catalog_usable_providers", "Providers that can be called", snapshot.connections().count());
    let faults = refused.map_or(0, |(faults, _)| faults.as_slice().len());
    number(registry, "catalog_faults", "Faults of the seeds at the last attempt to load them; 0 if they hold", faults);
    let family = Family::<OutcomeLabels, Counter>::default();
    for (outcome, count) in ["accepted", "unchanged", "refused"].into_iter().zip(reloads) {
        family.get_or_create(&OutcomeLabels { outcome }).inner().store(count, std::sync::atomic::Ordering::Relaxed);
    }
    registry.register("catalog_reloads", "Reloads since the start, by outcome", family);
}

fn count(count: u64) -> Counter<u64> {
    let counter = Counter::<u64>::default();
    counter.inc_by(count);
    counter
}

fn add_descriptors(registry: &mut Registry, api: &Api) {
    let (descriptors, share) = (&api.descriptors, api.descriptors.share());
    if let Some(open) = open() {
        number(registry, "file_descriptors_open", "File descriptors of the process that are open", open);
    }
    number(registry, "file_descriptors_limit", "The most that it may have open", descriptors.limit());
    registry.register("file_descriptors_refused", "Those that the kernel has refused, since the start", count(descriptors.refusals()));
    let [taken, most] = [(); 2].map(|()| Family::<PlaceLabels, Number>::default());
    for (user, open, places) in [
        ("clients", descriptors.clients_open(), share.clients),
        ("calls", descriptors.calls().open(), share.calls),
        ("files", descriptors.files_open(), share.files),
    ] {
        let set = |family: &Family<PlaceLabels, Number>, value: usize| {
            family.get_or_create(&PlaceLabels { user }).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&taken, open);
        set(&most, places);
    }
    registry.register("places_taken", "File descriptors in use by connections and files, by what for", taken);
    registry.register("places", "Those that there are for it", most);
    number(registry, "calls_waiting", "Calls that wait for a file descriptor", descriptors.calls().waiting());
}

fn add_store(registry: &mut Registry, api: &Api) {
    registry.register("store_commits", "Groups of writes that were made durable together, since the start", count(api.store.commits()));
    let space = api.store.space();
    number(registry, "store_log_bytes", "Bytes of the store's log on disk", space.log_bytes());
    number(registry, "store_used_bytes", "Bytes of keys and values in it", space.used_bytes());
    number(registry, "store_compacting", "Whether the store is being compacted: 1 or 0", u8::from(space.is_compacting()));
    registry.register("store_compactions", "Compactions of the store, since the start", count(space.compactions()));
    let rows = *api.store.durable_rows().borrow();
    registry.register("store_rows", "Results of rows that were made durable after a call, since the start", count(rows));
    let help = "Things in lost+found: content that a start found and no record names";
    number(registry, "store_lost_found", help, api.store.lost_found());
    let damaged = "Times that the content of a file was found to be damaged, since the start; the log names the file";
    registry.register("store_damaged_contents", damaged, count(api.store.damage_found()));
    let shared = api.executor.board().shared_rows;
    registry.register("shared_rows", "Rows that were given the answer of an equal one, since the start", count(shared));
}

fn add_lanes(registry: &mut Registry, api: &Api) {
    let (board, holds, now) = (api.executor.board(), api.executor.lane_holds(), api.clock.now());
    let [queued, in_flight, allowed, per_minute, held, resting, unreachable] = [(); 7].map(|()| Family::<LaneLabels, Number>::default());
    for (provider, model, report) in board.lanes() {
        let labels = LaneLabels { provider: provider.to_owned(), model: model.unwrap_or_default().to_owned() };
        let set = |family: &Family<LaneLabels, Number>, value: u64| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&queued, report.queued_rows);
        set(&in_flight, report.in_flight.into());
        // A lane without a bound has no such number.
        if let Some(most) = report.allowed {
            set(&allowed, most.into());
        }
        if let Some(most) = report.per_minute {
            set(&per_minute, most);
        }
        set(&held, hold_on(&holds, provider, model).is_some().into());
        set(&resting, report.resting_until.is_some_and(|until| now < until).into());
        set(&unreachable, report.unreachable.into());
    }
    registry.register("lane_queued_rows", "Rows that are not finished, by lane", queued);
    registry.register("lane_in_flight", "Calls in flight, by lane", in_flight);
    registry.register("lane_allowed", "Calls that may be in flight at present; absent without a bound", allowed);
    registry.register("lane_requests_per_minute", "Requests a minute that it keeps to at present; absent without a bound", per_minute);
    registry.register("lane_held", "1 while an operator has paused or drained it", held);
    registry.register("lane_resting", "1 while it is left alone for a while, as its provider asked or because it kept failing", resting);
    registry.register("lane_unreachable", "1 while no connection to the provider can be made", unreachable);
}
