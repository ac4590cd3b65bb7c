//! How a client wants to follow a batch: the query of the request.

use std::time::Duration;

use crate::http::request::Params;

const DEFAULT_MILLIS: f64 = 2_500.0;
const MIN_MILLIS: f64 = 1_000.0;
const MAX_MILLIS: f64 = 10_000.0;
/// The words that switch off a flag that is on by default.
const OFF: [&str; 4] = ["0", "false", "no", "off"];

/// The options of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowOptions {
    /// The least time between two updates.
    pub interval: Duration,
    /// Whether the feed closes once the batch has ended.
    pub close_on_terminal: bool,
}

impl FollowOptions {
    /// Reads the options of a query; an invalid value counts as absent.
    pub fn of(params: Option<&Params>) -> Self {
        let first = |name: &str| params.and_then(|params| params.all(name).first().map(|text| text.trim()));
        let stated = first("interval_ms").and_then(|text| text.parse::<f64>().ok()).filter(|millis| millis.is_finite());
        let millis = stated.unwrap_or(DEFAULT_MILLIS).clamp(MIN_MILLIS, MAX_MILLIS).trunc();
        let off = first("close_on_terminal").is_some_and(|text| OFF.iter().any(|word| text.eq_ignore_ascii_case(word)));
        Self { interval: Duration::from_secs_f64(millis / 1_000.0), close_on_terminal: !off }
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;

    use super::*;

    #[tokio::test]
    async fn wishes_are_read_leniently() {
        async fn read(query: &str) -> (u128, bool) {
            let request = axum::http::Request::get(format!("/?{query}")).body(()).unwrap();
            let params = Params::from_request_parts(&mut request.into_parts().0, &()).await.ok();
            let options = FollowOptions::of(params.as_ref());
            (options.interval.as_millis(), options.close_on_terminal)
        }
        for (query, expected) in [
            ("", (2_500, true)),
            ("interval_ms=1500.9&close_on_terminal=1", (1_500, true)),
            ("interval_ms=1&close_on_terminal=OFF", (1_000, false)),
            ("interval_ms=1e9&close_on_terminal=No", (10_000, false)),
            ("interval_ms=-7&close_on_terminal=0", (1_000, false)),
            ("interval_ms=soon&close_on_terminal=False", (2_500, false)),
            ("interval_ms=NaN&close_on_terminal=", (2_500, true)),
            ("interval_ms=", (2_500, true)),
        ] {
            assert_eq!(read(query).await, expected, "{query}");
        }
    }
}
