//! Chance without randomness: latency and faults that follow from the row's content.
//!
//! The dice are seeded with a fingerprint of the row, so the same row gets the same outcome on
//! every machine and in every run. Over many rows the shares and the distribution match the
//! configuration.
//!
//! Invariant: the sequence of a seed never changes, because users' recorded results depend on it.

use std::time::Duration;

use crate::domain::provider::connection::{SimulatedFaults, SimulatedProfile};

/// No call takes longer, whatever the tail of the distribution says.
const MAX_LATENCY: Duration = Duration::from_secs(3_600);
/// The 95th percentile of the standard normal distribution.
const Z95: f64 = 1.644_853_626_951_472_2;

/// A sequence of numbers that follows from its seed (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.0)
    }

    /// Uniform in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        // A float holds exactly 53 bits.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..end`; 0 if `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        ((self.next() as u128 * end as u128) >> 64) as u64
    }
}

const fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number that identifies these texts; fast, but no protection against deliberate collisions.
pub(super) fn fingerprint(parts: &[&[u8]]) -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d;
    for part in parts {
        let (words, tail) = part.as_chunks::<8>();
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        // The length distinguishes `a`,`bc` from `ab`,`c`.
        let ends = [u64::from_le_bytes(last), part.len() as u64];
        for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain(ends) {
            state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    finish(state)
}

/// A fault in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// Answers with this status: an error, or the usual answer if it is 2xx.
    Status { status: u16, retry_after: Option<Duration> },
    /// The connection breaks before the answer is complete.
    Cut,
    /// The call takes ten times as long.
    Slow,
    /// The provider never answers.
    Stall,
    /// Answers 200 with the first part of the body only.
    InvalidJson,
    /// Answers 200 with the body compressed, and does not say so.
    Gzip,
    /// Answers 200 with an error in the body.
    ErrorInside,
    /// Answers that the account has no money left.
    Quota,
    /// Answers that the key is wrong.
    WrongKey,
    /// Answers 503 until so long after the first row that asked for this.
    Loading(Duration),
    /// Answers 503 while so many calls of such rows are in flight.
    Full { slots: u32 },
}

impl Disturbance {
    /// Whether the same call may succeed later.
    pub fn passes(self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 409 | 425 | 429 | 500..=599),
            Self::Cut | Self::Slow | Self::Stall | Self::InvalidJson | Self::Gzip | Self::ErrorInside => true,
            Self::Loading(_) | Self::Full { .. } => true,
            Self::Quota | Self::WrongKey => false,
        }
    }

    /// Whether the time decides when it ends, not the number of attempts.
    pub fn ends_by_itself(self) -> bool {
        matches!(self, Self::Loading(_) | Self::Full { .. })
    }

    /// Whether the answer has the status of an error, so that it can ask to wait.
    pub fn is_error(self) -> bool {
        match self {
            Self::Status { status, .. } => status >= 300,
            Self::Quota | Self::WrongKey | Self::Loading(_) | Self::Full { .. } => true,
            Self::Cut | Self::Slow | Self::Stall | Self::InvalidJson | Self::Gzip | Self::ErrorInside => false,
        }
    }
}

/// The duration of the call: log-normal around the profile's median.
pub(super) fn latency(profile: &SimulatedProfile, dice: &mut Dice) -> Duration {
    // Both are always drawn, so that a change of the latency does not change the row's other
    // outcomes. `1 - u` is never 0, whose logarithm would be infinite.
    let (radius, angle) = ((-2.0 * (1.0 - dice.unit()).ln()).sqrt(), dice.unit());
    if profile.latency.is_zero() {
        return Duration::ZERO;
    }
    let z = radius * (std::f64::consts::TAU * angle).cos();
    let sigma = profile.spread.max(1.0).ln() / Z95;
    let seconds = profile.latency.as_secs_f64() * (sigma * z).exp();
    Duration::try_from_secs_f64(seconds).map_or(MAX_LATENCY, |latency| latency.min(MAX_LATENCY))
}

/// The fault of the first attempt, if any; `None` for a call without a fault.
pub(super) fn fault(faults: &SimulatedFaults, attempt: u32, dice: &mut Dice) -> Option<Disturbance> {
    let (mut point, wait) = (dice.unit(), small_wait(dice));
    let table = [
        (faults.error, Disturbance::Status { status: 500, retry_after: None }),
        (faults.rate_limit, Disturbance::Status { status: 429, retry_after: Some(wait) }),
        (faults.cut, Disturbance::Cut),
        (faults.slow, Disturbance::Slow),
        (faults.invalid_json, Disturbance::InvalidJson),
        (faults.refuse, Disturbance::Status { status: 400, retry_after: None }),
    ];
    for (share, disturbance) in table {
        if point < share {
            return (attempt <= 1 || !disturbance.passes()).then_some(disturbance);
        }
        point -= share;
    }
    None
}

/// A requested wait that is short enough for tests: 50 to 250 ms.
pub(super) fn small_wait(dice: &mut Dice) -> Duration {
    Duration::from_millis(50 + dice.below(201))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(profile: &SimulatedProfile) -> Vec<Duration> {
        let mut all: Vec<_> = (0..20_000).map(|seed| latency(profile, &mut Dice::new(finish(seed)))).collect();
        all.sort();
        all
    }

    #[test]
    fn latency_has_the_median_and_the_tail_that_were_asked_for() {
        let profile = SimulatedProfile { latency: Duration::from_millis(100), spread: 3.0, ..SimulatedProfile::default() };
        let all = sample(&profile);
        let (median, p95) = (all[10_000].as_secs_f64(), all[19_000].as_secs_f64());
        assert!((0.095..0.105).contains(&median), "median {median}");
        assert!((0.285..0.315).contains(&p95), "95th percentile {p95}");
    }

    #[test]
    fn no_profile_makes_an_impossible_latency() {
        let table = [
            (Duration::ZERO, 2.0, Duration::ZERO),
            (Duration::from_secs(1), 1.0, Duration::from_secs(1)),
            (Duration::from_secs(1), f64::NAN, Duration::from_secs(1)),
            (Duration::MAX, 2.0, MAX_LATENCY),
        ];
        for (latency, spread, expected) in table {
            let all = sample(&SimulatedProfile { latency, spread, ..SimulatedProfile::default() });
            assert!(all.iter().all(|l| *l == expected), "{latency:?} {spread}");
        }
        let wild = sample(&SimulatedProfile { spread: f64::INFINITY, ..SimulatedProfile::default() });
        assert!(wild.iter().all(|l| *l <= MAX_LATENCY));
    }

    #[test]
    fn faults_come_in_the_shares_that_were_asked_for() {
        let faults = SimulatedFaults { error: 0.1, rate_limit: 0.2, cut: 0.05, slow: 0.05, invalid_json: 0.1, refuse: 0.02 };
        let mut counts = [0_u32; 3];
        for seed in 0..20_000 {
            match fault(&faults, 1, &mut Dice::new(finish(seed))) {
                Some(Disturbance::Status { status: 429, retry_after }) => {
                    assert!((50..=250).contains(&retry_after.unwrap().as_millis()));
                    counts[0] += 1;
                }
                Some(_) => counts[1] += 1,
                None => counts[2] += 1,
            }
            let second = fault(&faults, 2, &mut Dice::new(finish(seed)));
            assert!(matches!(second, None | Some(Disturbance::Status { status: 400, .. })), "{second:?}");
        }
        assert!((3_800..4_200).contains(&counts[0]) && (6_100..6_700).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn fingerprints_tell_texts_apart_and_never_change() {
        assert_ne!(fingerprint(&[b"a", b"bc"]), fingerprint(&[b"ab", b"c"]));
        assert_ne!(fingerprint(&[b"12345678"]), fingerprint(&[b"12345678\0"]));
        assert_eq!(fingerprint(&[b"/v1/embeddings", b"m", b"{\"input\":\"x\"}"]), 5_289_349_720_575_747_827);
    }
}
