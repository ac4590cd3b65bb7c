//! Reads what is left of a provider's limits from the headers of its answers.
//!
//! Three spellings: OpenAI's (`x-ratelimit-remaining-requests`, resets such as `2m59.56s`; many
//! servers imitate it), Anthropic's (`anthropic-ratelimit-requests-remaining`, resets as RFC 3339),
//! and the short one without a kind (`x-ratelimit-remaining`, resets in seconds or as a moment).
//! Sources: OpenAI, "Rate limits", "Rate limits in headers"; Anthropic, "Rate limits", "Response
//! headers". Unreadable values are left out: the headers are advice, not a part of the answer.

use std::time::Duration;

use http::HeaderMap;

use crate::domain::provider::rate_limits::{RateLimitLeft, RateLimitStatus};
use crate::domain::time::{Timestamp, until};

/// Header names of the limit, the remaining amount and the reset, for one kind of limit.
type Names = [&'static str; 3];

const OPENAI_REQUESTS: Names = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const OPENAI_TOKENS: Names = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
const ANTHROPIC_REQUESTS: Names =
    ["anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"];
const ANTHROPIC_TOKENS: Names =
    ["anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"];
const SHORT: Names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

/// The limits that the headers of an answer state; the answer came at `now`.
pub fn allowances(headers: &HeaderMap, now: Timestamp) -> Option<Box<RateLimitStatus>> {
    // Most servers send no such headers, and each name takes time to look up.
    let says = |name: &str| name.starts_with("x-ratelimit") || name.starts_with("anthropic-ratelimit");
    if !headers.keys().any(|name| says(name.as_str())) {
        return None;
    }
    let read = |names| allowance(headers, names, now);
    let requests = read(OPENAI_REQUESTS).or_else(|| read(ANTHROPIC_REQUESTS)).or_else(|| read(SHORT));
    let tokens = read(OPENAI_TOKENS).or_else(|| read(ANTHROPIC_TOKENS));
    let said = RateLimitStatus { requests, tokens };
    (said != RateLimitStatus::default()).then(|| Box::new(said))
}

fn allowance(headers: &HeaderMap, [limit, remaining, reset]: Names, now: Timestamp) -> Option<RateLimitLeft> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    Some(RateLimitLeft { remaining: number(remaining)?, reset: wait(text(reset)?, now)?, limit: number(limit) })
}

/// The time until a reset, written in one of the ways in use.
fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        return from_number(number, now);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(until(now, at));
    }
    from_units(text)
}

/// Seconds from now, or seconds or milliseconds since the epoch.
fn from_number(number: f64, now: Timestamp) -> Option<Duration> {
    /// No reset lies thirty years ahead.
    const SECONDS: f64 = 1e9;
    const MILLISECONDS: f64 = 1e12;
    let since_epoch = match number {
        n if n >= MILLISECONDS => n / 1_000.0,
        n if n >= SECONDS => n,
        n => return Duration::try_from_secs_f64(n).ok(),
    };
    let at = Timestamp::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(since_epoch).ok()?).ok()?;
    Some(until(now, at))
}

/// Reads a duration as Go writes it: `1h2m3.5s`, `6ms`.
fn from_units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let length = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        seconds += number
            * match &unit[..length] {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "\u{b5}s" => 1e-6,
                "ns" => 1e-9,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &unit[length..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);

    fn read(lines: &[(&'static str, &'static str)]) -> Option<RateLimitStatus> {
        let headers = lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        allowances(&headers, NOW).map(|said| *said)
    }

    #[test]
    fn all_three_spellings_are_read() {
        let openai = read(&[
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-reset-requests", "6ms"),
            ("x-ratelimit-limit-tokens", "200000"),
            ("x-ratelimit-remaining-tokens", "150000"),
            ("x-ratelimit-reset-tokens", "1m2.5s"),
        ]);
        let requests = Some(RateLimitLeft { limit: Some(10_000), remaining: 9_999, reset: Duration::from_millis(6) });
        let tokens = Some(RateLimitLeft { limit: Some(200_000), remaining: 150_000, reset: Duration::from_millis(62_500) });
        assert_eq!(openai, Some(RateLimitStatus { requests, tokens }));
        let anthropic = read(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-09-21T14:13:50Z"),
        ]);
        let requests = Some(RateLimitLeft { limit: Some(50), remaining: 0, reset: Duration::from_secs(30) });
        assert_eq!(anthropic, Some(RateLimitStatus { requests, tokens: None }));
        let short = read(&[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", "1790000012")]);
        let requests = Some(RateLimitLeft { limit: None, remaining: 7, reset: Duration::from_secs(12) });
        assert_eq!(short, Some(RateLimitStatus { requests, tokens: None }));
    }

    #[test]
    fn resets_in_every_way_that_is_in_use() {
        let table = [
            ("0", Some(0.0)),
            ("1.5", Some(1.5)),
            ("1790000005000", Some(5.0)),
            ("2m59.56s", Some(179.56)),
            ("1h0m0s", Some(3_600.0)),
            ("2026-09-21T14:13:21.250Z", Some(1.25)),
            ("2020-01-01T00:00:00Z", Some(0.0)),
            ("-1", None),
            ("", None),
            ("soon", None),
            ("5", Some(5.0)),
            ("5 s", None),
            ("1e300", None),
        ];
        for (text, expected) in table {
            assert_eq!(wait(text, NOW), expected.map(Duration::from_secs_f64), "{text}");
        }
        assert_eq!(read(&[("x-ratelimit-remaining-requests", "many"), ("x-ratelimit-reset-requests", "1s")]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,30}", number: f64) {
            let _ = (wait(&text, NOW), from_number(number, NOW), from_units(&format!("{number}s{text}")));
        }
    }
}
