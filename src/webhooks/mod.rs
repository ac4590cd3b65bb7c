//! Notifies receivers about batches: writes the message, signs it, sends it, and retries. One
//! engine serves three forms: BatchRouter's messages and OpenAI's events report that a batch has
//! ended, Phaseo's messages also report earlier events.
//!
//! A message is in the store before it is first sent and until it is delivered or given up, so no
//! message is lost when the daemon dies; a message may then be sent once more. Its content is the
//! text that was first written.
//!
//! Messages are written by one loop and sent by another, so that neither waits for the other.
//!
//! Not here: which receiver a message goes to (the batch, or its organisation, says so) and the
//! queue (the store's).

mod batchrouter;
mod courier;
mod ended;
mod envelope;
mod openai;
mod phaseo;
mod places;
mod sender;
mod test_sender;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::courier::Post;
use self::ended::EndWriter;
use self::phaseo::EventScanner;
pub use self::phaseo::Render;
use self::places::Places;
use self::sender::Sender;
pub use self::test_sender::TestSender;
use crate::descriptors::Descriptors;
use crate::domain::time::Clock;
use crate::domain::webhook::target_policy::Targets;
use crate::provider::SetupError;
use crate::store::Store;
use crate::store::error::StoreError;

/// How often the queue and the batches are checked.
const PACE: Duration = Duration::from_millis(500);
/// Batches whose messages are written at a time.
const WRITERS: usize = 64;

/// How messages are sent.
#[derive(Clone)]
pub struct WebhookSettings {
    /// The beginning of links to results, without a path; without it, messages have no links.
    pub base_url: Option<String>,
    pub targets: Targets,
    /// The wait after the first failed attempt.
    pub retry_base: Duration,
    /// Whether to send the headers of Standard Webhooks as well.
    pub standard: bool,
    /// Writes the content of Phaseo's messages.
    pub render: Render,
}

/// Sends messages for as long as it runs.
pub struct Webhooks {
    post: Arc<Post>,
    ends: EndWriter,
    newsroom: EventScanner,
}

impl Webhooks {
    /// A courier over a store.
    ///
    /// # Errors
    /// When the system's certificates cannot be used.
    pub fn new(store: Store, clock: Clock, descriptors: Descriptors, settings: WebhookSettings) -> Result<Self, SetupError> {
        let ends = EndWriter { store: store.clone(), clock: clock.clone(), base_url: settings.base_url };
        let newsroom = EventScanner::new(store.clone(), clock.clone(), settings.render);
        let sender = Sender::new(settings.targets, settings.standard, descriptors)?;
        let post = Post { store, clock, sender, retry_base: settings.retry_base, places: Arc::new(Places::default()) };
        Ok(Self { post: Arc::new(post), ends, newsroom })
    }

    /// Returns a sender of test messages that works like this courier.
    pub fn tester(&self) -> TestSender {
        TestSender(self.post.clone())
    }

    /// Runs until `drain`, and until every attempt under way then has succeeded or failed. A
    /// message whose attempt does not end in time is sent again after the next start.
    pub async fn run(mut self, drain: CancellationToken) {
        let sending = courier::run(self.post.clone(), drain.clone());
        // What is not written by then is written after the next start.
        let writing = drain.run_until_cancelled(self.write());
        tokio::join!(sending, writing);
    }

    async fn write(&mut self) {
        let mut pace = ticks(PACE);
        loop {
            pace.tick().await;
            if let Err(error) = self.write_pending().await {
                tracing::error!(%error, "messages to receivers have to wait");
            }
        }
    }

    /// Writes the messages that are pending.
    async fn write_pending(&mut self) -> Result<(), StoreError> {
        self.newsroom.round().await?;
        self.ends.round().await
    }
}

/// Ticks of a pace that a late one does not make up for.
fn ticks(pace: Duration) -> Interval {
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
