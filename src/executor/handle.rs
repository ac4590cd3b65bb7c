//! What the rest of the daemon may ask of the executor.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::lane::status::{LaneStatuses, SharedLaneStatuses};
use super::prepare::stage::{Stage, Stages};
use crate::domain::batch::priority::ControlChange;
use crate::domain::batch::priority::Owner;
use crate::domain::batch::{Batch, BatchState};
use crate::domain::id::BatchId;
use crate::domain::provider::lane_hold::{Hold, LaneHold, LaneSelector};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;
use crate::store::{HoldOutcome, MAX_HOLDS, Store};

/// The executor has stopped; the daemon is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the executor has stopped")]
pub struct Gone;

/// Why a batch was not cancelled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CancelError {
    #[error("no such batch")]
    NotFound,
    /// The batch has ended, or is being finalized.
    #[error("the batch is {0} and can no longer be cancelled")]
    TooLate(&'static str),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a running batch was not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    #[error("no such batch")]
    NotFound,
    #[error("the batch is {0}; only one that has not ended can be changed")]
    TooLate(&'static str),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why lanes were neither held nor released.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HoldError {
    #[error("{MAX_HOLDS} lanes are held already; resume some first, or hold all lanes of a provider at once")]
    TooMany,
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message to the dispatcher.
#[derive(Debug)]
pub(super) enum Command {
    /// A batch was created, or found unfinished at start.
    Take(BatchId, Owner),
    Cancel(BatchId, oneshot::Sender<Result<BatchState, CancelError>>),
    /// The way that the batch should run has changed; the store has the details. Confirmed once no
    /// row goes out in the old way any more.
    Controlled(BatchId, oneshot::Sender<()>),
    /// Lanes were held or released; the store says which. Confirmed in the same way.
    Held(oneshot::Sender<()>),
}

/// A handle on the executor; clones share it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) store: Store,
    pub(super) wall: SharedLaneStatuses,
    pub(super) stages: Stages,
}

impl Handle {
    /// What the lanes are doing.
    pub fn board(&self) -> Arc<LaneStatuses> {
        self.wall.load_full()
    }

    /// How far a batch that is not yet validated has come.
    pub fn stage(&self, batch: BatchId) -> Stage {
        self.stages.of(batch)
    }

    /// Hands the executor a batch that has just been created. A batch whose creation was
    /// acknowledged is also found at the next start, so a failure here loses nothing.
    ///
    /// # Errors
    /// When the executor has stopped.
    pub async fn take(&self, id: BatchId, owner: Owner) -> Result<(), Gone> {
        self.commands.send(Command::Take(id, owner)).await.map_err(|_| Gone)
    }

    /// Stops a batch: no further row is dispatched, and rows in flight may finish. Returns the
    /// batch once its new state is durable. Cancelling a batch that is already being cancelled is
    /// not an error.
    ///
    /// # Errors
    /// When there is no such batch or it has ended.
    pub async fn cancel(&self, id: BatchId) -> Result<Batch, CancelError> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(Command::Cancel(id, sender)).await.map_err(|_| Gone)?;
        receiver.await.map_err(|_| Gone)??;
        self.store.batch(id).await?.ok_or(CancelError::NotFound)
    }

    /// Changes how a batch runs: its priority, or whether it is paused. Returns the batch once the
    /// change is durable and no row goes out against it any more; calls in flight go on.
    ///
    /// # Errors
    /// When there is no such batch or it has ended.
    pub async fn control(&self, id: BatchId, change: ControlChange) -> Result<Batch, ControlError> {
        let changed = self.store.control_batch(id, change).await?;
        let batch = self.store.batch(id).await?.ok_or(ControlError::NotFound)?;
        if changed.is_none() {
            return Err(ControlError::TooLate(batch.state.as_str()));
        }
        self.confirmed(|done| Command::Controlled(id, done)).await?;
        Ok(batch)
    }

    /// Holds lanes, or releases those that were held by exactly this selector. Returns once the
    /// change is durable and no row goes out against it any more; calls in flight go on.
    ///
    /// # Errors
    /// When too many lanes are held already.
    pub async fn hold_lane(&self, lane: LaneSelector, hold: Option<Hold>, now: Timestamp) -> Result<(), HoldError> {
        match self.store.hold_lane(lane, hold, now).await? {
            HoldOutcome::Done => {}
            HoldOutcome::TooMany => return Err(HoldError::TooMany),
        }
        self.confirmed(Command::Held).await?;
        Ok(())
    }

    /// Sends a change to the dispatcher and waits until the dispatcher has applied it: a client
    /// that is answered that something is paused must not see a call go out after that.
    async fn confirmed(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<(), Gone> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| Gone)?;
        receiver.await.map_err(|_| Gone)
    }

    /// The holds on lanes.
    pub fn lane_holds(&self) -> Arc<Vec<LaneHold>> {
        self.store.lane_holds()
    }
}

/// The dispatcher's end of a handle, for tests of code that holds a handle.
#[cfg(test)]
#[derive(Debug)]
pub struct Stub(Arc<std::sync::Mutex<Inbox>>);

/// The messages that have arrived for the missing dispatcher.
#[cfg(test)]
#[derive(Debug)]
pub struct Inbox {
    commands: mpsc::Receiver<Command>,
    kept: std::collections::VecDeque<Command>,
}

#[cfg(test)]
impl Inbox {
    /// Takes the arrived messages; changes of what runs are confirmed, all others are kept.
    fn look(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Controlled(_, done) | Command::Held(done) => _ = done.send(()),
                other @ (Command::Take(..) | Command::Cancel(..)) => self.kept.push_back(other),
            }
        }
    }
}

#[cfg(test)]
impl Stub {
    /// The next of the kept commands.
    fn next(&self) -> Option<Command> {
        let mut inbox = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inbox.look();
        inbox.kept.pop_front()
    }

    /// The batches handed over since the last look.
    pub fn taken(&mut self) -> Vec<BatchId> {
        let commands = std::iter::from_fn(|| self.next());
        commands.filter_map(|command| if let Command::Take(id, _) = command { Some(id) } else { None }).collect()
    }

    /// Answers the next cancellation.
    pub async fn answer_cancel(&mut self, answer: Result<BatchState, CancelError>) {
        loop {
            match self.next() {
                Some(Command::Cancel(_, sender)) => return drop(sender.send(answer)),
                Some(_) => {}
                None => tokio::task::yield_now().await,
            }
        }
    }
}

#[cfg(test)]
impl Drop for Stub {
    /// Closes the inbox for good, even while it is being looked at.
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).commands.close();
    }
}

#[cfg(test)]
impl Handle {
    /// A handle served only by the stub, which confirms changes for as long as it lives.
    pub fn for_tests(store: Store) -> (Self, Stub) {
        let (commands, receiver) = mpsc::channel(64);
        let inbox = Arc::new(std::sync::Mutex::new(Inbox { commands: receiver, kept: std::collections::VecDeque::new() }));
        let seen = Arc::downgrade(&inbox);
        std::thread::spawn(move || {
            while let Some(inbox) = seen.upgrade() {
                inbox.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).look();
                drop(inbox);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        (Self { commands, store, wall: SharedLaneStatuses::default(), stages: Stages::default() }, Stub(inbox))
    }
}
