//! Where the items of a batch ran and what that cost, summed up when the batch ended.

use crate::domain::id::RowIndex;
use crate::domain::money::Usd;
use crate::domain::usage::Usage;
use crate::domain::vocabulary::Operation;

/// What ran where. Rows that never reached a provider are in none of the lanes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// In the order in which they first served an item.
    pub lanes: Vec<LaneReceipt>,
    /// Items whose result is damaged on the disk; they are in no lane.
    pub unreadable: u32,
}

/// What one lane did for a batch, for one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneReceipt {
    /// The provider's id; `cache` for answers that were there already.
    pub provider: String,
    /// The provider's name for the model.
    pub upstream: String,
    /// The model's name; empty if the plan does not know the lane.
    pub model: String,
    pub operation: Option<Operation>,
    /// Items whose last attempt was there.
    pub items: u32,
    /// Those of them that it answered.
    pub answered: u32,
    /// Those of them that were planned for another lane, which failed.
    pub taken_over: u32,
    pub usage: Usage,
    /// What its provider charges, in US dollars.
    pub cost: Usd,
    /// Which items they are; `None` if they lie too scattered to be told.
    pub rows: Option<Rows>,
}

/// The most ranges that are kept of the rows of a lane.
const MAX_RANGES: usize = 1_000;

/// Numbers of rows, in ascending order, as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows(Vec<(u32, u32)>);

impl Rows {
    /// Rows in these ranges, each from its first to its last.
    pub fn from_ranges(ranges: Vec<(u32, u32)>) -> Self {
        Self(ranges)
    }

    /// The first and the last of each range.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// These rows and one behind them; `None` if they become too many ranges.
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

    /// One by one.
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
