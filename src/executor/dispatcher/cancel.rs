//! Cancels a batch, whatever work is in progress on it.

use tokio::time::sleep;

use super::{Busy, CancelReply, Dispatcher, Event};
use crate::domain::batch::{BatchEvent, BatchState};
use crate::domain::id::BatchId;
use crate::executor::handle::CancelError;
use crate::executor::prepare::cancel_stored;
use crate::executor::run::Stop;

impl Dispatcher {
    /// Cancels a batch; the reply comes once the new state is durable.
    pub(super) fn cancel(&mut self, id: BatchId, reply: CancelReply) {
        if self.runs.contains_key(&id) {
            self.cancel_run(id, reply);
            return;
        }
        match self.busy.get_mut(&id) {
            Some(Busy::Preparing { cancels, .. }) => {
                cancels.push(reply);
                self.stop_preparing(id);
            }
            // The batch is being cancelled already, or has just ended; its stored state says which.
            Some(Busy::Finishing(BatchState::Cancelling { .. }) | Busy::Cancelling) => self.cancel_stored(id, reply, false),
            Some(Busy::Finishing(state)) => drop(reply.send(Err(CancelError::TooLate(state.as_str())))),
            None => {
                self.busy.insert(id, Busy::Cancelling);
                self.cancel_stored(id, reply, true);
            }
        }
    }

    fn cancel_run(&mut self, id: BatchId, reply: CancelReply) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        match run.state.apply(BatchEvent::CancelRequested, self.parts.clock.now()) {
            // The batch has expired already, and only waits for its last rows.
            Ok(_) if run.stop == Some(Stop::Expired) => drop(reply.send(Err(CancelError::TooLate("finalizing")))),
            Ok(state) => {
                let first = run.stop.is_none();
                run.state = state;
                if first {
                    run.halt(Stop::Cancelled);
                    let grace = self.settings.cancel_grace;
                    for (abort, wait) in [(run.abort_hosted.clone(), grace.hosted), (run.abort_local.clone(), grace.local)] {
                        self.tasks.spawn(async move {
                            sleep(wait).await;
                            abort.cancel();
                        });
                    }
                }
                if first {
                    self.take_back_quarantined(Some(id));
                }
                self.touched.insert(id);
                self.persist(id, state, reply);
            }
            Err(conflict) => drop(reply.send(Err(CancelError::TooLate(conflict.state)))),
        }
    }

    fn persist(&self, id: BatchId, state: BatchState, reply: CancelReply) {
        let store = self.parts.store.clone();
        self.tasks.spawn(async move {
            let answer = store.batch_moved(id, state).await.map(|()| state).map_err(CancelError::from);
            drop(reply.send(answer));
        });
    }

    fn cancel_stored(&self, id: BatchId, reply: CancelReply, retake: bool) {
        let (store, clock, events) = (self.parts.store.clone(), self.parts.clock.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let answer = cancel_stored(&store, &clock, id).await;
            if retake {
                let _ = events.send(Event::Retake(id));
            }
            drop(reply.send(answer));
        });
    }
}
