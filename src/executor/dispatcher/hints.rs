//! Asks the operator's own servers about their load while calls are with them, so that a lane need
//! not find out by trying what its server can say.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Dispatcher, Event};
use crate::domain::provider::server_hints::ServerHints;
use crate::executor::lane::provider::ProviderState;

/// How often a server is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How often one is asked in which no more than so many calls may wait.
const EVERY_BOUND: Duration = Duration::from_millis(500);
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
        let wanted: Vec<_> = self.lanes.wanted().collect();
        for (index, pool) in self.lanes.pools() {
            let is_bound = pool.max_waiting().is_some();
            // A server with a bound is asked before calls go there, too.
            let is_used = pool.in_flight_gauge.in_flight > 0 || (is_bound && wanted.contains(&index));
            if !(pool.is_local || is_bound) || !pool.is_up() || !is_used || !pool.begin_hints(now, every(pool)) {
                continue;
            }
            ask(&self.tasks, &self.events, index, pool, Duration::ZERO);
        }
    }

    pub(super) fn hinted(&mut self, hinted: &Hinted) {
        let now = Instant::now();
        self.lanes.on_hints(hinted.pool, hinted.epoch, hinted.hints, now);
        let Some(pool) = self.lanes.pool(hinted.pool) else { return };
        // More often than the dispatcher looks by itself.
        let is_due = pool.max_waiting().is_some() && pool.is_listed && pool.is_up() && pool.in_flight_gauge.in_flight > 0;
        if is_due && !self.draining && pool.begin_hints(now, Duration::ZERO) {
            ask(&self.tasks, &self.events, hinted.pool, pool, EVERY_BOUND);
        }
    }
}

/// How often a server is asked.
fn every(pool: &ProviderState) -> Duration {
    if pool.max_waiting().is_some() { EVERY_BOUND } else { EVERY }
}

/// Asks a server after a while.
fn ask(tasks: &TaskTracker, events: &mpsc::UnboundedSender<Event>, index: usize, pool: &ProviderState, after: Duration) {
    let (provider, epoch, events) = (pool.provider.clone(), pool.epoch, events.clone());
    tasks.spawn(async move {
        tokio::time::sleep(after).await;
        let hints = tokio::time::timeout(BUDGET, provider.hints(BUDGET)).await.unwrap_or_default();
        // The dispatcher is gone only if the daemon stops.
        let _ = events.send(Event::Hinted(Hinted { pool: index, epoch, hints }));
    });
}
