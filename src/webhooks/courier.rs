//! Sends the messages that are due, and records what became of them.
//!
//! Not here: what a message says, and how it goes over the wire.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::places::{Place, Places};
use super::sender::{ReceiverAnswer, SendError, Sender};
use super::{PACE, ticks};
use crate::domain::dialect::Dialect;
use crate::domain::id::BatchId;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, Payload};
use crate::domain::webhook::endpoint::ReceiverStatus;
use crate::domain::webhook::event_log::{DeliveryAttempt, TriedOutcome};
use crate::store::error::StoreError;
use crate::store::{Due, DueSearch, Store};

/// Due messages of an organisation that are examined in one round: most may be for receivers that
/// have to wait. The next round goes on where this one stopped.
const SCAN_LIMIT: usize = 2_000;

/// The parts that are needed to send a message.
pub(super) struct Post {
    pub store: Store,
    pub clock: Clock,
    pub sender: Sender,
    pub retry_base: Duration,
    /// The places of the messages that are being sent.
    pub places: Arc<Places>,
}

/// The messages that are being sent.
#[derive(Default)]
struct UnderWay(JoinSet<Result<(), StoreError>>);

impl UnderWay {
    fn begin(&mut self, post: &Arc<Post>, delivery: Delivery, place: Place) {
        self.0.spawn(post.clone().try_once(delivery, place));
    }

    /// Waits until one message is done; `None` if none is being sent.
    async fn done(&mut self) -> Option<()> {
        match self.0.join_next().await? {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what became of a message could not be recorded; it is sent again"),
            Err(error) => tracing::error!(%error, "sending a message ended unexpectedly"),
        }
        Some(())
    }
}

/// Sends messages until `drain`, and until every attempt under way then has succeeded or failed.
pub(super) async fn run(post: Arc<Post>, drain: CancellationToken) {
    let (mut pace, mut under_way, mut search) = (ticks(PACE), UnderWay::default(), DueSearch::default());
    loop {
        tokio::select! {
            () = drain.cancelled() => break,
            Some(()) = under_way.done() => {}
            _ = pace.tick() => match round(&post, &mut under_way, search.clone()).await {
                Ok(next) => search = next,
                Err(error) => tracing::error!(%error, "messages to receivers have to wait"),
            }
        }
    }
    while under_way.done().await.is_some() {}
}

/// Begins to send messages that are due. Returns where the next round looks first.
async fn round(post: &Arc<Post>, under_way: &mut UnderWay, search: DueSearch) -> Result<DueSearch, StoreError> {
    let places = post.places.clone();
    let choose = move |event, route| places.for_message(event, route);
    let found = post.store.due_deliveries(post.clock.now(), search, SCAN_LIMIT, choose).await?;
    for due in found.due {
        match due {
            Due::Message(delivery, place) => under_way.begin(post, *delivery, place),
            Due::Moot { key } => post.store.drop_delivery(key).await?,
            Due::Lost { key, reason } => {
                tracing::error!(reason, "a message to a receiver cannot be read and is given up");
                post.store.drop_delivery(key).await?;
            }
        }
    }
    Ok(found.next)
}

impl Post {
    /// Makes one attempt, and records its outcome.
    async fn try_once(self: Arc<Self>, delivery: Delivery, place: Place) -> Result<(), StoreError> {
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
        self.store.delivery_tried(delivery, next, event).await?;
        // Until now, the queue still had the message as due.
        drop(place);
        Ok(())
    }

    async fn send(&self, delivery: &Delivery, webhook: &Webhook) -> Result<ReceiverAnswer, SendError> {
        let secret = self.secret(webhook)?;
        let is_openais = delivery.wire == Payload::Whole && self.dialect(delivery.batch).await == Some(Dialect::OpenAi);
        self.sender.send(delivery, is_openais, webhook, &secret, self.clock.now()).await
    }

    /// The dialect of a batch; `None` if the batch was deleted or cannot be read. Its message is
    /// then sent with the headers that all have.
    async fn dialect(&self, batch: BatchId) -> Option<Dialect> {
        self.store.batch(batch).await.ok().flatten().map(|batch| batch.spec.dialect)
    }

    /// The secret of a receiver; empty if it has none.
    pub fn secret(&self, webhook: &Webhook) -> Result<Vec<u8>, SendError> {
        match webhook.sealed_secret.is_empty() {
            true => Ok(Vec::new()),
            false => self.store.seal().unseal(&webhook.sealed_secret).map_err(SendError::Secret),
        }
    }

    /// The current receiver of a message; `None` if the receiver wants no more messages.
    async fn webhook(&self, delivery: &Delivery) -> Result<Option<Webhook>, StoreError> {
        let id = match &delivery.wire {
            Payload::Phaseo(event) => event.receiver,
            Payload::Whole => None,
        };
        let Some(id) = id else { return Ok(Some(delivery.webhook.clone())) };
        let receiver = self.store.receiver(delivery.org, id).await?;
        Ok(receiver.filter(|receiver| receiver.status == ReceiverStatus::Active).map(|receiver| receiver.webhook))
    }
}

/// The receiver's answer, if there was one.
pub(super) fn answered(outcome: &Result<ReceiverAnswer, SendError>) -> Option<&ReceiverAnswer> {
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
