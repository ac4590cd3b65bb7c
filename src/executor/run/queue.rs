//! The rows of one lane in a run: those that can be sent, and those that must be read again.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::row::{ReadyRow, WaitingRow};
use crate::domain::row::prefix::Opening;
use crate::executor::lane::blame::Pick;

/// The rows of one lane. Those that are tried again stand in front: no row ends late because many
/// others wait to be tried for the first time.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<ReadyRow>,
    /// Of the ready rows, those that were tried before.
    again: usize,
    /// Bytes of the bodies of these rows.
    bytes: usize,
    /// Rows that are due and must be read again now.
    pub due: VecDeque<WaitingRow>,
}

impl Queue {
    /// Number of rows that can be sent.
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Number of rows that can be sent and were tried before.
    pub const fn again(&self) -> usize {
        self.again
    }

    /// Bytes of the bodies of the rows that can be sent.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The row that is sent last.
    pub fn last(&self) -> Option<&ReadyRow> {
        self.ready.back()
    }

    pub fn push(&mut self, row: ReadyRow) {
        self.bytes += row.body.len();
        if row.is_fresh() {
            self.ready.push_back(row);
        } else {
            self.again += 1;
            self.ready.push_front(row);
        }
    }

    /// Keeps the rows that `keeps` lets stay among the last `count`, and returns the others.
    pub fn split_off(&mut self, count: usize, keeps: impl Fn(&ReadyRow) -> bool) -> Vec<ReadyRow> {
        let last = self.ready.split_off(self.ready.len().saturating_sub(count));
        let (kept, taken): (Vec<_>, Vec<_>) = last.into_iter().partition(keeps);
        self.ready.extend(kept);
        self.again -= taken.iter().filter(|row| !row.is_fresh()).count();
        self.bytes -= taken.iter().map(|row| row.body.len()).sum::<usize>();
        taken
    }

    /// All rows, without their bodies, to be read again.
    pub fn into_waiting(self, now: Instant) -> impl Iterator<Item = WaitingRow> {
        self.ready.into_iter().map(move |row| row.wait_until(now)).chain(self.due)
    }

    /// Takes a ready row: of those that are next, one that is the server's own, if there is any.
    pub fn take(&mut self, pick: Pick, is_own: Option<&dyn Fn(u64) -> bool>) -> Option<ReadyRow> {
        let any = || fastrand::usize(..self.ready.len().max(1));
        let index = match pick {
            Pick::Next => is_own.and_then(|is_own| self.first_own(is_own)).unwrap_or(0),
            Pick::Any => any(),
            Pick::Probe => {
                let fresh: Vec<_> = (0..self.ready.len()).filter(|index| self.ready[*index].is_fresh()).collect();
                fastrand::choice(&fresh).copied().unwrap_or_else(any)
            }
        };
        let row = self.ready.remove(index)?;
        self.bytes -= row.body.len();
        self.again -= usize::from(!row.is_fresh());
        Some(row)
    }

    /// The first row that is a server's own. Rows that begin alike stand together, so each beginning is
    /// looked at once or little more.
    fn first_own(&self, is_own: &dyn Fn(u64) -> bool) -> Option<usize> {
        let mut last = None;
        self.ready.iter().position(|row| {
            let Some(family) = row.opening.as_ref().map(Opening::family) else { return false };
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
}
