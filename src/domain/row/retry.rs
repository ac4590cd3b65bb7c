//! Decides what follows a failure: one pure function for every provider.
//!
//! A provider classifies ([`FailureClass`]); only this module decides ([`decide`]). The decision is
//! a moment, not a sleep: the caller schedules the row, so waiting costs nothing.

use std::time::Duration;

use crate::domain::time::{Timestamp, later, until};

/// Why an attempt did not end in a usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// HTTP 429: the provider asks for a slower pace.
    RateLimited { retry_after: Option<Duration> },
    /// HTTP 408, 409, 425, or 5xx: the same request may well succeed later.
    Unavailable { status: u16, retry_after: Option<Duration> },
    /// Any other 4xx, or a status that no API answers with: the request itself is at fault.
    Refused { status: u16 },
    /// No connection was made.
    Connect,
    /// The connection broke before the answer was complete.
    Interrupted,
    /// One of our time limits passed.
    TimedOut,
    /// A 2xx answer that is not one complete JSON object.
    InvalidResponse,
    /// The answer exceeds the configured size.
    ResponseTooLarge,
}

impl FailureClass {
    /// The class of an HTTP status that is not 2xx.
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            429 => Self::RateLimited { retry_after },
            408 | 409 | 425 | 500..=599 => Self::Unavailable { status, retry_after },
            _ => Self::Refused { status },
        }
    }

    /// The stable code in attempts and in the error file.
    pub const fn code(self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::Unavailable { .. } => "server_error",
            Self::Refused { .. } => "request_refused",
            Self::Connect => "connection_error",
            Self::Interrupted => "connection_interrupted",
            Self::TimedOut => "timeout",
            Self::InvalidResponse => "invalid_response",
            Self::ResponseTooLarge => "response_too_large",
        }
    }

    /// The wait that the provider asked for.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after, .. } => retry_after,
            Self::Refused { .. } | Self::Connect | Self::Interrupted | Self::TimedOut | Self::InvalidResponse | Self::ResponseTooLarge => {
                None
            }
        }
    }

    /// Whether the same request may well succeed with another provider.
    pub const fn may_differ_elsewhere(self) -> bool {
        // No key, no credit, no permission, no such model: these are faults of the lane.
        self.is_retriable() || matches!(self, Self::Refused { status: 401..=404 })
    }

    const fn is_retriable(self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::Connect
            | Self::Interrupted
            | Self::TimedOut
            | Self::InvalidResponse => true,
            // The same request would get the same answer.
            Self::Refused { .. } | Self::ResponseTooLarge => false,
        }
    }
}

/// How often and how soon a row is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failed attempts of one row before the row fails for good; at least 1. Answers of 429 and
    /// failures to connect do not count: they say nothing about the row, and the deadline ends
    /// them.
    pub max_attempts: u32,
    /// The first backoff; each further backoff is twice as long.
    pub base: Duration,
    /// The longest of our own backoffs. A provider's `Retry-After` may be longer and is obeyed.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 6, base: Duration::from_millis(500), cap: Duration::from_secs(60) }
    }
}

/// Broken connections that make a row suspect: a connection may break by chance, even twice.
const SUSPICIOUS: u32 = 3;

/// Attempts of one row so far, the latest included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts that the provider did not take up: it answered 429, or was not reached at all.
    pub turned_away: u32,
    /// Attempts that failed in any other way.
    pub failed: u32,
    /// Attempts among `failed` whose connection broke.
    pub cut: u32,
}

impl Tally {
    /// The tally with one more failure of this class.
    #[must_use]
    pub fn and(mut self, class: FailureClass) -> Self {
        match class {
            FailureClass::RateLimited { .. } | FailureClass::Connect => self.turned_away = self.turned_away.saturating_add(1),
            FailureClass::Interrupted => {
                self.failed = self.failed.saturating_add(1);
                self.cut = self.cut.saturating_add(1);
            }
            FailureClass::Unavailable { .. }
            | FailureClass::Refused { .. }
            | FailureClass::TimedOut
            | FailureClass::InvalidResponse
            | FailureClass::ResponseTooLarge => self.failed = self.failed.saturating_add(1),
        }
        self
    }

    /// Whether the row may be what breaks connections, including those of other rows. A suspect row
    /// gets one more attempt, with no other row on its lane.
    pub const fn is_suspect(&self) -> bool {
        self.cut >= SUSPICIOUS
    }

    /// The tally with enough broken connections to make the row suspect.
    #[must_use]
    pub const fn suspected(self) -> Self {
        Self { cut: SUSPICIOUS, ..self }
    }
}

/// What happens to the row now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again, not before this moment.
    RetryAt(Timestamp),
    /// The failure is the row's result.
    GiveUp,
    /// The next attempt would come after the deadline: the row expires.
    PastDeadline,
}

/// Decides what follows a failed attempt.
///
/// `tally` includes the attempt that just failed; `jitter` is uniform in `0.0..1.0` (full jitter:
/// the wait is uniform between nothing and the exponential bound, so rows that failed together do
/// not come back together).
pub fn decide(class: FailureClass, tally: Tally, policy: &RetryPolicy, now: Timestamp, deadline: Timestamp, jitter: f64) -> Decision {
    if !class.is_retriable() || tally.failed >= policy.max_attempts {
        return Decision::GiveUp;
    }
    let tries = tally.failed.saturating_add(tally.turned_away);
    let doublings = tries.saturating_sub(1).min(31);
    let bound = policy.base.saturating_mul(1_u32 << doublings).min(policy.cap);
    let backoff = bound.mul_f64(jitter.clamp(0.0, 1.0));
    // Jitter is added to the provider's wait, because all other rows come back at that moment too.
    let wait = match class.retry_after() {
        Some(asked) => asked.saturating_add(backoff.min(policy.base)),
        None => backoff,
    };
    if wait >= until(now, deadline) { Decision::PastDeadline } else { Decision::RetryAt(later(now, wait)) }
}

/// Reads `Retry-After` in both forms of RFC 9110 (section 10.2.3): seconds, or an HTTP date.
///
/// `None` for a value of neither form; a date that has passed asks for no wait.
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number with too many digits still means "very long", not "no wish at all".
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let at = Timestamp::try_from(httpdate::parse_http_date(value).ok()?).ok()?;
    Some(until(now, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn statuses_fall_into_classes() {
        for status in [408, 409, 425, 500, 502, 503, 504, 529, 599] {
            assert_eq!(FailureClass::of_status(status, None), FailureClass::Unavailable { status, retry_after: None });
        }
        assert_eq!(FailureClass::of_status(429, None), FailureClass::RateLimited { retry_after: None });
        for status in [100, 204, 301, 400, 401, 403, 404, 413, 422, 600] {
            assert_eq!(FailureClass::of_status(status, None), FailureClass::Refused { status });
        }
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = at(784_111_777);
        assert_eq!(parse_retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after(" 0 ", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("99999999999999999999999", now), Some(Duration::from_secs(u64::from(u32::MAX))));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:27 GMT", now), Some(Duration::ZERO));
        for bad in ["", "soon", "-1", "1.5", "Sun, 99 Nov 1994 08:49:27 GMT"] {
            assert_eq!(parse_retry_after(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn being_rate_limited_never_uses_up_the_attempts() {
        let policy = RetryPolicy::default();
        let class = FailureClass::RateLimited { retry_after: Some(Duration::from_secs(2)) };
        let tally = Tally { turned_away: 10_000, ..Tally::default() };
        assert_eq!(decide(class, tally, &policy, at(0), at(100), 0.0), Decision::RetryAt(at(2)));
        assert_eq!(decide(class, tally, &policy, at(99), at(100), 0.0), Decision::PastDeadline);
    }

    fn any_class() -> impl Strategy<Value = FailureClass> {
        let wait = proptest::option::of((0_u64..100_000).prop_map(Duration::from_millis));
        prop_oneof![
            (100_u16..700, wait).prop_map(|(status, wait)| FailureClass::of_status(status, wait)),
            Just(FailureClass::Connect),
            Just(FailureClass::Interrupted),
            Just(FailureClass::TimedOut),
            Just(FailureClass::InvalidResponse),
            Just(FailureClass::ResponseTooLarge),
        ]
    }

    proptest! {
        #[test]
        fn a_retry_is_in_bounds(class in any_class(), failed in 0_u32..10, limited in 0_u32..100, jitter in 0.0..1.0_f64, left in 0_i64..200) {
            let policy = RetryPolicy::default();
            let (now, deadline) = (at(1_000), at(1_000 + left));
            match decide(class, Tally { failed, turned_away: limited, cut: 0 }, &policy, now, deadline, jitter) {
                Decision::RetryAt(moment) => {
                    prop_assert!(failed < policy.max_attempts && moment < deadline && moment >= now);
                    let asked = class.retry_after().unwrap_or(Duration::ZERO);
                    prop_assert!(moment >= later(now, asked));
                    prop_assert!(moment <= later(now, asked.max(policy.cap) + policy.base));
                }
                Decision::PastDeadline => prop_assert!(left < 101),
                Decision::GiveUp => prop_assert!(failed >= policy.max_attempts || !class.is_retriable()),
            }
        }

        #[test]
        fn any_retry_after_is_read_without_panic(value in "\\PC{0,40}") {
            let _ = parse_retry_after(&value, at(0));
        }
    }
}
