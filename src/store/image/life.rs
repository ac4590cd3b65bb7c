//! The lives of a page: which changes belong to the same one as a word about where the page begins.
//!
//! A page is freed and used again, with another range. Each life begins with a whole form of the
//! page and ends with a message that the page is free. A damaged log may lack both, and then a
//! change of one life follows a word about another. Every message lies in a chain of messages
//! between which nothing is lost, so in one chain the lives of a page are known.
//!
//! Invariant: two places in one chain are in the same life of a page, unless a message between them
//! begins or ends one.

use super::survey::Stretch;

/// Which messages follow each other without a loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chain {
    /// Equal for messages between which no message is missing.
    whole: u32,
    /// Equal for messages between which no message is lost: segments between them may be missing
    /// that were freed.
    damage: u32,
}

impl Chain {
    /// Whether no life of a page can have begun or ended unseen between two messages. sled frees a
    /// segment once all that it says of pages was said again, later. So a freed segment hides a
    /// life only if that later message is lost, which cannot be if the two messages are so late
    /// that there `is_no_loss` behind them.
    pub fn is_unbroken(self, other: Self, is_no_loss: bool) -> bool {
        self == other || (self.damage == other.damage && is_no_loss)
    }
}

/// Numbers the chains, from the start of the log.
#[derive(Debug, Default)]
pub(super) struct Chains {
    now: Chain,
    /// The segment and the run of the last stretch, and whether its segment ends with it.
    last: Option<(u64, u32, bool)>,
}

impl Chains {
    /// The chain of the next stretch. Stretches must come in the order of the log.
    pub fn of(&mut self, segment: u64, stretch: &Stretch, are_absent_lost: bool) -> Chain {
        let is_same_run = self.last.is_some_and(|(last, run, _)| last == segment && run == stretch.run);
        let is_next = stretch.is_head && self.last.is_some_and(|(.., ended)| ended);
        let is_adjacent = is_next && self.last.is_some_and(|(last, ..)| last + 1 == segment);
        self.last = Some((segment, stretch.run, stretch.ends_segment()));
        self.now.whole += u32::from(!is_same_run && !is_adjacent);
        self.now.damage += u32::from(!is_same_run && !is_adjacent && (are_absent_lost || !is_next));
        self.now
    }
}

/// Where a leaf begins, as the newest word about it says.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Begin {
    pub lo: Vec<u8>,
    pub page: u64,
    /// The log sequence numbers of all words that say the same, and their chains.
    pub said: Vec<(u64, Chain)>,
}

impl Begin {
    /// Takes note of what a whole page at `lsn` says.
    pub fn say(&mut self, lo: Vec<u8>, lsn: u64, chain: Chain) {
        let newest = self.said.iter().map(|(lsn, _)| *lsn).max();
        if newest.is_none_or(|newest| lsn >= newest && lo != self.lo) {
            (self.lo, self.said) = (lo, vec![(lsn, chain)]);
        } else if lo == self.lo {
            self.said.push((lsn, chain));
        }
    }
}
