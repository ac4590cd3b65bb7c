//! Metrics of the daemon: the catalog, the lanes, the store, file descriptors. Every value is read
//! on request; nothing is counted on the side. The caller chooses how metrics are written.

use std::collections::BTreeMap;

use super::Service;
use crate::catalog::{CatalogStatus, Origin};
use crate::descriptors::{Descriptors, open};
use crate::domain::batch::waiting::WaitReason;
use crate::domain::provider::lane_hold::hold_on;
use crate::executor::LaneWait;

/// A metric, with one sample or one for each of several things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricKind,
    pub samples: Vec<Sample>,
}

/// How a metric changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// The value only grows, from 0 at the start of the daemon.
    Counter,
    Gauge,
    /// The information is in the labels.
    Info,
}

/// A value and its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub labels: Vec<(&'static str, String)>,
    pub value: u64,
}

impl Metric {
    fn of(kind: MetricKind, name: &'static str, help: &'static str, value: impl TryInto<u64>) -> Self {
        Self { name, help, kind, samples: vec![Sample { labels: Vec::new(), value: value.try_into().unwrap_or(u64::MAX) }] }
    }

    fn gauge(name: &'static str, help: &'static str, value: impl TryInto<u64>) -> Self {
        Self::of(MetricKind::Gauge, name, help, value)
    }

    fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::of(MetricKind::Counter, name, help, value)
    }
}

/// All metrics.
pub fn read(service: &Service, descriptors: &Descriptors) -> Vec<Metric> {
    let mut metrics = of_catalog(service);
    metrics.extend(of_lanes(service));
    metrics.extend(of_store(service));
    metrics.extend(of_descriptors(descriptors));
    metrics.push(waiting(service));
    metrics
}

/// Rows that wait, by lane and reason.
fn waiting(service: &Service) -> Metric {
    let board = service.executor.board();
    let mut rows: BTreeMap<(String, &'static str), u64> = BTreeMap::new();
    for waiting in board.all_waiting() {
        let lane = waiting.lane.as_deref().unwrap_or_default().to_owned();
        *rows.entry((lane, waiting.reason.code())).or_default() += waiting.rows;
    }
    let sample =
        |((lane, reason), value): ((String, &str), u64)| Sample { labels: vec![("lane", lane), ("reason", reason.to_owned())], value };
    let help = "Rows that wait, by lane and reason; absent while none does";
    Metric { name: "rows_waiting", help, kind: MetricKind::Gauge, samples: rows.into_iter().map(sample).collect() }
}

fn of_catalog(service: &Service) -> Vec<Metric> {
    let (snapshot, CatalogStatus { accepted, refused, reloads }) = (service.catalog.current(), service.catalog.standing());
    let origin = match accepted.origin {
        Origin::Embedded => "embedded",
        Origin::Folder(_) => "folder",
        Origin::Stored(_) => "last_good",
    };
    let faults = refused.map_or(0, |(faults, _)| faults.as_slice().len());
    let labels = vec![("hash", accepted.hash.clone()), ("origin", origin.to_owned())];
    let reloads = ["accepted", "unchanged", "refused"].into_iter().zip(reloads);
    let reloads = reloads.map(|(outcome, value)| Sample { labels: vec![("outcome", outcome.to_owned())], value });
    vec![
        Metric { name: "catalog", help: "The catalog that holds", kind: MetricKind::Info, samples: vec![Sample { labels, value: 1 }] },
        Metric::gauge("catalog_version", "Grows with each accepted catalog", accepted.version),
        Metric::gauge("catalog_accepted_timestamp_seconds", "When it was accepted", accepted.at.as_second()),
        Metric::gauge("catalog_models", "Models in the catalog", snapshot.all_models().len()),
        Metric::gauge("catalog_providers", "Providers in the catalog", snapshot.providers().count()),
        Metric::gauge("catalog_usable_providers", "Providers that can be called", snapshot.connections().count()),
        Metric::gauge("catalog_faults", "Faults of the seeds at the last attempt to load them; 0 if they hold", faults),
        Metric {
            name: "catalog_reloads",
            help: "Reloads since the start, by outcome",
            kind: MetricKind::Counter,
            samples: reloads.collect(),
        },
    ]
}

fn of_store(service: &Service) -> Vec<Metric> {
    let (store, space) = (&service.store, service.store.space());
    let rows = *store.durable_rows().borrow();
    let damaged = "Times that the content of a file was found to be damaged, since the start; the log names the file";
    let shared = "Rows that were given the answer of an equal one, since the start";
    vec![
        Metric::counter("store_commits", "Groups of writes that were made durable together, since the start", store.commits()),
        Metric::gauge("store_log_bytes", "Bytes of the store's log on disk", space.log_bytes()),
        Metric::gauge("store_used_bytes", "Bytes of keys and values in it", space.used_bytes()),
        Metric::gauge("store_compacting", "Whether the store is being compacted: 1 or 0", u8::from(space.is_compacting())),
        Metric::counter("store_compactions", "Compactions of the store, since the start", space.compactions()),
        Metric::counter("store_rows", "Results of rows that were made durable after a call, since the start", rows),
        Metric::gauge("store_lost_found", "Things in lost+found: content that a start found and no record names", store.lost_found()),
        Metric::counter("store_damaged_contents", damaged, store.damage_found()),
        Metric::counter("shared_rows", shared, service.executor.board().shared_rows),
    ]
}

fn of_descriptors(descriptors: &Descriptors) -> Vec<Metric> {
    let share = descriptors.share();
    let users = [
        ("clients", descriptors.clients_open(), share.clients),
        ("calls", descriptors.calls().open(), share.calls),
        ("files", descriptors.files_open(), share.files),
    ];
    let by_user = |value: fn(&(&'static str, usize, usize)) -> usize| {
        let sample = |user: &(&'static str, usize, usize)| Sample { labels: vec![("user", user.0.to_owned())], value: value(user) as u64 };
        users.iter().map(sample).collect::<Vec<_>>()
    };
    let help = "File descriptors in use by connections and files, by what for";
    let open = open().map(|open| Metric::gauge("file_descriptors_open", "File descriptors of the process that are open", open));
    let others = [
        Metric::gauge("file_descriptors_limit", "The most that it may have open", descriptors.limit()),
        Metric::counter("file_descriptors_refused", "Those that the kernel has refused, since the start", descriptors.refusals()),
        Metric { name: "places_taken", help, kind: MetricKind::Gauge, samples: by_user(|user| user.1) },
        Metric { name: "places", help: "Those that there are for it", kind: MetricKind::Gauge, samples: by_user(|user| user.2) },
        Metric::gauge("calls_waiting", "Calls that wait for a file descriptor", descriptors.calls().waiting()),
    ];
    open.into_iter().chain(others).collect()
}

/// Each metric of a lane with its description; a lane without such a number is left out.
const LANE_FIGURES: [(&str, &str); 8] = [
    ("lane_queued_rows", "Rows that are not finished, by lane"),
    ("lane_in_flight", "Calls in flight, by lane"),
    ("lane_allowed", "Calls that may be in flight at present; absent without a bound"),
    ("lane_requests_per_minute", "Requests a minute that it keeps to at present; absent without a bound"),
    ("lane_held", "1 while an operator has paused or drained it"),
    ("lane_denied", "1 while its provider refuses every request: the key, the account or the model"),
    ("lane_resting", "1 while no call is made: the circuit is open, or the provider asked for a pause"),
    ("lane_unreachable", "1 while no connection to the provider can be made"),
];

fn of_lanes(service: &Service) -> Vec<Metric> {
    let (board, holds, now) = (service.executor.board(), service.executor.lane_holds(), service.clock.now());
    let mut metrics = LANE_FIGURES.map(|(name, help)| Metric { name, help, kind: MetricKind::Gauge, samples: Vec::new() }).to_vec();
    for (provider, model, report) in board.lanes() {
        let figures = [
            Some(report.queued_rows),
            Some(report.load.in_flight.into()),
            report.load.allowed.map(u64::from),
            report.load.per_minute,
            Some(hold_on(&holds, provider, model).is_some().into()),
            Some(matches!(&report.load.wait, Some(LaneWait { reason: WaitReason::Denied(_), .. })).into()),
            Some(report.load.resting_until.is_some_and(|until| now < until).into()),
            Some(report.load.unreachable.into()),
        ];
        for (metric, value) in metrics.iter_mut().zip(figures) {
            // The model is empty for models that the catalog does not know.
            let labels = || vec![("provider", provider.to_owned()), ("model", model.unwrap_or_default().to_owned())];
            metric.samples.extend(value.map(|value| Sample { labels: labels(), value }));
        }
    }
    metrics
}
