//! An attempt that failed, until it is decided what follows: another attempt, another lane, or the
//! failure as the row's result.
//!
//! The dispatcher decides with what the lane's other calls have met ([`Judged`]).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use super::{Attempt, Ended, Made};
use crate::domain::money::Usd;
use crate::domain::row::retry::{Charge, Decision, FailureClass, decide};
use crate::domain::row::{Outcome, Response, RowError};
use crate::domain::time::until;
use crate::domain::usage::Usage;
use crate::executor::lane::blame::Judged;
use crate::executor::lane::call::{Met, RowSoFar};
use crate::executor::run::row::{REMEMBERED, WaitingRow};

/// An attempt that failed. Its row has no body any more.
pub(in crate::executor) struct FailedAttempt {
    pub attempt: Box<Attempt>,
    pub class: FailureClass,
    pub message: String,
    /// The provider's response, if there was one.
    pub last: Option<Response>,
}

impl std::fmt::Debug for FailedAttempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailedAttempt").field("class", &self.class).field("message", &self.message).finish_non_exhaustive()
    }
}

/// Stands for what a provider answered: the same for answers that differ only in numbers and ids.
pub(super) fn mark_of(class: FailureClass, message: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    class.code().hash(&mut hasher);
    if let FailureClass::Unavailable { status, .. } | FailureClass::Denied { status, .. } | FailureClass::Refused { status } = class {
        status.hash(&mut hasher);
    }
    let words = message.split_whitespace().filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
    words.for_each(|word| word.hash(&mut hasher));
    // 0 stands for nothing that was answered.
    (hasher.finish() as u32).max(1)
}

impl FailedAttempt {
    /// Whether a call was made.
    pub fn was_sent(&self) -> bool {
        self.class != FailureClass::FileUnreachable
    }

    /// Decides what follows. `judged` is what the failure costs the row; `None` if it says nothing
    /// about row and lane.
    pub fn conclude(mut self, judged: Option<&Judged>) -> Made {
        let before = self.attempt.row.met.get();
        let mut so_far = judged.map_or(RowSoFar { tally: before.tally.and_try(), ..before }, |judged| judged.row);
        if self.class == FailureClass::FileUnreachable {
            so_far.tally = so_far.tally.and(Charge::FULL, self.class, mark_of(self.class, &self.message));
        }
        self.attempt.row.met = so_far.into();
        let at_least = judged.map(|judged| judged.at_least).unwrap_or_default();
        // The row was alone on its lane and has broken the connection again, so no other row can be
        // the cause.
        let proven = self.attempt.alone && self.class == FailureClass::Interrupted;
        let is_denied = matches!(self.class, FailureClass::Denied { .. });
        if is_denied && (self.other_lane().is_some() || judged.is_some_and(|judged| judged.is_final)) {
            return self.elsewhere(proven);
        }
        match self.decision(at_least, judged.is_some_and(|judged| judged.is_hurried)) {
            Decision::RetryAt(_) if proven => self.give_up(),
            // Another row may have been the cause each time. This row gets an attempt of its own
            // before it fails.
            Decision::GiveUp if self.class == FailureClass::Interrupted && !self.attempt.alone => {
                self.attempt.row.met = RowSoFar { tally: so_far.tally.suspected(), ..so_far }.into();
                self.again(Instant::now())
            }
            Decision::GiveUp => self.elsewhere(proven),
            // A row that was not charged need not wait for its lane where another one takes it.
            Decision::RetryAt(_) if self.has_tried_enough() && self.other_lane().is_some() => self.elsewhere(proven),
            Decision::RetryAt(at) => {
                let wait = until(self.attempt.context.clock.now(), at);
                self.again(Instant::now() + wait)
            }
            Decision::PastDeadline => Made::Ended(Ended::Parked(self.waiting(Instant::now()))),
        }
    }

    fn decision(&self, at_least: Duration, is_hurried: bool) -> Decision {
        let Attempt { context, spec, row, .. } = &*self.attempt;
        let so_far = row.met.get();
        if so_far.is_used_up(&context.policy) {
            return Decision::GiveUp;
        }
        let times = (context.clock.now(), spec.deadline());
        let tally = if is_hurried { so_far.tally.hurried() } else { so_far.tally };
        decide(self.class, tally, &context.policy, times, at_least, fastrand::f64())
    }

    fn has_tried_enough(&self) -> bool {
        let Attempt { context, row, .. } = &*self.attempt;
        row.met.tries() >= context.policy.max_attempts && !matches!(self.class, FailureClass::RateLimited { .. })
    }

    /// The next lane that may do better.
    fn other_lane(&self) -> Option<u16> {
        self.attempt.ways.next_fallback(self.attempt.row.route).filter(|_| self.class.may_differ_elsewhere())
    }

    /// Sends the row to another lane if one may do better; otherwise the failure is its result.
    fn elsewhere(mut self, proven: bool) -> Made {
        let row = &self.attempt.row;
        match self.other_lane().filter(|_| !proven) {
            Some(other) => {
                let (batch, reason) = (self.attempt.spec.id, self.class.code());
                tracing::debug!(%batch, row = row.at.row.0, reason, "the row goes to another lane");
                (self.attempt.row.route, self.attempt.row.met) = (other, Met::default());
                self.again(Instant::now())
            }
            None => self.give_up(),
        }
    }

    fn again(self, due: Instant) -> Made {
        Made::Ended(Ended::Again(self.waiting(due)))
    }

    fn waiting(self, due: Instant) -> Box<WaitingRow> {
        let mut row = self.attempt.row;
        if let Some(response) = self.last {
            row.last = Some(response).filter(|response| response.body.len() <= REMEMBERED);
        }
        Box::new(row.wait_until(due))
    }

    fn give_up(mut self) -> Made {
        let outcome = match (self.class, self.last.take()) {
            // With a status of success, only the error says that the answer is none.
            (FailureClass::Denied { .. } | FailureClass::Refused { .. }, Some(response)) if response.status >= 300 => {
                Outcome::Rejected(response)
            }
            (class, last) => {
                let error = RowError { code: class.code().to_owned(), message: self.explain() };
                Outcome::Failed { error, last: last.or_else(|| self.attempt.row.last.take()) }
            }
        };
        self.attempt.result(outcome, Usage::default(), Usd::ZERO)
    }

    fn explain(&self) -> String {
        let message = &self.message;
        let alone = if self.attempt.alone { ", the last one with no other row beside it" } else { "" };
        match self.attempt.row.history.len() {
            0 | 1 => message.clone(),
            // Attempts that are not remembered one by one are only counted.
            attempts => {
                let tries = usize::try_from(self.attempt.row.met.tries()).unwrap_or(usize::MAX).max(attempts);
                format!("{message} (after {tries} attempts{alone})")
            }
        }
    }
}
