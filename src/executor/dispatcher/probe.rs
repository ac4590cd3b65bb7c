//! Asks servers whether they are there: the operator's own when no call has shown it for a while,
//! and every server before a row goes out to find out whether it is well again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Event};
use crate::domain::row::retry::FailureClass;
use crate::provider::class_of;

/// How long the answer to a probe may take.
const BUDGET: Duration = Duration::from_secs(10);

/// The outcome of a probe.
#[derive(Debug)]
pub(in crate::executor) struct Probed {
    pool: usize,
    epoch: u32,
    asked: Instant,
    /// The status of the answer, or why there was none.
    answer: Result<u16, (FailureClass, Arc<str>)>,
}

impl Dispatcher {
    /// Probes the servers for which a probe is due.
    pub(super) fn probe(&mut self) {
        if self.draining {
            return;
        }
        let now = Instant::now();
        let suspended = self.lanes.suspended(now);
        for (index, pool) in self.lanes.pools() {
            let wanted = suspended.contains(&index) || pool.wants_probe(now);
            if pool.probing || !wanted || !pool.provider.can_be_asked() {
                continue;
            }
            pool.begin_probe(now);
            let (provider, epoch, events) = (pool.provider.clone(), pool.epoch, self.events.clone());
            self.tasks.spawn(async move {
                let answer = provider.ask(BUDGET).await.map_err(|error| (class_of(&error), error.to_string().into()));
                let _ = events.send(Event::Probed(Probed { pool: index, epoch, asked: now, answer }));
            });
        }
    }

    pub(super) fn probed(&mut self, probed: Probed) {
        let (now, at) = (Instant::now(), self.parts.clock.now());
        let Some(pool) = self.lanes.pool(probed.pool) else { return };
        pool.probing = false;
        if pool.epoch != probed.epoch {
            return;
        }
        self.lanes.on_probed(probed.pool, probed.answer, now, probed.asked, at);
        self.hasten();
    }
}
