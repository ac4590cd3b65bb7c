//! Quotas: how much an organisation, or a key, may ask for and hold. Off unless the operator sets
//! them.
//!
//! Pure: what is used is counted elsewhere; whether more fits is decided here, in [`Quotas::admit`].
//!
//! Invariant: what was admitted is never above a quota by more than what can only be known later,
//! such as the length of answers.

use std::fmt;
use std::time::Duration;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;

use super::ledger::micros_up;
use crate::domain::money::Usd;
use crate::domain::time::{Timestamp, until};

/// Whose quota it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Organisation,
    Key,
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests in any 60 seconds.
    Requests,
    /// Batches that have not ended.
    Batches,
    /// Rows without a result of batches that have not ended.
    Rows,
    /// Bytes of files, uploads, quotes, batches and results.
    StoredBytes,
    /// Micro-dollars of a day, in UTC.
    DollarsADay,
    /// Micro-dollars of a calendar month, in UTC.
    DollarsAMonth,
    /// Tokens of a day, in UTC.
    TokensADay,
    /// Tokens of a calendar month, in UTC.
    TokensAMonth,
    /// Calls to providers in flight. Rows beyond it wait; nothing is refused.
    Calls,
}

impl Limit {
    /// Every limit, in the order of their numbers on disk, which never change.
    pub const ALL: [Self; 9] = [
        Self::Requests,
        Self::Batches,
        Self::Rows,
        Self::StoredBytes,
        Self::DollarsADay,
        Self::DollarsAMonth,
        Self::TokensADay,
        Self::TokensAMonth,
        Self::Calls,
    ];
    /// The limits that keys have, too.
    pub const OF_KEYS: [Self; 1] = [Self::Requests];

    /// The limits that refuse a new batch.
    pub const OF_CREATES: [Self; 7] =
        [Self::Batches, Self::Rows, Self::StoredBytes, Self::DollarsADay, Self::DollarsAMonth, Self::TokensADay, Self::TokensAMonth];

    /// The word for the limit on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::Batches => "batches_at_a_time",
            Self::Rows => "rows_queued",
            Self::StoredBytes => "stored_bytes",
            Self::DollarsADay => "usd_per_day",
            Self::DollarsAMonth => "usd_per_month",
            Self::TokensADay => "tokens_per_day",
            Self::TokensAMonth => "tokens_per_month",
            Self::Calls => "calls_in_flight",
        }
    }

    /// Whether amounts are micro-dollars.
    pub const fn is_money(self) -> bool {
        matches!(self, Self::DollarsADay | Self::DollarsAMonth)
    }

    /// The number of the limit on disk. Never changes.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The limit that has this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// After how long what is used may be less.
    fn retry_after(self, now: Timestamp) -> Duration {
        match self {
            Self::Requests | Self::Batches | Self::Rows | Self::StoredBytes | Self::Calls => LATER,
            Self::DollarsADay | Self::TokensADay => until(now, Period::Day.end(now)),
            Self::DollarsAMonth | Self::TokensAMonth => until(now, Period::Month.end(now)),
        }
    }
}

/// When to look again where nobody can tell when there is room.
const LATER: Duration = Duration::from_secs(60);

/// An amount of whatever a limit counts, as people read it.
pub struct Amount(pub Limit, pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_money() { write!(f, "{} USD", of_micros(self.1)) } else { write!(f, "{}", self.1) }
    }
}

/// Micro-dollars as dollars.
pub fn of_micros(micros: u64) -> Usd {
    Usd(Decimal::from_i128_with_scale(i128::from(micros), 6).normalize())
}

/// Dollars as whole micro-dollars, rounded up, held at what can be counted.
pub fn to_micros(amount: Usd) -> u64 {
    let micros = micros_up(amount).0.saturating_mul(Decimal::from(1_000_000_u32)).max(Decimal::ZERO);
    micros.to_u64().unwrap_or(u64::MAX)
}

/// An amount for each limit that has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas([Option<u64>; Limit::ALL.len()]);

/// How much is used of what each limit counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used([u64; Limit::ALL.len()]);

impl Used {
    pub fn get(&self, limit: Limit) -> u64 {
        self.0.get(usize::from(limit.code())).copied().unwrap_or(0)
    }

    pub fn set(&mut self, limit: Limit, amount: u64) {
        if let Some(place) = self.0.get_mut(usize::from(limit.code())) {
            *place = amount;
        }
    }
}

/// A quota has no room for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the quota `{}` of the {} is {}; {} used, and this needs {} more",
    .limit.as_str(), match .whose { Whose::Organisation => "organisation", Whose::Key => "API key" },
    Amount(*.limit, *.most), of_used(*.limit, *.used), Amount(*.limit, *.asked))]
pub struct Exceeded {
    pub whose: Whose,
    pub limit: Limit,
    /// The quota.
    pub most: u64,
    pub used: u64,
    pub asked: u64,
    /// After how long it may be worth to try again.
    pub retry_after: Duration,
}

fn of_used(limit: Limit, used: u64) -> String {
    let verb = if used == 1 { "is" } else { "are" };
    format!("{} {verb}", Amount(limit, used))
}

impl Quotas {
    /// No quotas at all.
    pub const NONE: Self = Self([None; Limit::ALL.len()]);

    pub fn get(&self, limit: Limit) -> Option<u64> {
        self.0.get(usize::from(limit.code())).copied().flatten()
    }

    /// The quotas with this limit set, or lifted for `None`.
    #[must_use]
    pub fn with(mut self, limit: Limit, amount: Option<u64>) -> Self {
        if let Some(place) = self.0.get_mut(usize::from(limit.code())) {
            *place = amount;
        }
        self
    }

    /// The limits that are set.
    pub fn iter(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().filter_map(|limit| Some((limit, self.get(limit)?)))
    }

    /// Whether `asked` more fits, where `used` is used now. Who asks for nothing that can be counted
    /// yet asks for 0, and is refused when nothing is left.
    ///
    /// # Errors
    /// When the quota has no room for it.
    pub fn admit(&self, limit: Limit, used: u64, asked: u64, now: Timestamp) -> Result<(), Exceeded> {
        match self.get(limit) {
            Some(most) if used.saturating_add(asked.max(1)) > most => {
                Err(Exceeded { whose: Whose::Organisation, limit, most, used, asked: asked.max(1), retry_after: limit.retry_after(now) })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A stretch of time in UTC after which spending counts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
}

impl Period {
    /// The number of the period that a moment lies in: later periods have higher numbers.
    pub fn number(self, at: Timestamp) -> i32 {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        match self {
            Self::Day => i32::try_from(at.as_second().div_euclid(86_400)).unwrap_or(i32::MAX),
            Self::Month => i32::from(date.year()) * 12 + i32::from(date.month()) - 1,
        }
    }

    /// When the next one begins.
    fn end(self, at: Timestamp) -> Timestamp {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let next = match self {
            Self::Day => date.tomorrow(),
            Self::Month => date.last_of_month().tomorrow(),
        };
        next.and_then(|next| next.to_zoned(jiff::tz::TimeZone::UTC)).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    }
}

/// What was spent in one period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// [`Period::number`].
    pub period: i32,
    pub usd: Usd,
    pub tokens: u64,
}

impl Spent {
    /// What of it counts in the period `now`. A clock that was set back does not forget.
    #[must_use]
    pub fn in_period(self, now: i32) -> Self {
        if self.period >= now { self } else { Self { period: now, ..Self::default() } }
    }

    fn plus(self, now: i32, usd: Usd, tokens: u64) -> Self {
        let before = self.in_period(now);
        Self { usd: before.usd.plus(usd), tokens: before.tokens.saturating_add(tokens), ..before }
    }
}

/// What an organisation's batches that have ended were charged lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spending {
    pub day: Spent,
    pub month: Spent,
}

impl Spending {
    /// The spending with the charge of a batch that ended at `at`.
    #[must_use]
    pub fn plus(self, at: Timestamp, usd: Usd, tokens: u64) -> Self {
        Self { day: self.day.plus(Period::Day.number(at), usd, tokens), month: self.month.plus(Period::Month.number(at), usd, tokens) }
    }

    /// What of it counts at this moment.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        Self { day: self.day.in_period(Period::Day.number(now)), month: self.month.in_period(Period::Month.number(now)) }
    }
}

/// Whole seconds of which requests are counted: 60, and the one that is not over.
const SECONDS: usize = 61;

/// The requests of the last 60 seconds, in constant space.
#[derive(Debug, Clone)]
pub struct Minute([(i64, u64); SECONDS]);

impl Default for Minute {
    fn default() -> Self {
        Self([(i64::MIN, 0); SECONDS])
    }
}

impl Minute {
    fn lately(&self, second: i64) -> impl Iterator<Item = (i64, u64)> {
        let oldest = second.saturating_sub(60);
        self.0.iter().copied().filter(move |(at, count)| (oldest..=second).contains(at) && *count > 0)
    }

    /// Requests in the last 60 seconds, counted by whole seconds.
    pub fn used(&self, now: Timestamp) -> u64 {
        self.lately(now.as_second()).fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Whether one more request is within the quota.
    ///
    /// # Errors
    /// When there were as many as the quota allows.
    pub fn admit(&self, quotas: &Quotas, now: Timestamp) -> Result<(), Exceeded> {
        let second = now.as_second();
        quotas.admit(Limit::Requests, self.used(now), 1, now).map_err(|refused| {
            let oldest = self.lately(second).map(|(at, _)| at).min().unwrap_or(second);
            let left = u64::try_from(oldest.saturating_add(61).saturating_sub(second)).unwrap_or(1);
            Exceeded { retry_after: Duration::from_secs(left.clamp(1, 61)), ..refused }
        })
    }

    /// Counts a request that was admitted.
    pub fn count(&mut self, now: Timestamp) {
        let second = now.as_second();
        if let Some(place) = usize::try_from(second.rem_euclid(61)).ok().and_then(|slot| self.0.get_mut(slot)) {
            *place = if place.0 == second { (second, place.1.saturating_add(1)) } else { (second, 1) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    #[test]
    fn every_limit_has_its_number_and_its_word() {
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!((usize::from(limit.code()), Limit::from_code(limit.code())), (number, Some(limit)));
            assert_eq!(Quotas::NONE.with(limit, Some(7)).iter().collect::<Vec<_>>(), [(limit, 7)]);
        }
        assert_eq!(Limit::from_code(9), None);
        assert_eq!((to_micros(of_micros(1_500_001)), to_micros(Usd(Decimal::MAX))), (1_500_001, u64::MAX));
    }

    #[test]
    fn a_refusal_names_the_limit_and_when_to_try_again() {
        let quotas = Quotas::NONE.with(Limit::DollarsADay, Some(2_500_000)).with(Limit::Batches, Some(1));
        let now = "2026-12-31T23:00:00Z".parse().unwrap();
        let refused = quotas.admit(Limit::DollarsADay, 2_000_000, 600_000, now).unwrap_err();
        insta::assert_snapshot!(refused, @"the quota `usd_per_day` of the organisation is 2.5 USD; 2 USD are used, and this needs 0.6 USD more");
        assert_eq!(refused.retry_after, Duration::from_secs(3_600));
        insta::assert_snapshot!(quotas.admit(Limit::Batches, 1, 1, now).unwrap_err(), @"the quota `batches_at_a_time` of the organisation is 1; 1 is used, and this needs 1 more");
        assert_eq!(quotas.admit(Limit::DollarsADay, 1_900_000, 600_000, now), Ok(()));
        assert_eq!(quotas.admit(Limit::Rows, u64::MAX, u64::MAX, now), Ok(()), "no quota, no limit");
    }

    #[test]
    fn spending_counts_anew_with_each_day_and_month() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let spending = Spending::default().plus(time("2026-12-30T10:00:00Z"), Usd(Decimal::ONE), 10);
        let spending = spending.plus(time("2026-12-31T23:59:59Z"), Usd(Decimal::TWO), 5);
        let seen = |now| {
            let spent = spending.at(time(now));
            (spent.day.tokens, spent.month.tokens, spent.month.usd.0.to_string())
        };
        assert_eq!(seen("2026-12-31T23:59:59Z"), (5, 15, "3".into()));
        assert_eq!(seen("2027-01-01T00:00:00Z"), (0, 0, "0".into()));
        assert_eq!(seen("2026-12-30T00:00:00Z"), (5, 15, "3".into()), "a clock that was set back");
    }

    proptest! {
        #[test]
        fn no_minute_has_more_requests_than_the_quota(most in 0_u64..20, steps in proptest::collection::vec(0_i64..25, 0..300)) {
            let quotas = Quotas::NONE.with(Limit::Requests, Some(most));
            let (mut minute, mut now, mut admitted) = (Minute::default(), 0, Vec::new());
            for step in steps {
                now += step;
                let within = admitted.iter().filter(|then| now - *then <= 60).count() as u64;
                match minute.admit(&quotas, at(now)) {
                    Ok(()) => {
                        minute.count(at(now));
                        admitted.push(now);
                    }
                    Err(refused) => {
                        prop_assert_eq!((refused.used, within), (most, most));
                        let later = now + i64::try_from(refused.retry_after.as_secs()).unwrap();
                        prop_assert!(most == 0 || minute.admit(&quotas, at(later)).is_ok(), "it says when to come again");
                    }
                }
                prop_assert!(admitted.iter().filter(|then| now - *then <= 60).count() as u64 <= most);
            }
        }

        #[test]
        fn what_was_admitted_is_never_above_the_quota(most in 0_u64..1_000, asks in proptest::collection::vec(0_u64..400, 0..40)) {
            let quotas = Quotas::NONE.with(Limit::StoredBytes, Some(most));
            let mut used = 0;
            for asked in asks {
                match quotas.admit(Limit::StoredBytes, used, asked, at(0)) {
                    Ok(()) => used += asked,
                    Err(refused) => prop_assert!(refused.used + refused.asked > most),
                }
                prop_assert!(used <= most);
            }
        }
    }
}
