//! Asks the operator's own servers about their load while calls are with them, so that a lane need
//! not find out by trying what its server can say.

use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Event};
use crate::domain::provider::server_hints::ServerHints;

/// How often a server is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How long the answer may take.
const BUDGET: Duration = Duration::from_secs(5);

/// What a server said.
#[derive(Debug)]
pub(in crate::executor) struct Hinted {
    pool: usize,
    epoch: u32,
    hints: ServerHints,
}

impl Dispatcher {
    /// Asks the servers that are due.
    pub(super) fn ask_for_hints(&mut self) {
        if self.draining {
            return;
        }
        let now = Instant::now();
        for (index, pool) in self.lanes.pools() {
            if !pool.is_local || !pool.is_up() || pool.in_flight_gauge.in_flight == 0 || !pool.begin_hints(now, EVERY) {
                continue;
            }
            let (provider, epoch, events) = (pool.provider.clone(), pool.epoch, self.events.clone());
            self.tasks.spawn(async move {
                let hints = tokio::time::timeout(BUDGET, provider.hints(BUDGET)).await.unwrap_or_default();
                // The dispatcher is gone only if the daemon stops.
                let _ = events.send(Event::Hinted(Hinted { pool: index, epoch, hints }));
            });
        }
    }

    pub(super) fn hinted(&mut self, hinted: &Hinted) {
        self.lanes.on_hints(hinted.pool, hinted.epoch, hinted.hints, Instant::now());
    }
}
