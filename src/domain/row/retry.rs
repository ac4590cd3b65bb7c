//! Decides what follows a failure: one pure function for every provider.
//!
//! A provider classifies ([`FailureClass`]); only this module decides ([`decide`]). The decision is
//! a moment, not a sleep: the caller schedules the row, so waiting costs nothing.

use std::time::Duration;

use crate::domain::provider::denial::Denial;
use crate::domain::time::{Timestamp, later, until};

/// Why an attempt did not end in a usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// HTTP 429: the provider asks for a slower pace.
    RateLimited { retry_after: Option<Duration> },
    /// HTTP 408, 409, 425, or 5xx: the same request may well succeed later.
    Unavailable { status: u16, retry_after: Option<Duration> },
    /// The provider refuses every request of the lane: the fault is the operator's to mend.
    Denied { denial: Denial, status: u16 },
    /// Any other 4xx, or a status that no API answers with: the request itself is at fault.
    Refused { status: u16 },
    /// No connection was made.
    Connect,
    /// The connection broke before the answer was complete.
    Interrupted,
    /// One of our time limits passed.
    TimedOut,
    /// A 2xx answer that is not one complete JSON object, or does not answer what was asked.
    InvalidResponse,
    /// A 2xx answer in the form of an event stream, which was not asked for: the server does so
    /// each time.
    EventStream,
    /// The answer exceeds the configured size.
    ResponseTooLarge,
    /// No call was made: the server from which the row wants content does not give it at present.
    FileUnreachable,
}

impl FailureClass {
    /// The class of an HTTP status that is not 2xx.
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            429 => Self::RateLimited { retry_after },
            // The server does not have this function, and will not have it a moment later.
            501 => Self::Refused { status },
            408 | 409 | 425 | 500..=599 => Self::Unavailable { status, retry_after },
            _ => Self::Refused { status },
        }
    }

    /// The stable code in attempts and in the error file.
    pub const fn code(self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::Unavailable { .. } => "server_error",
            Self::Denied { denial, .. } => denial.code(),
            Self::Refused { .. } => "request_refused",
            Self::Connect => "connection_error",
            Self::Interrupted => "connection_interrupted",
            Self::TimedOut => "timeout",
            Self::InvalidResponse | Self::EventStream => "invalid_response",
            Self::ResponseTooLarge => "response_too_large",
            Self::FileUnreachable => "file_unreachable",
        }
    }

    /// The wait that the provider asked for.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::Unavailable { retry_after, .. } => retry_after,
            Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Connect
            | Self::Interrupted
            | Self::TimedOut
            | Self::InvalidResponse
            | Self::EventStream
            | Self::ResponseTooLarge
            | Self::FileUnreachable => None,
        }
    }

    /// Whether the same request may well succeed with another provider.
    pub const fn may_differ_elsewhere(self) -> bool {
        // A function that the server does not have is a fault of the lane. A file is the same on each.
        self.is_retriable() && !matches!(self, Self::FileUnreachable)
            || matches!(self, Self::Refused { status: 401..=404 | 501 } | Self::EventStream)
    }

    /// Whether the class says by itself that the server, or what stands before it, did not come to
    /// work on the request: a gateway's errors, an overload, silence, a broken connection.
    pub const fn is_outage(self) -> bool {
        match self {
            Self::Unavailable { status: 408 | 409 | 425 | 502..=504 | 529, .. } | Self::Connect | Self::Interrupted | Self::TimedOut => {
                true
            }
            Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::InvalidResponse
            | Self::EventStream
            | Self::ResponseTooLarge
            | Self::FileUnreachable => false,
        }
    }

    /// Whether the same request may be sent again.
    pub const fn is_retriable(self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::Denied { .. }
            | Self::Connect
            | Self::Interrupted
            | Self::TimedOut
            | Self::InvalidResponse
            | Self::FileUnreachable => true,
            // The same request would get the same answer.
            Self::Refused { .. } | Self::EventStream | Self::ResponseTooLarge => false,
        }
    }
}

/// How often and how soon a row is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts that a row is charged before it fails for good; at least 1. An attempt is charged
    /// only as far as its lane was well at that time ([`Tally`]).
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

/// How much of an attempt a row is charged for a failure, in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Charge(u32);

impl Charge {
    /// The failure is the row's own.
    pub const FULL: Self = Self(1_000);

    /// A part of an attempt; `part` is in `0.0..=1.0`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in 0..=1000")]
    pub fn part(part: f64) -> Self {
        Self((part.clamp(0.0, 1.0) * 1_000.0) as u32)
    }
}

/// Attempts of one row on its lane so far, the latest included.
///
/// A failure is charged as far as the lane was well around that time, which others show: calls that
/// went out no earlier and succeeded. So an outage costs a row nothing, however long it lasts, and a
/// row that alone fails on a lane that is well ends after [`RetryPolicy::max_attempts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Failed attempts, charged or not.
    pub tries: u32,
    charged: u32,
    /// Charged attempts whose connection broke.
    cut: u32,
    /// Stands for what the row met when it was charged last; 0 before that.
    mark: u32,
}

impl Tally {
    /// The tally with one more failure, which may be charged later.
    #[must_use]
    pub const fn and_try(self) -> Self {
        Self { tries: self.tries.saturating_add(1), ..self }
    }

    /// The tally with a charge for a failure of this class; `mark` stands for what was answered.
    #[must_use]
    pub const fn and(self, charge: Charge, class: FailureClass, mark: u32) -> Self {
        if charge.0 == 0 {
            return self;
        }
        let cut = if matches!(class, FailureClass::Interrupted) { self.cut.saturating_add(1) } else { self.cut };
        Self { charged: self.charged.saturating_add(charge.0), cut, mark, ..self }
    }

    /// The tally as if this were the first failure, as far as the next wait is concerned.
    #[must_use]
    pub const fn hurried(self) -> Self {
        Self { tries: 1, ..self }
    }

    /// Whether the row has used up its attempts.
    pub const fn is_used_up(&self, policy: &RetryPolicy) -> bool {
        self.charged() >= policy.max_attempts
    }

    /// Whether the row was charged before, for the same answer.
    pub const fn has_met(&self, mark: u32) -> bool {
        self.mark != 0 && self.mark == mark
    }

    /// Whether the row was charged for anything.
    pub const fn is_charged(&self) -> bool {
        self.charged > 0
    }

    /// Whole attempts that were charged.
    pub const fn charged(&self) -> u32 {
        self.charged / 1_000
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
/// `tally` includes the attempt that just failed; `at_least` is how long the row waits in any case;
/// `jitter` is uniform in `0.0..1.0`. The wait is uniform between half the exponential bound and the
/// bound, so rows that failed together do not come back together, and the number of calls that a row
/// makes in a given time has a bound.
pub fn decide(
    class: FailureClass,
    tally: Tally,
    policy: &RetryPolicy,
    (now, deadline): (Timestamp, Timestamp),
    at_least: Duration,
    jitter: f64,
) -> Decision {
    if !class.is_retriable() || tally.is_used_up(policy) {
        return Decision::GiveUp;
    }
    let doublings = tally.tries.saturating_sub(1).min(31);
    let bound = policy.base.saturating_mul(1_u32 << doublings).min(policy.cap);
    let backoff = bound.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
    // Jitter is added to the provider's wait, because all other rows come back at that moment too.
    let wait = match class.retry_after() {
        Some(asked) => asked.saturating_add(backoff.min(policy.base)),
        None => backoff,
    };
    let wait = wait.max(at_least);
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
        for status in [100, 204, 301, 400, 401, 403, 404, 413, 422, 501, 600] {
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
    fn what_is_not_charged_never_uses_up_the_attempts() {
        let policy = RetryPolicy::default();
        let class = FailureClass::RateLimited { retry_after: Some(Duration::from_secs(2)) };
        let tally = Tally { tries: 10_000, ..Tally::default() };
        let decide = |now| super::decide(class, tally, &policy, (at(now), at(100)), Duration::ZERO, 0.0);
        assert_eq!(decide(0), Decision::RetryAt(later(at(2), policy.base)));
        assert_eq!(decide(99), Decision::PastDeadline);
    }

    #[test]
    fn parts_of_attempts_add_up() {
        let policy = RetryPolicy::default();
        let class = FailureClass::Interrupted;
        let charged = |times, part| (0..times).fold(Tally::default(), |tally, _| tally.and_try().and(Charge::part(part), class, 7));
        assert!(!charged(5, 1.0).is_used_up(&policy) && charged(6, 1.0).is_used_up(&policy));
        assert!(!charged(23, 0.25).is_used_up(&policy) && charged(24, 0.25).is_used_up(&policy));
        let spared = charged(1_000, 0.0);
        assert!(!spared.is_charged() && !spared.is_suspect() && !spared.has_met(7) && spared.tries == 1_000);
        assert!(charged(1, 0.5).has_met(7) && !charged(1, 0.5).has_met(8));
    }

    fn any_class() -> impl Strategy<Value = FailureClass> {
        let wait = proptest::option::of((0_u64..100_000).prop_map(Duration::from_millis));
        prop_oneof![
            (100_u16..700, wait).prop_map(|(status, wait)| FailureClass::of_status(status, wait)),
            Just(FailureClass::Connect),
            Just(FailureClass::Interrupted),
            Just(FailureClass::TimedOut),
            Just(FailureClass::InvalidResponse),
            Just(FailureClass::EventStream),
            Just(FailureClass::ResponseTooLarge),
        ]
    }

    proptest! {
        #[test]
        fn a_retry_is_in_bounds(
            class in any_class(), failed in 0_u32..10, spared in 0_u32..100, jitter in 0.0..1.0_f64, left in 0_i64..200, least in 0_u64..100,
        ) {
            let policy = RetryPolicy::default();
            let (now, deadline, least) = (at(1_000), at(1_000 + left), Duration::from_secs(least));
            let tally = (0..failed).fold(Tally { tries: spared, ..Tally::default() }, |tally, _| tally.and_try().and(Charge::FULL, class, 1));
            match decide(class, tally, &policy, (now, deadline), least, jitter) {
                Decision::RetryAt(moment) => {
                    prop_assert!(failed < policy.max_attempts && moment < deadline && moment >= now);
                    let asked = class.retry_after().unwrap_or(Duration::ZERO).max(least);
                    prop_assert!(moment >= later(now, asked.max(policy.base / 2)));
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
