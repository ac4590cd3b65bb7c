//! What changes around the running batches: where their rows may go, and how much time they have.

use std::sync::Arc;

use tokio::time::Instant;

use super::Dispatcher;
use crate::domain::batch::plan::Plan;
use crate::domain::id::BatchId;
use crate::domain::time::until;
use crate::executor::lane::routes::{RouteContext, RouteTable, build_routes};
use crate::executor::run::Stop;

/// A batch is `deadline_at_risk` when its remaining time is less than this multiple of the time
/// that it needs.
const MARGIN: f64 = 1.5;

impl Dispatcher {
    pub(super) fn build_routes(&mut self, plan: &Plan) -> Arc<RouteTable> {
        let (catalog, holds) = (self.parts.catalog.current(), self.parts.store.lane_holds());
        build_routes(plan, &RouteContext { catalog: &catalog, holds: &holds, now: Instant::now(), in_haste: false }, &mut self.lanes)
    }

    /// Handles a change of the catalog or of a hold: what makes a provider refuse every request may be
    /// mended.
    pub(super) fn world_changed(&mut self) {
        self.lanes.try_held(Instant::now());
        self.ways_changed();
    }

    /// Handles a change of the catalog, of a hold, or of a lane's health.
    pub(super) fn ways_changed(&mut self) {
        let (catalog, holds, now) = (self.parts.catalog.current(), self.parts.store.lane_holds(), Instant::now());
        self.lanes.refresh(&catalog, now);
        self.lanes.open_local(&catalog);
        self.take_back_quarantined(None);
        for (id, run) in &mut self.runs {
            let around = RouteContext { catalog: &catalog, holds: &holds, now, in_haste: run.in_haste };
            let ways = build_routes(&run.plan, &around, &mut self.lanes);
            log_waiting_models(*id, &run.plan, &run.source.ways.closed(), &ways);
            run.set_ways(ways, now);
            self.touched.insert(*id);
        }
    }

    /// Ends runs whose deadline has passed, and gives precedence to those that would otherwise miss
    /// theirs.
    pub(super) fn look_at_deadlines(&mut self) {
        let started = Instant::now();
        // By the wall clock: the client was given this time, and the clock may have been set
        // meanwhile.
        let now = self.parts.clock.now();
        let (mut expired, mut hurried) = (Vec::new(), false);
        for (id, run) in self.runs.iter_mut().filter(|(_, run)| run.stop.is_none()) {
            let left = until(now, run.spec.deadline());
            if left.is_zero() {
                run.halt(Stop::Expired);
                run.abort.cancel();
                expired.push(*id);
                continue;
            }
            let needed = run.work().filter_map(|(lanes, rows)| self.lanes.time_for(&lanes, rows, started)).max().unwrap_or_default();
            if needed >= left && !run.in_haste {
                run.in_haste = true;
                hurried = true;
            }
            let deadline_at_risk = needed.mul_f64(MARGIN) >= left;
            if deadline_at_risk != run.deadline_at_risk {
                run.deadline_at_risk = deadline_at_risk;
                if needed >= left {
                    tracing::warn!(batch = %id, needed = needed.as_secs(), left = left.as_secs(), "the deadline will pass before all rows are done, at the present pace");
                }
                let weight = run.weight();
                run.lanes().for_each(|lane| self.lanes.weigh(lane, *id, weight));
            }
        }
        for id in expired {
            self.take_back_quarantined(Some(id));
        }
        if hurried {
            self.ways_changed();
        }
    }
}

/// Logs which models' rows have to wait from now on.
pub(super) fn log_waiting_models(batch: BatchId, plan: &Plan, before: &[usize], ways: &RouteTable) {
    for model in ways.closed().into_iter().filter(|model| !before.contains(model)) {
        let model = plan.models.get(model).map(|model| model.requested.as_str());
        tracing::warn!(%batch, model, "rows wait: their lane is held, or no provider serves their model");
    }
}
