//! What follows a failed attempt, and what follows when a lane is well again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Event};
use crate::domain::batch::dedup::RequestDigest;
use crate::domain::id::RowKey;
use crate::executor::attempt::failed::FailedAttempt;
use crate::executor::attempt::{Ended, Made, record};
use crate::executor::lane::blame::Judged;

/// How long a call may still take that began before its server was restarted: it may have been
/// answered, and the answer be on its way.
const RESTART_GRACE: Duration = Duration::from_secs(2);

impl Dispatcher {
    /// Decides what follows a failed attempt.
    pub(super) fn failed(&mut self, row: RowKey, request: Option<RequestDigest>, failed: FailedAttempt, judged: Option<&Judged>) {
        self.conclude(row, request, failed.conclude(judged));
    }

    /// Concludes a row. A result is stored by a task; the row counts as in flight until then.
    pub(super) fn conclude(&mut self, row: RowKey, request: Option<RequestDigest>, made: Made) {
        match made {
            Made::Ended(ended) => self.concluded(row, request, ended),
            Made::Result(packed) => {
                let (store, events) = (self.parts.store.clone(), self.events.clone());
                self.tasks.spawn(async move {
                    let ended = record(&store, packed).await;
                    let _ = events.send(Event::Concluded { row, request, ended });
                });
            }
        }
    }

    /// Takes the end of an attempt at a row.
    pub(super) fn concluded(&mut self, row: RowKey, request: Option<RequestDigest>, ended: Ended) {
        if let Some(request) = request {
            self.request_ended(request, row, &ended);
        }
        self.ended(row.batch, ended);
    }

    /// Lets the rows that wait for lanes go on soon that are well again, and gives up calls that began
    /// before their server was restarted.
    pub(super) fn hasten(&mut self) {
        for calls in self.lanes.take_restarted() {
            self.tasks.spawn(async move {
                tokio::time::sleep(RESTART_GRACE).await;
                calls.cancel();
            });
        }
        let lanes = self.lanes.take_recovered();
        if lanes.is_empty() {
            return;
        }
        let now = Instant::now();
        for (id, run) in &mut self.runs {
            if run.hasten(&lanes, now) {
                self.touched.insert(*id);
            }
        }
    }
}
