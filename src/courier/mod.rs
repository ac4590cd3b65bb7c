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

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use self::message::Writer;
use self::sender::{SendError, Sender};
use crate::domain::batch::{Batch, Order};
use crate::domain::delivery::{Delivery, Route};
use crate::domain::id::{BatchId, EventId, OrgId};
use crate::domain::target::Targets;
use crate::domain::time::Clock;
use crate::domain::webhook::Webhook;
use crate::provider::SetupError;
use crate::store::{Choice, Due, Store, StoreError};

/// Messages that are sent at the same time, those of them of one organisation, those to one host, and those
/// of one organisation to one host: a receiver that is slow must not hold up the others.
const AT_ONCE: usize = 64;
const OF_ORG: usize = 16;
const TO_HOST: usize = 24;
const OF_ORG_TO_HOST: usize = 8;
/// Notes that are turned into messages in one go.
const NOTES: usize = 1_024;
/// Messages of an organisation that are due and looked at in one go: most may be for receivers that have to wait.
const LOOK: usize = 2_000;
/// How often the queue is looked at.
const PACE: Duration = Duration::from_millis(500);

/// How messages are sent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The beginning of links to results, without a path; without it messages have none.
    pub base_url: Option<String>,
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

/// Messages that are being sent.
struct UnderWay {
    tasks: JoinSet<Result<(), StoreError>>,
    messages: HashMap<task::Id, (EventId, Route)>,
    /// The organisation, or the next one, whose messages are looked at first.
    first: OrgId,
}

impl UnderWay {
    fn begin(&mut self, post: &Arc<Post>, delivery: Delivery) {
        let about = (delivery.id, delivery.route());
        let id = self.tasks.spawn(post.clone().try_once(delivery)).id();
        self.messages.insert(id, about);
    }

    /// Waits until one is done; `None` if there is none.
    async fn done(&mut self) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, Ok(()))) => id,
            Ok((id, Err(error))) => {
                tracing::error!(%error, "what became of a message could not be recorded; it is sent again");
                id
            }
            Err(error) => {
                tracing::error!(%error, "sending a message ended unexpectedly");
                error.id()
            }
        };
        self.messages.remove(&id);
        Some(())
    }

    /// The places that are taken.
    fn slots(&self) -> Slots {
        let mut slots = Slots::default();
        for (event, route) in self.messages.values() {
            slots.take(*event, *route);
        }
        slots
    }
}

/// Who gets to send.
#[derive(Debug, Default)]
struct Slots {
    events: HashSet<EventId>,
    orgs: HashMap<OrgId, usize>,
    hosts: HashMap<u128, usize>,
    routes: HashMap<Route, usize>,
}

impl Slots {
    /// Takes a place for a message, if it is not being sent and there is one.
    fn take(&mut self, event: EventId, route: Route) -> Choice {
        let org = self.orgs.entry(route.org).or_default();
        if self.events.len() >= AT_ONCE || *org >= OF_ORG {
            return Choice::Enough;
        }
        let (host, both) = (self.hosts.entry(route.host).or_default(), self.routes.entry(route).or_default());
        if *host >= TO_HOST || *both >= OF_ORG_TO_HOST || !self.events.insert(event) {
            return Choice::Pass;
        }
        (*org, *host, *both) = (*org + 1, *host + 1, *both + 1);
        Choice::Take
    }
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

    /// Runs until `drain`, and until what is on its way then has arrived or not. What does not end in time is
    /// sent again after the next start.
    pub async fn run(self, drain: CancellationToken) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut under_way = UnderWay { tasks: JoinSet::new(), messages: HashMap::new(), first: OrgId::OPERATOR };
        loop {
            tokio::select! {
                () = drain.cancelled() => break,
                Some(()) = under_way.done() => {}
                _ = pace.tick() => {
                    if let Err(error) = self.round(&mut under_way).await {
                        tracing::error!(%error, "messages to receivers have to wait");
                    }
                }
            }
        }
        while under_way.done().await.is_some() {}
    }

    /// Writes what is to be told, and begins to send what is due.
    async fn round(&self, under_way: &mut UnderWay) -> Result<(), StoreError> {
        let store = &self.post.store;
        for batch in store.notices(NOTES).await? {
            let delivery = match self.write(batch).await {
                Err(StoreError::Damaged(error)) => {
                    tracing::error!(%batch, %error, "nobody can be told of the end of a batch: its record is damaged");
                    None
                }
                written => written?,
            };
            store.answer_notice(batch, delivery).await?;
        }
        let mut slots = under_way.slots();
        let take = move |event, route| slots.take(event, route);
        // Whoever was served first is served last the next time.
        let mut turn = None;
        for due in store.due_deliveries(self.post.clock.now(), under_way.first, LOOK, take).await? {
            match due {
                Due::Message(delivery) => {
                    turn.get_or_insert(delivery.org);
                    under_way.begin(&self.post, *delivery);
                }
                Due::Lost { key, reason } => {
                    tracing::error!(reason, "a message to a receiver cannot be read and is given up");
                    store.drop_delivery(key).await?;
                }
            }
        }
        if let Some(served) = turn {
            under_way.first = OrgId::from_u128(served.as_u128().wrapping_add(1));
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
        Ok(Some(Delivery { id, batch: batch.spec.id, org: batch.spec.org, webhook, body, created_at: now, attempts: 0, due_at: now }))
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
    async fn try_once(self: Arc<Self>, delivery: Delivery) -> Result<(), StoreError> {
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
        self.store.delivery_tried(delivery, next).await
    }
}
