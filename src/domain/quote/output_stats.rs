//! How long the answers of a lane have been so far.

/// The number of answers from which a mean is used.
const ENOUGH: u64 = 20;
/// The number of answers after which the older half counts for less: what a lane did last year
/// tells little.
const MAX_ANSWERS: u64 = 1_000_000;

/// A count of the answers of one lane to one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputStats {
    pub answers: u64,
    /// The total tokens of the answers, reasoning included.
    pub output_tokens: u64,
}

impl OutputStats {
    /// These answers and more.
    #[must_use]
    pub fn and(self, answers: u64, output_tokens: u64) -> Self {
        let sum = Self { answers: self.answers.saturating_add(answers), output_tokens: self.output_tokens.saturating_add(output_tokens) };
        match sum.answers > MAX_ANSWERS {
            true => Self { answers: sum.answers / 2, output_tokens: sum.output_tokens / 2 },
            false => sum,
        }
    }

    /// The average tokens of an answer, rounded up; `None` before there are enough answers.
    pub fn mean(&self) -> Option<u64> {
        (self.answers >= ENOUGH).then(|| self.output_tokens.div_ceil(self.answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mean_needs_some_answers() {
        assert_eq!(OutputStats::default().and(19, 1_900).mean(), None);
        assert_eq!(OutputStats::default().and(19, 1_900).and(1, 101).mean(), Some(101));
    }

    proptest! {
        #[test]
        fn the_mean_of_alike_answers_is_theirs(length in 0_u64..100_000, batches in prop::collection::vec(1_u64..400_000, 1..20)) {
            let observed = batches.iter().fold(OutputStats::default(), |sum, answers| sum.and(*answers, answers * length));
            prop_assert!(observed.answers <= MAX_ANSWERS);
            if let Some(mean) = observed.mean() {
                prop_assert!(mean.abs_diff(length) <= 1);
            }
            let huge = OutputStats { answers: u64::MAX, output_tokens: u64::MAX };
            prop_assert!(huge.and(u64::MAX, u64::MAX).mean().is_some());
        }
    }
}
