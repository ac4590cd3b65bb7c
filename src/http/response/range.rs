//! `Range`, `If-Range` and `If-None-Match` for immutable content (RFC 9110, sections 13 and 14).
//!
//! One range of bytes is served. Several ranges, other units and anything that does not parse are
//! ignored, as the RFC permits: the client then gets the whole content.

use std::ops::Range;

use axum::http::HeaderMap;
use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// Which part of the content to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// A range that lies outside the content.
    Unsatisfiable,
    /// The client already has the content.
    NotModified,
}

/// Decides what to send of a content of `bytes` bytes with the strong validator `etag`, quotes
/// included.
pub fn select(headers: &HeaderMap, etag: &str, bytes: u64) -> Selection {
    if is_known(headers, etag) {
        return Selection::NotModified;
    }
    let mut ranges = headers.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Selection::Whole };
    // A date never matches: the strong comparison needs the tag.
    if headers.get(IF_RANGE).is_some_and(|tag| tag.as_bytes() != etag.as_bytes()) {
        return Selection::Whole;
    }
    range.to_str().ok().and_then(|range| parse(range, bytes)).unwrap_or(Selection::Whole)
}

/// Whether the client already has the content that `etag` names, quotes included.
pub fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|value| matches(value.as_bytes(), etag))
}

/// Weak comparison with a list of tags, as `If-None-Match` requires.
fn matches(list: &[u8], etag: &str) -> bool {
    let Ok(list) = std::str::from_utf8(list) else { return false };
    list.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Parses a single range of bytes; `None` if the header is not one well-formed range.
fn parse(header: &str, bytes: u64) -> Option<Selection> {
    let (unit, spec) = header.split_once('=')?;
    let (first, last) = spec.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number with too many digits for `u64` is still a number, beyond every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => bytes.saturating_sub(number(suffix)?)..bytes,
        (first, "") => number(first)?..bytes,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(bytes)
        }
    };
    Some(if range.start < range.end { Selection::Part(range) } else { Selection::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(range: &str, bytes: u64) -> Option<Selection> {
        parse(range, bytes)
    }

    #[test]
    fn ranges_as_in_the_rfc() {
        for (range, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-499", 0..500),
            ("BYTES = 9500-", 9_500..10_000),
            ("bytes=-500", 9_500..10_000),
            ("bytes=9999-99999999999999999999999", 9_999..10_000),
            ("bytes=-20000", 0..10_000),
        ] {
            assert_eq!(of(range, 10_000), Some(Selection::Part(expected)), "{range}");
        }
        for range in ["bytes=10000-", "bytes=10000-10001", "bytes=-0"] {
            assert_eq!(of(range, 10_000), Some(Selection::Unsatisfiable), "{range}");
        }
        for range in ["bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=+1-2", "bytes=1-2-3"] {
            assert_eq!(of(range, 10_000), None, "{range}");
        }
        assert_eq!(of("bytes=0-", 0), Some(Selection::Unsatisfiable));
    }

    #[test]
    fn conditions_come_before_ranges() {
        let select = |headers: &[(&'static str, &str)]| {
            let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            super::select(&map, "\"a\"", 10)
        };
        assert_eq!(select(&[("if-none-match", "\"b\", W/\"a\""), ("range", "bytes=0-1")]), Selection::NotModified);
        assert_eq!(select(&[("if-none-match", "*")]), Selection::NotModified);
        assert_eq!(select(&[("if-none-match", "\"b\""), ("range", "bytes=0-1")]), Selection::Part(0..2));
        assert_eq!(select(&[("if-range", "\"a\""), ("range", "bytes=0-1")]), Selection::Part(0..2));
        assert_eq!(select(&[("if-range", "W/\"a\""), ("range", "bytes=0-1")]), Selection::Whole);
        assert_eq!(select(&[("if-range", "Sat, 29 Oct 1994 19:43:31 GMT"), ("range", "bytes=0-1")]), Selection::Whole);
        assert_eq!(select(&[("range", "bytes=0-1"), ("range", "bytes=2-3")]), Selection::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_content(range in "bytes=[0-9]{0,21}-[0-9]{0,21}", bytes: u64) {
            if let Some(Selection::Part(part)) = of(&range, bytes) {
                prop_assert!(part.start < part.end && part.end <= bytes);
            }
        }
    }
}
