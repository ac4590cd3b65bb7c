//! Asks the operator's own servers whether they are reachable: when no call has shown it for a
//! while, and instead of sending a row when the server could not be reached.

use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Event};
use crate::domain::row::retry::FailureClass;
use crate::executor::lane::provider::ProviderState;
use crate::provider::class_of;

/// How long a server may be silent before it is probed.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the answer to a probe may take.
const BUDGET: Duration = Duration::from_secs(10);

/// The outcome of a probe.
#[derive(Debug)]
pub(in crate::executor) struct Probed {
    pool: usize,
    epoch: u32,
    asked: Instant,
    /// `None` if there was an answer, whatever it said.
    failure: Option<FailureClass>,
}

impl Dispatcher {
    /// Probes the servers for which a probe is due.
    pub(super) fn probe(&mut self) {
        if self.draining {
            return;
        }
        let now = Instant::now();
        for (index, pool) in self.lanes.pools() {
            if !pool.is_local || pool.probing || !wants_probe(pool, now) || !pool.provider.can_be_asked() {
                continue;
            }
            pool.begin_probe(now);
            let (provider, epoch, events) = (pool.provider.clone(), pool.epoch, self.events.clone());
            self.tasks.spawn(async move {
                let failure = provider.ask(BUDGET).await.err().map(|error| class_of(&error));
                let _ = events.send(Event::Probed(Probed { pool: index, epoch, asked: now, failure }));
            });
        }
    }

    pub(super) fn probed(&mut self, probed: &Probed) {
        let at = self.parts.clock.now();
        if let Some((_, pool)) = self.lanes.pools().nth(probed.pool) {
            pool.probing = false;
            if pool.epoch == probed.epoch {
                pool.heard = Instant::now();
                pool.learn(Some(probed.failure), Instant::now(), probed.asked, at);
            }
        }
    }
}

fn wants_probe(pool: &ProviderState, now: Instant) -> bool {
    pool.reach().needs_probe(now) || (pool.in_flight_gauge.in_flight == 0 && now.saturating_duration_since(pool.heard) >= SILENCE)
}
