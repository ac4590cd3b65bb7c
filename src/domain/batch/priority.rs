//! How a contended lane is shared: the owner of a batch, its urgency, and whether it is paused.

use std::fmt;
use std::str::FromStr;

use crate::domain::id::OrgId;

/// The owner of work, for shares between clients: the first eight bytes of the SHA-256 of the
/// operator's API key, or a part of the number of an organisation. All clients that need no key are
/// one owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

impl Owner {
    /// The owner of a key with this SHA-256; zeros stand for no key.
    pub fn of_key(digest: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The owner of everything that an organisation has created.
    pub fn of_org(org: OrgId) -> Self {
        // Only the lower half is random.
        let [.., a, b, c, d, e, f, g, h] = org.as_u128().to_be_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// How large a batch's share of a contended lane is. It may change while the batch runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Urgent,
}

impl Priority {
    /// From the smallest share to the largest.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// The word for the priority on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }

    /// The weight of the priority. Two batches on a lane share it in the ratio of their weights.
    pub const fn weight(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Normal => 4,
            Self::High => 16,
            Self::Urgent => 64,
        }
    }

    /// The number of the priority on disk. Never changes.
    pub const fn code(self) -> u8 {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
            Self::Urgent => 3,
        }
    }

    /// The priority that has this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word names no priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `low`, `normal`, `high` or `urgent`")]
pub struct NoPriority;

impl FromStr for Priority {
    type Err = NoPriority;

    fn from_str(word: &str) -> Result<Self, NoPriority> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == word).ok_or(NoPriority)
    }
}

/// What may be changed about a batch while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    pub priority: Priority,
    /// No row of the batch is dispatched until it is resumed. Its deadline does not move.
    pub paused: bool,
}

/// A request to change part of a `Control`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ControlChange {
    pub priority: Option<Priority>,
    pub paused: Option<bool>,
}

impl ControlChange {
    /// The control after the change.
    #[must_use]
    pub fn on(self, control: Control) -> Control {
        Control { priority: self.priority.unwrap_or(control.priority), paused: self.paused.unwrap_or(control.paused) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_lead_back_to_their_priority_and_more_urgent_weighs_more() {
        for priority in Priority::ALL {
            assert_eq!(priority.as_str().parse(), Ok(priority));
            assert_eq!(Priority::from_code(priority.code()), Some(priority));
        }
        assert_eq!((Priority::from_code(4), "Urgent".parse::<Priority>()), (None, Err(NoPriority)));
        assert!(Priority::ALL.windows(2).all(|pair| pair[0].weight() < pair[1].weight() && pair[0] < pair[1]));
    }
}
