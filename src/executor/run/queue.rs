//! The rows of one lane in a run: those that can be sent, and those that must be read again.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::row::{ReadyRow, WaitingRow};
use crate::domain::row::prefix::Opening;
use crate::executor::lane::blame::Pick;

/// One of so many rows is one that is tried again, while both kinds wait.
const TURNS: u32 = 4;

/// The rows of one lane. Those that are tried again take turns with fresh ones: none of them ends late
/// because many others wait, and many of them leave places for calls that may succeed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Rows that were not tried yet.
    fresh: VecDeque<ReadyRow>,
    /// Rows that were tried before.
    again: VecDeque<ReadyRow>,
    /// Fresh rows that were taken since the latest one that was tried before.
    since_again: u32,
    /// Bytes of the bodies of these rows.
    bytes: usize,
    /// Rows that are due and must be read again now.
    pub due: VecDeque<WaitingRow>,
}

impl Queue {
    /// Number of rows that can be sent.
    pub fn len(&self) -> usize {
        self.fresh.len() + self.again.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of rows that can be sent and were tried before.
    pub fn again(&self) -> usize {
        self.again.len()
    }

    /// Bytes of the bodies of the rows that can be sent.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The fresh row that is sent last.
    pub fn last(&self) -> Option<&ReadyRow> {
        self.fresh.back()
    }

    pub fn push(&mut self, row: ReadyRow) {
        self.bytes += row.body.len();
        if row.is_fresh() { self.fresh.push_back(row) } else { self.again.push_back(row) }
    }

    /// Puts a row back that was taken and not sent: it is next.
    pub fn put_back(&mut self, row: ReadyRow) {
        self.bytes += row.body.len();
        if row.is_fresh() { self.fresh.push_front(row) } else { self.again.push_front(row) }
    }

    /// Takes out the rows that `moves` names among the last `count`.
    pub fn take_last(&mut self, count: usize, moves: impl Fn(&ReadyRow) -> bool) -> Vec<ReadyRow> {
        let first = self.len().saturating_sub(count);
        let (mut taken, mut index) = (Vec::new(), 0);
        for rows in [&mut self.again, &mut self.fresh] {
            for row in std::mem::take(rows) {
                if index >= first && moves(&row) {
                    taken.push(row)
                } else {
                    rows.push_back(row)
                }
                index += 1;
            }
        }
        self.bytes -= taken.iter().map(|row| row.body.len()).sum::<usize>();
        taken
    }

    /// All rows, without their bodies, to be read again.
    pub fn into_waiting(self, now: Instant) -> impl Iterator<Item = WaitingRow> {
        self.again.into_iter().chain(self.fresh).map(move |row| row.wait_until(now)).chain(self.due)
    }

    /// Takes a ready row: of those that are next, one that is the server's own, if there is any.
    pub fn take(&mut self, pick: Pick, is_own: Option<&dyn Fn(u64) -> bool>) -> Option<ReadyRow> {
        let is_turn = pick != Pick::Probe && self.since_again + 1 >= TURNS;
        let is_again = (is_turn || self.fresh.is_empty()) && !self.again.is_empty();
        let rows = if is_again { &mut self.again } else { &mut self.fresh };
        let index = match pick {
            Pick::Next => is_own.and_then(|is_own| first_own(rows, is_own)).unwrap_or(0),
            Pick::Any | Pick::Probe => fastrand::usize(..rows.len().max(1)),
        };
        let row = rows.remove(index)?;
        self.since_again = if is_again { 0 } else { self.since_again.saturating_add(1) };
        self.bytes -= row.body.len();
        Some(row)
    }
}

/// The first row that is a server's own. Rows that begin alike stand together, so each beginning is
/// looked at once or little more.
fn first_own(rows: &VecDeque<ReadyRow>, is_own: &dyn Fn(u64) -> bool) -> Option<usize> {
    let mut last = None;
    rows.iter().position(|row| {
        let Some(family) = row.opening.as_deref().map(Opening::family) else { return false };
        match last {
            Some((known, is)) if known == family => is,
            _ => {
                let is = is_own(family);
                last = Some((family, is));
                is
            }
        }
    })
}
