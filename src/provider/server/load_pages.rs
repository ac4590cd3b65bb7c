//! Reads what a model server says about its load, from pages beside its API.
//!
//! llama.cpp's `/props` names its slots (`total_slots`; source: its server's README, "GET /props").
//! The waiting calls are gauges in Prometheus' text format at `/metrics`: of vLLM ("Production
//! Metrics"), llama.cpp ("GET /metrics"), SGLang ("Production Metrics") and Text Generation Inference
//! ("Metrics"). Whatever cannot be read says nothing.

use http::Uri;
use serde::Deserialize;

/// The pages, below the server's root.
pub const PROPS: &str = "/props";
pub const METRICS: &str = "/metrics";
/// Gauges of calls that wait in a server; one server has one of them, perhaps once for each engine.
const WAITING: [&str; 4] = ["vllm:num_requests_waiting", "llamacpp:requests_deferred", "sglang:num_queue_reqs", "tgi_queue_size"];

/// The address of a page beside the API, whose version is the last part of its path.
pub fn beside(base: &Uri, page: &str) -> Result<Uri, http::Error> {
    let path = base.path().trim_end_matches('/');
    let root = path.strip_suffix("/v1").unwrap_or(path);
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(format!("{root}{page}").parse()?);
    Ok(Uri::from_parts(parts)?)
}

/// Calls that the server works on at a time, from [`PROPS`].
pub fn slots(body: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Props {
        total_slots: u32,
    }
    serde_json::from_slice::<Props>(body).ok().map(|props| props.total_slots).filter(|slots| *slots > 0)
}

/// Calls that wait, from [`METRICS`].
pub fn waiting(body: &[u8]) -> Option<u32> {
    let mut sum = None;
    for line in body.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        let Some(rest) = WAITING.iter().find_map(|name| line.strip_prefix(name)) else { continue };
        // Labels may hold anything in quotes; the value stands behind the last brace.
        let value = match rest.bytes().next() {
            Some(b'{') => rest.rsplit_once('}').map(|(_, value)| value),
            Some(b' ' | b'\t') => Some(rest),
            _ => None,
        };
        let Some(value) = value.and_then(|value| value.split_ascii_whitespace().next()?.parse::<f64>().ok()) else { continue };
        if value.is_finite() && value >= 0.0 {
            sum = Some(sum.unwrap_or(0.0) + value);
        }
    }
    sum.map(whole)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds of a number of calls")]
fn whole(number: f64) -> u32 {
    number.min(f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_stand_beside_the_api() {
        for (base, expected) in [
            ("http://h:8000", "http://h:8000/metrics"),
            ("http://h:8000/v1/", "http://h:8000/metrics"),
            ("http://h/models/a/v1", "http://h/models/a/metrics"),
        ] {
            assert_eq!(beside(&base.parse().unwrap(), METRICS).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn slots_and_waiting_calls_are_read() {
        assert_eq!(slots(br#"{"default_generation_settings":{"n_ctx":512},"total_slots":8,"model_path":"m.gguf"}"#), Some(8));
        assert_eq!(slots(br#"{"total_slots":0}"#), None);
        assert_eq!(slots(b"<html>"), None);
        let page = b"# HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n\
            # TYPE vllm:num_requests_waiting gauge\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 256.0\n\
            vllm:num_requests_waiting{engine=\"0\",model_name=\"a } 9\"} 3.0\n\
            vllm:num_requests_waiting{engine=\"1\",model_name=\"m\"} 4.0 1700000000000\n\
            vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 7.0\n";
        assert_eq!(waiting(page), Some(7));
        assert_eq!(waiting(b"llamacpp:requests_deferred 2\n"), Some(2));
        assert_eq!(waiting(b"llamacpp:requests_deferred NaN\nsglang:num_queue_reqs{} -1\n"), None);
        assert_eq!(waiting(b"process_cpu_seconds_total 1\n"), None);
    }

    proptest! {
        #[test]
        fn any_page_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200), value in "\\PC{0,20}") {
            let _ = (waiting(&body), slots(&body), waiting(format!("vllm:num_requests_waiting{value}").as_bytes()));
        }
    }
}
