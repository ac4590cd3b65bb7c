//! Notifies receivers about batches: writes the message, signs it, sends it, and retries. One
//! engine serves two forms: BatchRouter's messages report that a batch has ended, Phaseo's also
//! report earlier events.
//!
//! A message is in the store before it is first sent and until it is delivered or given up, so no
//! message is lost when the daemon dies; a message may then be sent once more. Its content is the
//! text that was first written.
//!
//! Not here: which receiver a message goes to (the batch, or its organisation, says so) and the
//! queue (the store's).

mod batchrouter;
mod envelope;
mod phaseo;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use self::batchrouter::Writer;
use self::phaseo::EventScanner;
pub use self::phaseo::Render;
use self::sender::{ReceiverAnswer, SendError, Sender};
use crate::descriptors::Descriptors;
use crate::domain::batch::{Batch, BatchInput};
use crate::domain::id::{BatchId, EventId, OrgId};
use crate::domain::time::{Clock, Timestamp};
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, Payload, Route};
use crate::domain::webhook::endpoint::{Probed, Receiver, ReceiverStatus};
use crate::domain::webhook::event_log::{DeliveryAttempt, TriedOutcome};
use crate::domain::webhook::target_policy::Targets;
use crate::provider::SetupError;
use crate::store::error::StoreError;
use crate::store::{DeliveryChoice, Due, Store};

/// Limits on messages that are sent at the same time: in total, for one organisation, to one host,
/// and for one organisation to one host. A slow receiver must not hold up the others.
const AT_ONCE: usize = 64;
const OF_ORG: usize = 16;
const TO_HOST: usize = 24;
const OF_ORG_TO_HOST: usize = 8;
/// Notes that are turned into messages in one round.
const NOTES: usize = 1_024;
/// Due messages of an organisation that are examined in one round: most may be for receivers that
/// have to wait.
const SCAN_LIMIT: usize = 2_000;
/// How often the queue is checked.
const PACE: Duration = Duration::from_millis(500);

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
    writer: Writer,
    newsroom: EventScanner,
}

/// The parts that are needed to send a message.
struct Post {
    store: Store,
    clock: Clock,
    sender: Sender,
    retry_base: Duration,
}

/// The messages that are being sent.
struct UnderWay {
    tasks: JoinSet<Result<(), StoreError>>,
    messages: HashMap<task::Id, (EventId, Route)>,
    /// The organisation whose messages are examined first, or the next one after this id.
    first: OrgId,
}

impl UnderWay {
    fn begin(&mut self, post: &Arc<Post>, delivery: Delivery) {
        let about = (delivery.id, delivery.route());
        let id = self.tasks.spawn(post.clone().try_once(delivery)).id();
        self.messages.insert(id, about);
    }

    /// Waits until one message is done; `None` if none is being sent.
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

    /// The places that the messages under way take.
    fn slots(&self) -> Slots {
        let mut slots = Slots::default();
        for (event, route) in self.messages.values() {
            slots.take(*event, *route);
        }
        slots
    }
}

/// Counts the messages under way, to decide which message may be sent next.
#[derive(Debug, Default)]
struct Slots {
    events: HashSet<EventId>,
    orgs: HashMap<OrgId, usize>,
    hosts: HashMap<u128, usize>,
    routes: HashMap<Route, usize>,
}

impl Slots {
    /// Takes a place for a message, if the message is not being sent already and a place is free.
    fn take(&mut self, event: EventId, route: Route) -> DeliveryChoice {
        let org = self.orgs.entry(route.org).or_default();
        if self.events.len() >= AT_ONCE || *org >= OF_ORG {
            return DeliveryChoice::Enough;
        }
        let (host, both) = (self.hosts.entry(route.host).or_default(), self.routes.entry(route).or_default());
        if *host >= TO_HOST || *both >= OF_ORG_TO_HOST || !self.events.insert(event) {
            return DeliveryChoice::Pass;
        }
        (*org, *host, *both) = (*org + 1, *host + 1, *both + 1);
        DeliveryChoice::Take
    }
}

/// Sends test messages to receivers.
#[derive(Clone)]
pub struct TestSender(Arc<Post>);

impl TestSender {
    /// Sends one test message to a receiver, and reports the outcome; nothing is stored.
    pub async fn send(&self, receiver: Receiver) -> Probed {
        let post = &self.0;
        let id = format!("evt_webhook_test_{}", EventId::generate(post.clock.now()).as_u128());
        let about = serde_json::json!({ "object": "webhook_endpoint", "id": receiver.id.to_string() }).to_string();
        let data = serde_json::from_str::<&RawValue>(&about).unwrap_or(RawValue::NULL);
        let outcome = match post.secret(&receiver.webhook) {
            Ok(secret) => post.sender.test(&id, data, &receiver.webhook, &secret, post.clock.now()).await,
            Err(error) => Err(error),
        };
        let answer = answered(&outcome);
        Probed {
            event: id,
            status: answer.map(|answer| answer.status.as_u16()),
            preview: answer.map(|answer| answer.preview.clone()),
            error: outcome.as_ref().err().map(ToString::to_string),
        }
    }
}

impl Webhooks {
    /// Returns a sender of test messages that works like this courier.
    pub fn tester(&self) -> TestSender {
        TestSender(self.post.clone())
    }

    /// A courier over a store.
    ///
    /// # Errors
    /// When the system's certificates cannot be used.
    pub fn new(store: Store, clock: Clock, descriptors: Descriptors, settings: WebhookSettings) -> Result<Self, SetupError> {
        let writer = Writer { base_url: settings.base_url };
        let sender = Sender::new(settings.targets, settings.standard, descriptors)?;
        let newsroom = EventScanner::new(store.clone(), clock.clone(), settings.render);
        Ok(Self { post: Arc::new(Post { store, clock, sender, retry_base: settings.retry_base }), writer, newsroom })
    }

    /// Runs until `drain`, and until every attempt under way then has succeeded or failed. A
    /// message whose attempt does not end in time is sent again after the next start.
    pub async fn run(mut self, drain: CancellationToken) {
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

    /// Writes the messages that are pending, and begins to send those that are due.
    async fn round(&mut self, under_way: &mut UnderWay) -> Result<(), StoreError> {
        self.newsroom.round().await?;
        let store = &self.post.store;
        for batch in store.notices(NOTES).await? {
            let delivery = match self.write(batch).await {
                Err(StoreError::Damaged(error)) => {
                    tracing::error!(%batch, %error, "cannot send the end of a batch: its record is damaged");
                    None
                }
                written => written?,
            };
            store.answer_notice(batch, delivery).await?;
        }
        let mut slots = under_way.slots();
        let take = move |event, route| slots.take(event, route);
        // The organisation that was served first is served last in the next round.
        let mut turn = None;
        for due in store.due_deliveries(self.post.clock.now(), under_way.first, SCAN_LIMIT, take).await? {
            match due {
                Due::Message(delivery) => {
                    turn.get_or_insert(delivery.org);
                    under_way.begin(&self.post, *delivery);
                }
                Due::Moot { key } => store.drop_delivery(key).await?,
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

    /// Writes the message about a batch, if it has a receiver.
    async fn write(&self, id: BatchId) -> Result<Option<Delivery>, StoreError> {
        let Post { store, clock, .. } = &*self.post;
        let Some(batch) = store.batch(id).await? else { return Ok(None) };
        let Some(webhook) = self.receiver(&batch).await? else { return Ok(None) };
        let charged = store.reservation(id).await?.and_then(|reservation| reservation.settlement).unwrap_or_default().charged;
        let now = clock.now();
        let Some((id, body)) = self.writer.write(&batch, charged, store.seal(), now) else { return Ok(None) };
        Ok(Some(Delivery {
            id,
            batch: batch.spec.id,
            org: batch.spec.org,
            webhook,
            body,
            wire: Payload::BatchRouter,
            created_at: now,
            attempts: 0,
            due_at: now,
        }))
    }

    /// The batch's own receiver, or that of its organisation; `None` if the receiver gets messages
    /// in Phaseo's form.
    async fn receiver(&self, batch: &Batch) -> Result<Option<Webhook>, StoreError> {
        if batch.spec.has_receiver() {
            return Ok(None);
        }
        let own = match &batch.spec.input {
            BatchInput::Quoted(order) => order.webhook.clone(),
            BatchInput::Unquoted { .. } => None,
        };
        match own {
            Some(webhook) => Ok(Some(webhook)),
            None => Ok(self.post.store.org(batch.spec.org).await?.and_then(|org| org.webhook)),
        }
    }
}

impl Post {
    /// Makes one attempt, and records its outcome.
    async fn try_once(self: Arc<Self>, delivery: Delivery) -> Result<(), StoreError> {
        let outcome = match self.webhook(&delivery).await? {
            Some(webhook) => self.send(&delivery, &webhook).await,
            None => Err(SendError::Gone),
        };
        let (event, batch, now) = (delivery.id.in_hex(), delivery.batch, self.clock.now());
        let next = match &outcome {
            Ok(_) => {
                tracing::info!(event, %batch, attempts = delivery.attempts + 1, "message delivered");
                None
            }
            Err(error) => {
                let again = !matches!(error, SendError::Gone);
                let next = again.then(|| delivery.clone().failed(self.retry_base, now)).flatten();
                match &next {
                    Some(next) => tracing::warn!(event, %batch, %error, next = %next.due_at, "message not delivered; trying again"),
                    None => tracing::error!(event, %batch, %error, "message given up"),
                }
                next
            }
        };
        let event = tried(&delivery, &outcome, next.as_ref(), now);
        self.store.delivery_tried(delivery, next, event).await
    }

    async fn send(&self, delivery: &Delivery, webhook: &Webhook) -> Result<ReceiverAnswer, SendError> {
        let secret = self.secret(webhook)?;
        self.sender.send(delivery, webhook, &secret, self.clock.now()).await
    }

    /// The secret of a receiver; empty if it has none.
    fn secret(&self, webhook: &Webhook) -> Result<Vec<u8>, SendError> {
        match webhook.sealed_secret.is_empty() {
            true => Ok(Vec::new()),
            false => self.store.seal().unseal(&webhook.sealed_secret).map_err(SendError::Secret),
        }
    }

    /// The current receiver of a message; `None` if the receiver wants no more messages.
    async fn webhook(&self, delivery: &Delivery) -> Result<Option<Webhook>, StoreError> {
        let id = match &delivery.wire {
            Payload::Phaseo(event) => event.receiver,
            Payload::BatchRouter => None,
        };
        let Some(id) = id else { return Ok(Some(delivery.webhook.clone())) };
        let receiver = self.store.receiver(delivery.org, id).await?;
        Ok(receiver.filter(|receiver| receiver.status == ReceiverStatus::Active).map(|receiver| receiver.webhook))
    }
}

/// The receiver's answer, if there was one.
fn answered(outcome: &Result<ReceiverAnswer, SendError>) -> Option<&ReceiverAnswer> {
    match outcome {
        Ok(answer) | Err(SendError::Refused(answer)) => Some(answer),
        Err(_) => None,
    }
}

/// The record that is kept of an attempt at a message of Phaseo's.
fn tried(
    delivery: &Delivery,
    outcome: &Result<ReceiverAnswer, SendError>,
    next: Option<&Delivery>,
    now: Timestamp,
) -> Option<DeliveryAttempt> {
    let Payload::Phaseo(event) = &delivery.wire else { return None };
    let answer = answered(outcome);
    Some(DeliveryAttempt {
        key: event.event.key.clone(),
        phase: event.event.phase,
        number: delivery.attempts + 1,
        at: now,
        outcome: match (outcome, next) {
            (Ok(_), _) => TriedOutcome::Delivered,
            (Err(_), Some(next)) => TriedOutcome::Again(next.due_at),
            (Err(_), None) => TriedOutcome::GivenUp,
        },
        response: answer.map(|answer| answer.status.as_u16()),
        error: outcome.as_ref().err().map(|error| error.to_string().chars().take(200).collect()),
        preview: answer.map(|answer| answer.preview.clone()).filter(|preview| !preview.is_empty()),
    })
}
