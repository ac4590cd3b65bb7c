//! `GET /metrics`: the figures of [`crate::service::metrics`] in the text format of Prometheus (OpenMetrics).

use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    match kind {
        MetricKind::Info => samples.into_iter().for_each(|sample| registry.register(name, help, Info::new(sample.labels))),
        MetricKind::Counter => {
            let family = Family::<Labels, Counter>::default();
            for sample in samples {
                family.get_or_create(&sample.labels).inner().store(sample.value, Ordering::Relaxed);
            }
            registry.register(name, help, family);
        }
        MetricKind::Gauge => {
            let family = Family::<Labels, Gauge>::default();
            for sample in samples {
                family.get_or_create(&sample.labels).set(i64::try_from(sample.value).unwrap_or(i64::MAX));
            }
            registry.register(name, help, family);
        }
    }
}
