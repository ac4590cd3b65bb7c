//! Rows that make the same request: one is sent, the others wait for its answer.

use super::Dispatcher;
use crate::domain::batch::BatchSpec;
use crate::domain::batch::dedup::RequestDigest;
use crate::domain::id::{BatchId, RowKey};
use crate::executor::attempt::Ended;
use crate::executor::dedup::answer_cache::AnswerCache;
use crate::executor::dedup::single_flight::{DedupDecision, Follower, Outlook};
use crate::executor::run::row::ReadyRow;

impl Dispatcher {
    /// How the rows of a batch share answers, if they do.
    pub(super) fn shared(&self, spec: &BatchSpec) -> Option<AnswerCache> {
        let circle = self.settings.dedup.circle(spec.id, spec.owner)?;
        Some(AnswerCache { circle, at: self.sharing.now(), max_age: self.settings.dedup_max_age })
    }

    /// Whether a row that could be sent is sent, or waits for the answer to an equal request
    /// instead. Rows that have been tried do not wait: what is known of them would be lost.
    pub(super) fn is_sent(&mut self, batch: BatchId, row: &ReadyRow) -> bool {
        let Some(asked) = row.asked.filter(|_| row.is_fresh()) else { return true };
        let turn = self.sharing.turn(asked, (batch, row.at));
        let Some(run) = self.runs.get_mut(&batch) else { return true };
        match turn {
            DedupDecision::Send => {}
            DedupDecision::Follow => run.follow(),
            DedupDecision::Read => {
                run.follow();
                run.unfollow(row.at);
            }
        }
        turn == DedupDecision::Send
    }

    /// Handles the end of an attempt at a request.
    pub(super) fn request_ended(&mut self, request: RequestDigest, row: RowKey, ended: &Ended) {
        let outlook = match ended {
            Ended::Recorded { success: true, .. } => Outlook::Answered,
            Ended::Recorded { success: false, .. } => Outlook::Failed,
            Ended::Again(_) | Ended::NotSent(_) | Ended::Parked(_) | Ended::Aborted(_) | Ended::StoreGone => Outlook::Open,
        };
        let released = self.sharing.ended(request, row, outlook);
        self.release(released);
    }

    /// Releases rows whose awaited answer has become durable, so that they find it now. Must be
    /// called with every event: an answer may be durable before its attempt is known to have ended.
    pub(super) fn settle_shared(&mut self) {
        if !self.sharing.is_settling() {
            return;
        }
        let runs = &self.runs;
        // A run that has ended has only durable results.
        let released = self.sharing.settle(|row| runs.get(&row.batch).is_none_or(|run| run.source.live.is_done(row.row)));
        self.release(released);
    }

    fn release(&mut self, rows: Vec<Follower>) {
        for (batch, row) in rows {
            if let Some(run) = self.runs.get_mut(&batch) {
                run.unfollow(row);
                self.touched.insert(batch);
            }
        }
    }
}
