//! The rows of one lane in a run: those that can be sent, and those that must be read again.

use std::collections::VecDeque;

use super::row::{ReadyRow, WaitingRow};
use crate::domain::row::prefix::Opening;
use crate::executor::lane::blame::Pick;

/// The rows of one lane.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub ready: VecDeque<ReadyRow>,
    /// Bytes of the bodies of these rows.
    pub bytes: usize,
    /// Rows that are due and must be read again now.
    pub due: VecDeque<WaitingRow>,
}

impl Queue {
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
        self.ready.remove(index)
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
