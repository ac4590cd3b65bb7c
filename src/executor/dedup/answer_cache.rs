//! Answers that rows share: finds the answer to an earlier equal request and makes it the result of
//! another row.
//!
//! The call was paid for once, so the copy has no usage and no cost of its own. Its last attempt
//! says whose answer it is. Blocks; used while rows are read.

use std::time::Duration;

use crate::domain::batch::dedup::{DedupScope, RequestDigest};
use crate::domain::format::Form;
use crate::domain::id::RowKey;
use crate::domain::money::Usd;
use crate::domain::row::{Attempt, Outcome, RowResult};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::executor::dedup::key::{DedupKey, Moment};
use crate::executor::lane::route::LaneRoute;
use crate::executor::run::row::{PastAttempt, ReadyRow};
use crate::store::Store;

/// How the rows of a batch share answers.
#[derive(Debug, Clone, Copy)]
pub struct AnswerCache {
    pub circle: DedupScope,
    /// The moment at which the store is searched for answers.
    pub at: Moment,
    /// Older answers are not shared with other rows.
    pub max_age: Duration,
}

impl AnswerCache {
    /// The dedup key of a row that is sent on this route.
    pub fn ask(self, route: &LaneRoute, form: Form, body: &[u8]) -> DedupKey {
        DedupKey { request: RequestDigest::of(self.circle, &route.server, &route.upstream, form, body), at: self.at }
    }

    /// The result of a row whose request has been answered before. An answer that cannot be read
    /// now counts as missing: the row then makes its own call.
    pub fn answer(self, store: &Store, key: RowKey, row: &ReadyRow, now: Timestamp) -> Option<RowResult> {
        let since = now.checked_sub(self.max_age).unwrap_or(Timestamp::MIN);
        let found = store.answer_to(row.asked?.request, since).unwrap_or_else(|error| {
            tracing::error!(batch = %key.batch, row = key.row.0, %error, "an earlier answer could not be read");
            None
        })?;
        let Outcome::Succeeded(response) = found.outcome else { return None };
        let mut attempts: Vec<_> = row.history.iter().cloned().map(PastAttempt::into_attempt).collect();
        attempts.push(Attempt {
            lane: format!("cache:{}/{}", found.key.batch, found.custom_id),
            started_at: now,
            latency_ms: 0,
            status: Some(response.status),
            failure: None,
        });
        let custom_id = row.custom_id.clone().into_string();
        let outcome = Outcome::Succeeded(response);
        let operation = row.operation;
        Some(RowResult { key, custom_id, operation, outcome, usage: Usage::default(), cost: Usd::ZERO, attempts, finished_at: now })
    }
}
