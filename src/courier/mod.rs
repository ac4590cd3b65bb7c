//! Tells receivers that batches have ended: writes the message, signs it, sends it, and tries again.
//!
//! A message is in the store before it is sent for the first time and until it is delivered or given up,
//! so none is lost when the daemon dies; it may then be sent once more. It is sent as it was written at
//! first, byte by byte.
//!
//! Not here: who the receiver is (the batch, or its organisation, says so) and the queue (the store's).

mod message;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::message::Writer;
use self::sender::{SendError, Sender};
use crate::domain::batch::{Batch, Order};
use crate::domain::delivery::Delivery;
use crate::domain::id::{BatchId, EventId};
use crate::domain::target::Targets;
use crate::domain::time::Clock;
use crate::domain::webhook::Webhook;
use crate::provider::SetupError;
use crate::store::{Store, StoreError};

/// Messages that are sent at the same time, and those of them to one receiver: one that is slow must not
/// hold up the others.
const AT_ONCE: usize = 64;
const TO_ONE: usize = 8;
/// Messages and notes that are looked at in one go.
const LOOK: usize = 1_024;
/// How often the queue is looked at.
const PACE: Duration = Duration::from_millis(500);

/// How messages are sent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The beginning of links to results, without a path.
    pub base_url: String,
    pub targets: Targets,
    /// The wait after the first attempt that failed.
    pub retry_base: Duration,
}

/// Sends messages for as long as it runs.
pub struct Courier {
    post: Arc<Post>,
    writer: Writer,
}

/// What it takes to send a message.
struct Post {
    store: Store,
    clock: Clock,
    sender: Sender,
    retry_base: Duration,
}

/// Messages that are being sent, and the hosts they go to.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<Result<EventId, StoreError>>,
    hosts: HashMap<EventId, String>,
}

impl UnderWay {
    fn has_place_for(&self, delivery: &Delivery) -> bool {
        let host = host(delivery);
        let same = self.hosts.values().filter(|each| **each == host).count();
        self.hosts.len() < AT_ONCE && same < TO_ONE && !self.hosts.contains_key(&delivery.id)
    }
}

/// The host of a receiver.
fn host(delivery: &Delivery) -> String {
    delivery.webhook.url.parse::<http::Uri>().ok().and_then(|url| Some(url.authority()?.to_string())).unwrap_or_default()
}

impl Courier {
    /// A courier over a store.
    ///
    /// # Errors
    /// When the system's certificates cannot be used.
    pub fn new(store: Store, clock: Clock, settings: Settings) -> Result<Self, SetupError> {
        let writer = Writer { base_url: settings.base_url };
        let sender = Sender::new(settings.targets)?;
        Ok(Self { post: Arc::new(Post { store, clock, sender, retry_base: settings.retry_base }), writer })
    }

    /// Runs until `drain`; messages that are on their way then are sent again after the next start.
    pub async fn run(self, drain: CancellationToken) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut under_way = UnderWay::default();
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                Some(ended) = under_way.tasks.join_next() => match ended {
                    Ok(Ok(event)) => _ = under_way.hosts.remove(&event),
                    Ok(Err(error)) => tracing::error!(%error, "what became of a message could not be recorded"),
                    Err(error) => tracing::error!(%error, "sending a message ended unexpectedly"),
                },
                _ = pace.tick() => {
                    if under_way.tasks.is_empty() {
                        // What could not be recorded is tried again.
                        under_way.hosts.clear();
                    }
                    if let Err(error) = self.round(&mut under_way).await {
                        tracing::error!(%error, "messages to receivers have to wait");
                    }
                }
            }
        }
    }

    /// Writes what is to be told, and begins to send what is due.
    async fn round(&self, under_way: &mut UnderWay) -> Result<(), StoreError> {
        let store = &self.post.store;
        for batch in store.notices(LOOK).await? {
            let delivery = self.write(batch).await?;
            store.answer_notice(batch, delivery).await?;
        }
        for delivery in store.due_deliveries(self.post.clock.now(), LOOK).await? {
            if under_way.has_place_for(&delivery) {
                under_way.hosts.insert(delivery.id, host(&delivery));
                under_way.tasks.spawn(self.post.clone().try_once(delivery));
            }
        }
        Ok(())
    }

    /// The message about a batch, if somebody wants to know.
    async fn write(&self, id: BatchId) -> Result<Option<Delivery>, StoreError> {
        let Post { store, clock, .. } = &*self.post;
        let Some(batch) = store.batch(id).await? else { return Ok(None) };
        let Some(webhook) = self.receiver(&batch).await? else { return Ok(None) };
        let charged = store.reservation(id).await?.and_then(|reservation| reservation.settlement).unwrap_or_default().charged;
        let now = clock.now();
        let Some((id, body)) = self.writer.write(&batch, charged, store.seal(), now) else { return Ok(None) };
        Ok(Some(Delivery { id, batch: batch.spec.id, webhook, body, created_at: now, attempts: 0, due_at: now }))
    }

    /// The batch's own receiver, or that of its organisation.
    async fn receiver(&self, batch: &Batch) -> Result<Option<Webhook>, StoreError> {
        let own = match &batch.spec.order {
            Order::Items(order) => order.webhook.clone(),
            Order::Rows { .. } => None,
        };
        match own {
            Some(webhook) => Ok(Some(webhook)),
            None => Ok(self.post.store.org(batch.spec.org).await?.and_then(|org| org.webhook)),
        }
    }
}

impl Post {
    /// Makes one attempt, and records what became of it.
    async fn try_once(self: Arc<Self>, delivery: Delivery) -> Result<EventId, StoreError> {
        let outcome = match self.store.seal().unseal(&delivery.webhook.sealed_secret) {
            Ok(secret) => self.sender.send(&delivery, &secret).await,
            Err(error) => Err(SendError::Secret(error)),
        };
        let (event, batch) = (delivery.id.in_hex(), delivery.batch);
        let next = match outcome {
            Ok(()) => {
                tracing::info!(event, %batch, attempts = delivery.attempts + 1, "message delivered");
                None
            }
            Err(error) => {
                let next = delivery.clone().failed(self.retry_base, self.clock.now());
                match &next {
                    Some(next) => tracing::warn!(event, %batch, %error, next = %next.due_at, "message not delivered; trying again"),
                    None => tracing::error!(event, %batch, %error, "message given up"),
                }
                next
            }
        };
        let id = delivery.id;
        self.store.delivery_tried(delivery, next).await.map(|()| id)
    }
}
