//! `GET /metrics`: the figures of [`crate::service::metrics`] in the text format of Prometheus
//! (OpenMetrics).

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::metrics::{Metric, MetricKind, read};

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The labels of one value.
type Labels = Vec<(&'static str, String)>;

/// `GET /metrics`
pub async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let mut registry = Registry::with_prefix("batchd");
    for metric in read(&api.service, &api.descriptors) {
        register(&mut registry, metric);
    }
    let mut text = String::new();
    encode(&mut text, &registry).map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, FORMAT)], text).into_response())
}

fn register(registry: &mut Registry, metric: Metric) {
    let Metric { name, help, kind, samples } = metric;
    match (kind, samples.as_slice()) {
        (MetricKind::Info, _) => samples.into_iter().for_each(|sample| registry.register(name, help, Info::new(sample.labels))),
        // Registered without a family, because a family would print empty braces in its line.
        (MetricKind::Counter, [only]) if only.labels.is_empty() => registry.register(name, help, counter(only.value)),
        (MetricKind::Gauge, [only]) if only.labels.is_empty() => registry.register(name, help, gauge(only.value)),
        (MetricKind::Counter, _) => {
            let family = Family::<Labels, Counter>::default();
            samples.iter().for_each(|sample| _ = family.get_or_create(&sample.labels).inc_by(sample.value));
            registry.register(name, help, family);
        }
        (MetricKind::Gauge, _) => {
            let family = Family::<Labels, Gauge>::default();
            samples.iter().for_each(|sample| _ = family.get_or_create(&sample.labels).set(whole(sample.value)));
            registry.register(name, help, family);
        }
    }
}

fn counter(value: u64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(value);
    counter
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(whole(value));
    gauge
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
