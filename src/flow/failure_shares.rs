//! Whose failures those of a lane are, judged by how many of its calls succeed around the same time.
//!
//! Three things look alike from one row: a row that cannot be answered, a server that is full and
//! refuses most calls, and a server that fails now and then. They differ in what becomes of rows
//! that are tried again: rows that were refused for lack of room succeed about as often as fresh
//! ones, rows that cannot be answered never do.
//!
//! Pure. Invariant: while no call succeeds, nothing is charged.

/// Successes that are assumed at first, so that a few failures prove nothing.
const ASSUMED: u32 = 24;
/// From this share of successes on a failure is charged in full: the lane is well.
const WELL: f64 = 0.9;
/// Below this share of successes the server may be full.
const CROWDED: f64 = 0.95;
/// Calls after which earlier ones count half: at least so many, and so many times those that are out at
/// a time, because answers and failures may come in turns of as many.
const MEMORY: u32 = 128;
const TURNS: u32 = 4;
/// Successes that retried rows must owe, by the share of fresh ones, before their failures are their
/// own.
const OWED: f64 = 5.0;
/// Retried rows succeed less than fresh ones by at least this factor if their failures are their own.
const FAR_LESS: f64 = 20.0;

/// How many calls succeeded and failed lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Outcomes {
    succeeded: u32,
    failed: u32,
}

impl Outcomes {
    const fn total(self) -> u32 {
        self.succeeded + self.failed
    }

    const fn halved(self) -> Self {
        Self { succeeded: self.succeeded / 2, failed: self.failed / 2 }
    }

    fn count(&mut self, succeeded: bool) {
        if succeeded {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// The outcomes of a lane's calls while the lane was well enough for some to succeed.
#[derive(Debug, Clone, Copy)]
pub struct FailureShares {
    /// Successes that no call had.
    assumed: u32,
    /// First tries of rows.
    fresh: Outcomes,
    /// Further tries.
    retried: Outcomes,
}

impl Default for FailureShares {
    fn default() -> Self {
        Self { assumed: ASSUMED, fresh: Outcomes::default(), retried: Outcomes::default() }
    }
}

impl FailureShares {
    /// Counts a call; `retried` says whether its row had failed before, and `level` about how many calls
    /// are out at a time.
    pub fn count(&mut self, succeeded: bool, retried: bool, level: u32) {
        if self.fresh.total() + self.retried.total() >= MEMORY.max(level.saturating_mul(TURNS)) {
            *self = Self { assumed: self.assumed / 2, fresh: self.fresh.halved(), retried: self.retried.halved() };
        }
        if retried { self.retried.count(succeeded) } else { self.fresh.count(succeeded) }
    }

    /// How much of an attempt a failure costs its row, from 0 to 1.
    pub fn charge(&self) -> f64 {
        let share = self.share();
        if self.fresh.succeeded + self.retried.succeeded == 0 {
            0.0
        } else if share >= WELL || self.are_the_rows_own() {
            1.0
        } else {
            // Squared: a row that was refused by chance, again and again, must not fail for it.
            share * share
        }
    }

    /// Whether so many calls fail that the server may be full.
    pub fn are_crowded(&self) -> bool {
        self.share() < CROWDED && !self.are_the_rows_own()
    }

    /// Whether hardly any row that was tried again has succeeded: what failed once fails for its own reasons.
    pub fn do_retries_fail(&self) -> bool {
        f64::from(self.retried.succeeded) * FAR_LESS <= f64::from(self.retried.failed)
    }

    fn share(&self) -> f64 {
        let succeeded = f64::from(self.assumed + self.fresh.succeeded + self.retried.succeeded);
        succeeded / (succeeded + f64::from(self.fresh.failed + self.retried.failed))
    }

    fn are_the_rows_own(&self) -> bool {
        if self.fresh.total() == 0 {
            return false;
        }
        let owed = f64::from(self.retried.total()) * f64::from(self.fresh.succeeded) / f64::from(self.fresh.total());
        owed >= OWED && f64::from(self.retried.succeeded) * FAR_LESS < owed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn after(calls: impl IntoIterator<Item = (bool, bool)>) -> FailureShares {
        let mut shares = FailureShares::default();
        calls.into_iter().for_each(|(succeeded, retried)| shares.count(succeeded, retried, 1));
        shares
    }

    /// Drives rows over a server that takes each try with the same chance, but never a row whose
    /// number `bad_in` divides. Returns how many good rows used up six attempts, and the tries of a
    /// bad row while good ones were left.
    fn drive(rows: u32, bad_in: u32, chance: f64, seed: u64) -> (u32, u32) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut shares = FailureShares::default();
        let mut queue: VecDeque<_> = (0..rows).map(|row| (row, 0_u32, 0.0_f64)).collect();
        let is_bad = |row: u32| bad_in > 0 && row.is_multiple_of(bad_in);
        let (mut lost, mut most_tries, mut left) = (0, 0, (0..rows).filter(|row| !is_bad(*row)).count());
        while let Some((row, tries, charged)) = queue.pop_front().filter(|_| left > 0) {
            let succeeded = !is_bad(row) && random.f64() < chance;
            shares.count(succeeded, tries > 0, 1);
            let charged = charged + shares.charge();
            let has_ended = succeeded || charged >= 6.0;
            if !has_ended {
                queue.push_back((row, tries + 1, charged));
            } else if is_bad(row) {
                most_tries = most_tries.max(tries + 1);
            } else {
                left -= 1;
                lost += u32::from(!succeeded);
            }
        }
        (lost, most_tries)
    }

    #[test]
    fn a_server_that_takes_one_call_in_many_loses_no_row() {
        for seed in 0..20 {
            for chance in [0.9, 0.7, 0.5, 0.2, 1.0 / 16.0, 1.0 / 64.0] {
                assert_eq!(drive(1_000, 0, chance, seed).0, 0, "{chance}");
            }
        }
    }

    #[test]
    fn rows_that_are_never_answered_end_soon_and_cost_no_other_row() {
        for seed in 0..20 {
            for bad_in in [2, 3, 10, 100] {
                let (lost, tries) = drive(2_000, bad_in, 0.98, seed);
                assert!(lost == 0 && tries <= 12, "one in {bad_in}: {lost} lost, {tries} tries");
            }
            let (lost, _) = drive(2_000, 100, 0.3, seed);
            assert_eq!(lost, 0);
        }
    }

    #[test]
    fn while_nothing_succeeds_nothing_is_charged() {
        let shares = after([(false, false); 100]);
        assert_eq!(shares.charge(), 0.0);
        assert!(shares.are_crowded());
        assert_eq!(after([(true, false); 100]).charge(), 1.0);
        assert!(!after([(true, false); 100]).are_crowded());
    }
}
