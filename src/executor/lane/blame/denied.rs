//! Judges a denial: whether the provider refuses every request of the lane, or only what this row asks.

use tokio::time::Instant;

use super::{APART_AGAIN, Blame, Judged};
use crate::domain::provider::denial::Denial;
use crate::domain::row::retry::Charge;
use crate::executor::lane::call::{CallFailure, CallTicket, OpenFailure, RowSoFar};

impl Blame {
    /// Judges a denial, and whether it is the row's own instead of the lane's.
    ///
    /// A model or a path that the server has never had, while it answers other requests, is the row's own.
    /// What is denied while calls that went out no earlier succeed is charged; a row that may not do what
    /// it asks needs no more than a second opinion, also at the end of a batch, when nothing is left to
    /// succeed, if others got the same. The last one or two rows are charged in doubt, as those of other
    /// failures, but not for a key, which others show to be well or not. No row is charged for an account.
    pub fn on_denied(
        &mut self,
        now: Instant,
        sent: &CallTicket,
        denial: Denial,
        failure: CallFailure,
        (row, asked): (&RowSoFar, u64),
    ) -> (Judged, bool) {
        self.breaker.on_abandoned(sent.at);
        let tally = self.settle(row).and_try();
        let was_well = self.was_well(sent.at, self.outages);
        let has_met = tally.has_met(failure.mark);
        let (is_own, is_final) = match denial {
            Denial::Credit | Denial::Account => (false, false),
            Denial::Model if !self.is_shared => (was_well, false),
            // The server had it before: a restart, or what stands before it.
            Denial::Model | Denial::Path if self.has.contains(&asked) => (was_well || has_met, false),
            Denial::Model | Denial::Path => (self.successes > 0, true),
            Denial::Key => (was_well, false),
            Denial::Access => (was_well || has_met || self.known.contains(&failure.mark), has_met),
        };
        if is_own && is_final && was_well {
            self.remember(failure.mark);
        }
        let tally = if is_own { tally.and(Charge::FULL, failure.class, failure.mark) } else { tally };
        let mut judged = Judged { row: RowSoFar { tally, open: None, ..*row }, is_final: is_own && is_final, ..Judged::default() };
        if is_own && !was_well && !judged.is_final {
            judged.at_least = APART_AGAIN;
        }
        if !is_own && matches!(denial, Denial::Access | Denial::Model | Denial::Path) {
            let (before, retried) = (row.open, row.tally.tries > 0);
            self.streak.count(failure);
            judged.row.open = Some(OpenFailure { sent: sent.at, in_flight: sent.in_flight, outages: self.outages, failure, retried });
            self.doubt(now, &mut judged, before, failure);
        }
        (judged, is_own)
    }
}
