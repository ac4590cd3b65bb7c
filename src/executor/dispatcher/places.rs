//! Which batches are prepared, and which run: both in places that are shared by owner.
//!
//! A run whose every lane rests could do nothing with a place. It gives its place to any other run
//! that could, and gets one back when a lane of it may be tried again, or when nobody else wants it.

use std::cmp::Reverse;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Busy, CancelReply, Dispatcher, Event};
use crate::domain::batch::priority::{Owner, Priority};
use crate::domain::id::BatchId;
use crate::domain::time::Timestamp;
use crate::executor::lane::Lanes;
use crate::executor::prepare::stage::Stage;
use crate::executor::prepare::{Prepare, Prepared};
use crate::executor::run::{Run, RunPlace};
use crate::flow::places::Places;

/// The places of runs. Of one owner's runs the most urgent come first, then those that are due first.
pub(super) type RunPlaces = Places<BatchId, Owner, (Reverse<Priority>, Timestamp)>;
/// The places of batches that are being prepared. Of one owner's batches the oldest come first.
pub(super) type PreparingPlaces = Places<BatchId, Owner, ()>;

/// Takes note of what decides on a run's right to a place.
fn put(places: &mut RunPlaces, lanes: &Lanes, run: &Run, now: Instant) {
    let rank = (Reverse(run.control.priority), run.spec.deadline());
    let sleeps = run.in_flight == 0 && lanes.all_rest(&run.source.ways, now);
    places.put(run.spec.id, run.spec.owner, rank, sleeps);
}

impl Dispatcher {
    /// Gives places to the runs that have a right to them.
    pub(super) fn activate(&mut self) {
        while let Some(id) = self.places.give() {
            self.begin(id);
        }
        let now = Instant::now();
        while let Some((loser, id)) = self.places.exchange(|held, wanted| wanted.0 < held.0) {
            if let Some(run) = self.runs.get_mut(&loser) {
                run.give_place_up(now);
            }
            self.begin(id);
        }
    }

    fn begin(&mut self, id: BatchId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.place = RunPlace::Active;
            self.touched.insert(id);
        }
    }

    /// Lets a run wait for a place that has work to do.
    pub(super) fn queue(&mut self, id: BatchId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.place = RunPlace::Queued;
            put(&mut self.places, &self.lanes, run, Instant::now());
        }
    }

    /// Frees the place of a run.
    pub(super) fn deactivate(&mut self, id: BatchId) {
        self.places.remove(id);
        if let Some(run) = self.runs.get_mut(&id) {
            run.place = RunPlace::Inactive;
        }
    }

    /// Takes note of a run's priority, if it has a place or waits for one.
    pub(super) fn rank_anew(&mut self, id: BatchId) {
        if let Some(run) = self.runs.get(&id).filter(|run| run.place != RunPlace::Inactive) {
            put(&mut self.places, &self.lanes, run, Instant::now());
        }
    }

    /// Finds out which runs could do nothing with a place.
    pub(super) fn look_for_sleepers(&mut self, now: Instant) {
        for run in self.runs.values().filter(|run| run.place != RunPlace::Inactive) {
            put(&mut self.places, &self.lanes, run, now);
        }
    }

    /// Prepares a batch as soon as it is its turn; `cancels` arrived before that and are answered
    /// after it.
    pub(super) fn prepare(&mut self, id: BatchId, owner: Owner, cancels: Vec<CancelReply>) {
        let stop = CancellationToken::new();
        if !cancels.is_empty() {
            stop.cancel();
        }
        self.seen.stages.set(id, Stage::Queued);
        self.busy.insert(id, Busy::Preparing { owner, stop, cancels });
        self.preparing.put(id, owner, (), false);
        self.prepare_next();
    }

    /// Prepares the batches whose turn it is.
    pub(super) fn prepare_next(&mut self) {
        while let Some(id) = self.preparing.give() {
            let Some(Busy::Preparing { stop, .. }) = self.busy.get(&id) else {
                self.preparing.remove(id);
                continue;
            };
            let prepare = Prepare {
                store: self.parts.store.clone(),
                catalog: self.parts.catalog.clone(),
                clock: self.parts.clock.clone(),
                limits: self.settings.input,
                stages: self.seen.stages.clone(),
                lists: self.lists.clone(),
                stop: stop.clone(),
            };
            let events = self.events.clone();
            self.tasks.spawn(async move {
                let prepared = Box::new(prepare.run(id).await);
                let _ = events.send(Event::Prepared { batch: id, prepared });
            });
        }
    }

    /// Stops the preparation of a batch; one whose turn has not come needs none.
    pub(super) fn stop_preparing(&mut self, id: BatchId) {
        if let Some(Busy::Preparing { stop, .. }) = self.busy.get(&id) {
            stop.cancel();
        }
        if self.preparing.waits(id) {
            self.prepared(id, Prepared::Nothing);
        }
    }
}
