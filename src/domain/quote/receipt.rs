//! Where the items of a batch ran and what that cost, summed up when the batch ended.

use crate::domain::id::RowIndex;
use crate::domain::money::Usd;
use crate::domain::usage::Usage;
use crate::domain::vocabulary::Operation;

/// The lanes of a batch and what ran on them. Rows that never reached a provider are in no lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// In the order in which the lanes first served an item.
    pub lanes: Vec<LaneReceipt>,
    /// Items whose result is damaged on disk. They are in no lane.
    pub unreadable: u32,
}

/// What one lane did for a batch, for one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneReceipt {
    /// The provider's id; `cache` for answers that were already stored.
    pub provider: String,
    /// The provider's name for the model.
    pub upstream: String,
    /// The model's name; empty if the plan does not know the lane.
    pub model: String,
    pub operation: Option<Operation>,
    /// Items whose last attempt was on this lane.
    pub items: u32,
    /// Items among them that the lane answered.
    pub answered: u32,
    /// Items among them that were planned for another lane, which failed.
    pub taken_over: u32,
    pub usage: Usage,
    /// What its provider charges, in US dollars.
    pub cost: Usd,
    /// The rows of the items; `None` if they are too scattered to be listed.
    pub rows: Option<Rows>,
}

/// The most ranges that are kept for the rows of a lane.
const MAX_RANGES: usize = 1_000;

/// Row numbers in ascending order, as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows(Vec<(u32, u32)>);

impl Rows {
    /// The rows in these ranges, each from its first to its last row.
    pub fn from_ranges(ranges: Vec<(u32, u32)>) -> Self {
        Self(ranges)
    }

    /// The first and the last row of each range.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// These rows and one row behind them; `None` if that makes too many ranges.
    #[must_use]
    pub fn and(mut self, row: RowIndex) -> Option<Self> {
        let many = self.0.len();
        match self.0.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(row.0) => *last = row.0,
            _ if many == MAX_RANGES => return None,
            _ => self.0.push((row.0, row.0)),
        }
        Some(self)
    }

    /// Iterates over the row numbers.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_as_ranges_of_a_bounded_number() {
        let of = |rows: &[u32]| rows.iter().try_fold(Rows::default(), |all, row| all.and(RowIndex(*row)));
        let some = of(&[0, 1, 2, 5, 7, 8]).unwrap();
        assert_eq!(some.ranges(), [(0, 2), (5, 5), (7, 8)]);
        assert_eq!(some.iter().collect::<Vec<_>>(), [0, 1, 2, 5, 7, 8]);
        assert!(of(&(0..2_000).map(|row| row * 2).collect::<Vec<_>>()).is_none());
        assert_eq!(of(&(0..100_000).collect::<Vec<_>>()).unwrap().ranges(), [(0, 99_999)]);
    }
}
