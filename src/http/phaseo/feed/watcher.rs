//! One watcher for each batch that somebody follows. It starts with the first follower, ends with the last, and
//! is the only one that reads the batch for any of them.
//!
//! It looks when the store has committed something, at most once in [`PACE`], and whenever a follower asks.
//! Followers hold the sending end of its questions; when the last of these is gone, so is the watcher.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::domain::batch::{BatchState, Progress};
use crate::domain::id::BatchId;
use crate::domain::telling::Telling;
use crate::http::Api;
use crate::http::error::ApiError;
use crate::http::phaseo::batches::job::Job;
use crate::http::phaseo::batches::object::Around;

/// The least time between two looks that nobody has asked for.
const PACE: Duration = Duration::from_millis(250);
/// Questions that wait for the watcher; whoever asks more waits, too.
const QUESTIONS: usize = 256;

/// A state of a batch.
#[derive(Debug)]
pub struct Frame {
    /// Grows with every state that is different from the one before.
    pub version: u64,
    /// The batch, as its own dialect spells it.
    id: String,
    /// `None` if there is no such batch.
    pub job: Option<Job>,
}

impl Frame {
    /// What is told if there is no such batch any more.
    pub fn deleted(&self) -> Value {
        json!({ "id": self.id, "kind": "batch" })
    }
}

/// Asks the watcher to look, and is answered when it has.
type Question = oneshot::Sender<()>;

/// Where the frames of a batch are to be had while it is followed.
#[derive(Debug)]
struct Feed {
    questions: mpsc::WeakSender<Question>,
    frames: watch::Receiver<Arc<Frame>>,
}

/// The batches that are followed.
#[derive(Debug, Clone, Default)]
pub struct Feeds(Arc<Mutex<HashMap<BatchId, Feed>>>);

impl Feeds {
    fn lock(&self) -> MutexGuard<'_, HashMap<BatchId, Feed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a batch.
    pub fn follow(api: &Arc<Api>, id: BatchId) -> Follower {
        let mut feeds = api.feeds.lock();
        let alive = feeds.get(&id).and_then(|feed| Some((feed.questions.upgrade()?, feed.frames.clone())));
        // One that is closed though it is held belongs to a watcher that has failed.
        if let Some((questions, frames)) = alive.filter(|(questions, _)| !questions.is_closed()) {
            return Follower { questions, frames };
        }
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (sender, frames) = watch::channel(Arc::new(Frame { version: 0, id: id.to_string(), job: None }));
        feeds.insert(id, Feed { questions: questions.downgrade(), frames: frames.clone() });
        let watcher = Watcher { api: api.clone(), id, questions: asked, frames: sender, seen: None };
        api.tasks.spawn(watcher.run());
        Follower { questions, frames }
    }

    /// Forgets a batch that nobody follows; somebody may have begun to again in the meantime.
    fn forget(&self, id: BatchId) {
        let mut feeds = self.lock();
        if feeds.get(&id).is_some_and(|feed| feed.questions.strong_count() == 0) {
            feeds.remove(&id);
        }
    }

    /// How many batches are followed.
    #[cfg(test)]
    pub fn followed(&self) -> usize {
        self.lock().len()
    }
}

/// Somebody who follows a batch.
#[derive(Debug)]
pub struct Follower {
    questions: mpsc::Sender<Question>,
    frames: watch::Receiver<Arc<Frame>>,
}

impl Follower {
    /// The state as it is now, or later; `None` if the watcher has failed.
    pub async fn now(&mut self) -> Option<Arc<Frame>> {
        let (question, answer) = oneshot::channel();
        self.questions.send(question).await.ok()?;
        answer.await.ok()?;
        Some(self.frames.borrow_and_update().clone())
    }

    /// The next state that is different, not before `due`; `None` if the watcher has failed.
    pub async fn next(&mut self, due: Instant) -> Option<Arc<Frame>> {
        sleep_until(due).await;
        self.frames.changed().await.ok()?;
        Some(self.frames.borrow_and_update().clone())
    }
}

struct Watcher {
    api: Arc<Api>,
    id: BatchId,
    questions: mpsc::Receiver<Question>,
    frames: watch::Sender<Arc<Frame>>,
    /// What the last frame was made of: all that is told of a batch changes with one of these, in one commit.
    seen: Option<(BatchState, Progress, Telling)>,
}

impl Watcher {
    async fn run(mut self) {
        let mut commits = self.api.store.durable_rows();
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
            // All who asked before this look are answered by it.
            let mut asking: Vec<_> = first.into_iter().collect();
            asking.extend(std::iter::from_fn(|| self.questions.try_recv().ok()));
            commits.mark_unchanged();
            if let Err(error) = self.look().await {
                tracing::error!(batch = %self.id, code = error.code().as_str(), "a batch can no longer be followed");
                break;
            }
            due = Instant::now() + PACE;
            // Whoever has gone away meanwhile needs no answer.
            asking.into_iter().for_each(|question| _ = question.send(()));
        }
        self.api.feeds.forget(self.id);
    }

    async fn look(&mut self) -> Result<(), ApiError> {
        let telling = self.api.store.telling(self.id).await?.unwrap_or_default();
        let standing = self.api.store.standing(self.id).await?.map(|(state, progress)| (state, progress, telling));
        if standing.is_some() && standing == self.seen {
            return Ok(());
        }
        let batch = self.api.store.batch(self.id).await?;
        let (job, seen) = match batch {
            Some(batch) => {
                let around = Around::of(&self.api, &batch).await?;
                (Some(Job::of(&batch, &around)), Some((batch.state, batch.progress, around.telling)))
            }
            None => (None, None),
        };
        self.seen = seen;
        self.frames.send_if_modified(|frame| {
            let changed = frame.version == 0 || frame.job != job;
            if changed {
                let id = job.as_ref().map_or_else(|| frame.id.clone(), |job| job.id.clone());
                *frame = Arc::new(Frame { version: frame.version + 1, id, job });
            }
            changed
        });
        Ok(())
    }
}
