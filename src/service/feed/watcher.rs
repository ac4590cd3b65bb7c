//! One watcher for each batch that has followers. The watcher starts with the first follower, ends
//! with the last, and is the only reader of the batch for all of them.
//!
//! The watcher looks when the store has committed something, at most once in [`PACE`], and whenever
//! a follower asks. Followers hold the sending end of its question channel; when the last sender is
//! gone, the watcher ends.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::pacing::{Turn, Turns};
use crate::domain::batch::details::BatchDetails;
use crate::domain::batch::{Batch, BatchState, Progress};
use crate::domain::id::BatchId;
use crate::domain::webhook::event_log::EventLog;
use crate::service::{Service, ServiceError};

/// The least time between two looks that no follower has asked for.
const PACE: Duration = Duration::from_millis(250);
/// Questions that can queue for the watcher; a follower that asks beyond that waits.
const QUESTIONS: usize = 256;

/// The message to the followers of a batch, rendered once for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMessage {
    /// The batch's id, as its own dialect spells it.
    pub id: String,
    /// The batch will not change any more.
    pub ended: bool,
    /// A name for exactly this state.
    pub name: String,
    /// The text, without the parts that depend on the reader.
    pub text: String,
}

/// Renders the message to followers.
pub type Render = fn(&Batch, &BatchDetails) -> BatchMessage;

/// A state of a batch.
#[derive(Debug)]
pub struct Frame {
    /// Grows with every state that is different from the one before.
    pub version: u64,
    /// The batch's id, as its own dialect spells it.
    pub id: String,
    /// `None` if there is no such batch.
    pub message: Option<BatchMessage>,
}

impl Frame {
    /// Whether this is the last frame of interest: the batch has ended, or is gone.
    fn is_last(&self) -> bool {
        self.message.as_ref().is_none_or(|message| message.ended)
    }
}

/// Asks the watcher to look; answered when the watcher has looked.
type Question = oneshot::Sender<()>;

/// The source of a batch's frames while the batch is followed.
#[derive(Debug)]
struct Feed {
    questions: mpsc::WeakSender<Question>,
    frames: watch::Receiver<Arc<Frame>>,
    over: CancellationToken,
}

/// The batches that have followers.
#[derive(Clone)]
pub struct Feeds {
    feeds: Arc<Mutex<HashMap<BatchId, Feed>>>,
    turns: Turns,
    render: Render,
}

impl fmt::Debug for Feeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feeds").field("followed", &self.lock().len()).finish_non_exhaustive()
    }
}

impl Feeds {
    /// No batch has followers yet.
    pub fn new(render: Render) -> Self {
        Self { feeds: Arc::default(), turns: Turns::default(), render }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BatchId, Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a batch.
    pub fn follow(&self, service: &Arc<Service>, id: BatchId) -> Follower {
        let mut feeds = self.lock();
        let turns = self.turns.clone();
        let alive = feeds.get(&id).and_then(|feed| Some((feed.questions.upgrade()?, feed)));
        // A held but closed channel belongs to a watcher that has failed.
        if let Some((questions, feed)) = alive.filter(|(questions, _)| !questions.is_closed()) {
            return Follower { questions, frames: feed.frames.clone(), over: Some(feed.over.clone()), turns, turn: None };
        }
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (sender, frames) = watch::channel(Arc::new(Frame { version: 0, id: id.to_string(), message: None }));
        let over = CancellationToken::new();
        feeds.insert(id, Feed { questions: questions.downgrade(), frames: frames.clone(), over: over.clone() });
        let (feeds, service) = (self.clone(), service.clone());
        let watcher = Watcher { feeds, service, id, questions: asked, frames: sender, over: over.clone(), seen: None };
        watcher.service.tasks.clone().spawn(watcher.run());
        Follower { questions, frames, over: Some(over), turns, turn: None }
    }

    /// Forgets a batch without followers, unless a new follower has come in the meantime.
    fn forget(&self, id: BatchId) {
        let mut feeds = self.lock();
        if feeds.get(&id).is_some_and(|feed| feed.questions.strong_count() == 0) {
            feeds.remove(&id);
        }
    }

    /// The number of batches that have followers.
    #[cfg(test)]
    pub fn followed(&self) -> usize {
        self.lock().len()
    }
}

/// A follower of a batch.
#[derive(Debug)]
pub struct Follower {
    questions: mpsc::Sender<Question>,
    frames: watch::Receiver<Arc<Frame>>,
    /// Signals that the batch has ended; `None` once the follower has been notified of that.
    over: Option<CancellationToken>,
    turns: Turns,
    /// The follower's turn for a change that it has not received yet. Kept here because the waiting
    /// future may be dropped.
    turn: Option<Turn>,
}

impl Follower {
    /// The state as of now or later; `None` if the watcher has failed.
    pub async fn now(&mut self) -> Option<Arc<Frame>> {
        let (question, answer) = oneshot::channel();
        self.questions.send(question).await.ok()?;
        answer.await.ok()?;
        Some(self.latest())
    }

    /// The next state that differs, in turn, and not before `due` unless it is the last one; `None`
    /// if the watcher has failed. Nothing is lost if the future is dropped.
    pub async fn next(&mut self, due: Instant) -> Option<Arc<Frame>> {
        loop {
            match self.turn {
                None => {
                    tokio::select! {
                        () = ended(self.over.as_ref()) => {}
                        () = sleep_until(due) => {}
                    }
                    self.frames.changed().await.ok()?;
                    let is_over = self.over.as_ref().is_some_and(CancellationToken::is_cancelled);
                    let now = Instant::now();
                    self.turn = Some(if is_over { self.turns.end(now) } else { self.turns.progress(now) });
                }
                Some(Turn::Progress(at)) => tokio::select! {
                    biased;
                    () = ended(self.over.as_ref()) => self.turn = Some(self.turns.end(Instant::now())),
                    () = sleep_until(at) => return Some(self.latest()),
                },
                Some(Turn::End(at)) => {
                    sleep_until(at).await;
                    return Some(self.latest());
                }
            }
        }
    }

    fn latest(&mut self) -> Arc<Frame> {
        let frame = self.frames.borrow_and_update().clone();
        self.turn = None;
        if frame.is_last() {
            self.over = None;
        }
        frame
    }
}

/// Waits for the end of a batch; for ever if the follower has been notified of it.
async fn ended(over: Option<&CancellationToken>) {
    match over {
        Some(over) => over.cancelled().await,
        None => std::future::pending().await,
    }
}

struct Watcher {
    feeds: Feeds,
    service: Arc<Service>,
    id: BatchId,
    questions: mpsc::Receiver<Question>,
    frames: watch::Sender<Arc<Frame>>,
    over: CancellationToken,
    /// What the last frame was made from: every visible change of a batch changes one of these in
    /// the same commit. The event log is only present if the batch has a receiver.
    seen: Option<(BatchState, Progress, Option<EventLog>)>,
}

impl Watcher {
    async fn run(mut self) {
        let mut commits = self.service.store.durable_rows();
        let mut due = Instant::now();
        loop {
            let first = tokio::select! {
                asked = self.questions.recv() => match asked {
                    Some(question) => Some(question),
                    None => break,
                },
                changed = async { sleep_until(due).await; commits.changed().await } => match changed {
                    Ok(()) => None,
                    // The store is closed.
                    Err(_) => break,
                },
            };
            // This look answers every follower that asked before it.
            let mut asking: Vec<_> = first.into_iter().collect();
            asking.extend(std::iter::from_fn(|| self.questions.try_recv().ok()));
            commits.mark_unchanged();
            if let Err(error) = self.look().await {
                tracing::error!(batch = %self.id, %error, "a batch can no longer be followed");
                break;
            }
            due = Instant::now() + PACE;
            // Followers that have gone away meanwhile need no answer.
            asking.into_iter().for_each(|question| _ = question.send(()));
        }
        self.feeds.forget(self.id);
    }

    async fn look(&mut self) -> Result<(), ServiceError> {
        if let Some((state, progress, event_log)) = &self.seen {
            let standing = self.service.store.status(self.id).await?;
            let told = match event_log {
                Some(event_log) => self.service.store.event_log(self.id).await?.unwrap_or_default() == *event_log,
                None => true,
            };
            if told && standing.is_some_and(|standing| standing == (*state, *progress)) {
                return Ok(());
            }
        }
        let batch = self.service.store.batch(self.id).await?;
        let (message, seen) = match batch {
            Some(batch) => {
                let details = self.service.details(&batch).await?;
                let message = (self.feeds.render)(&batch, &details);
                (Some(message), Some((batch.state, batch.progress, batch.spec.has_receiver().then_some(details.event_log))))
            }
            None => (None, None),
        };
        self.seen = seen;
        self.frames.send_if_modified(|frame| {
            let changed = frame.version == 0 || frame.message != message;
            if changed {
                let id = message.as_ref().map_or_else(|| frame.id.clone(), |message| message.id.clone());
                *frame = Arc::new(Frame { version: frame.version + 1, id, message });
            }
            changed
        });
        if self.frames.borrow().is_last() {
            self.over.cancel();
        }
        Ok(())
    }
}
