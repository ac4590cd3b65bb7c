//! Messages to receivers of Phaseo's batches: scans every batch that has a receiver, and queues the
//! events that its receiver has not been sent yet.
//!
//! Nothing is recorded when a batch changes: the pending events follow from the batch's current
//! state and from the events that were queued before, both of which are in the store. So a crash
//! loses no event, and queues none twice; changes back and forth between two scans count as one
//! change.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest, Sha256};

use super::WRITERS;
use crate::domain::batch::Batch;
use crate::domain::batch::details::BatchDetails;
use crate::domain::batch::phaseo::{Phase, Receiver, Subscription};
use crate::domain::id::{BatchId, EventId, OrgId, ReceiverId, half};
use crate::domain::time::Clock;
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, EventRef, Payload};
use crate::domain::webhook::endpoint::ReceiverStatus;
use crate::domain::webhook::event_log::{Event, EventLog, bucket, percent, status};
use crate::store::error::StoreError;
use crate::store::{Store, WatchedBatch, WebhookEvents};

/// Batches that are examined in one round.
const SCAN_LIMIT: usize = 1_000;

/// Writes the content of a message about a batch, as JSON.
pub type Render = Arc<dyn Fn(&Batch, &BatchDetails) -> Vec<u8> + Send + Sync>;

/// Scans batches for events.
pub(super) struct EventScanner {
    pub store: Store,
    pub clock: Clock,
    pub render: Render,
    /// The state of each batch at the last scan.
    known: HashMap<BatchId, ReportedState>,
}

/// What of a batch's state its receiver is told: the status, and the step of progress.
type ReportedState = (&'static str, Option<u32>);

fn reported(watched: &WatchedBatch) -> ReportedState {
    (status(&watched.state), bucket(percent(&watched.state, &watched.progress)))
}

impl EventScanner {
    pub fn new(store: Store, clock: Clock, render: Render) -> Self {
        Self { store, clock, render, known: HashMap::new() }
    }

    /// Queues the pending events.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn round(&mut self) -> Result<(), StoreError> {
        let mut after = None;
        let mut seen = HashMap::new();
        loop {
            let found = self.store.watched(after, SCAN_LIMIT).await?;
            let states: Vec<_> = found.iter().map(|watched| (watched.batch, reported(watched))).collect();
            let changed = states.iter().filter(|(batch, now)| self.known.get(batch) != Some(now)).map(|(batch, _)| *batch);
            stream::iter(changed).map(Ok).try_for_each_concurrent(WRITERS, |batch| self.queue_events(batch)).await?;
            seen.extend(states);
            after = found.last().map(|watched| watched.batch);
            if found.len() < SCAN_LIMIT {
                break;
            }
        }
        self.known = seen;
        Ok(())
    }

    async fn queue_events(&self, id: BatchId) -> Result<(), StoreError> {
        let batch = match self.store.batch(id).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return Ok(()),
            Err(StoreError::Damaged(error)) => {
                tracing::error!(batch = %id, %error, "cannot send batch events: the record is damaged");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let event_log = self.store.event_log(id).await?.unwrap_or_default();
        let deliveries = match batch.spec.gateway().and_then(|(_, gateway)| gateway.subscription.as_ref()) {
            Some(subscription) => self.deliveries(&batch, subscription, &event_log).await?,
            None => Vec::new(),
        };
        let news = WebhookEvents {
            batch: id,
            status: status(&batch.state),
            bucket: bucket(percent(&batch.state, &batch.progress)),
            deliveries,
            is_over: batch.state.is_terminal(),
        };
        self.store.queue_events(news).await
    }

    async fn deliveries(&self, batch: &Batch, subscription: &Subscription, event_log: &EventLog) -> Result<Vec<Delivery>, StoreError> {
        let Some((receiver, webhook, own)) = self.receiver(batch.spec.org, &subscription.receiver).await? else { return Ok(Vec::new()) };
        let phases = if subscription.phases.is_empty() { own } else { subscription.phases.clone() };
        let events = event_log.due(batch, &phases);
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let id = batch.spec.id;
        let receipt = if batch.state.is_terminal() { self.store.receipt(id).await? } else { None };
        let details =
            BatchDetails { reservation: self.store.reservation(id).await?, receipt, event_log: event_log.clone(), waiting: Vec::new() };
        let data = (self.render)(batch, &details);
        let now = self.clock.now();
        let delivery = |event: Event| Delivery {
            id: event_id(id, &event.key),
            batch: id,
            org: batch.spec.org,
            webhook: webhook.clone(),
            body: data.clone(),
            wire: Payload::Phaseo(EventRef { event, receiver }),
            created_at: now,
            attempts: 0,
            due_at: now,
        };
        Ok(events.into_iter().map(delivery).collect())
    }

    /// The receiver's id if it is a managed one, its current webhook, and the phases that it wants
    /// by default; `None` if it wants no messages.
    async fn receiver(&self, org: OrgId, receiver: &Receiver) -> Result<Option<(Option<ReceiverId>, Webhook, Vec<Phase>)>, StoreError> {
        match receiver {
            Receiver::Own(webhook) => Ok(Some((None, webhook.clone(), Phase::DEFAULT.to_vec()))),
            Receiver::Managed(id) => {
                let found = self.store.receiver(org, *id).await?.filter(|receiver| receiver.status == ReceiverStatus::Active);
                Ok(found.map(|receiver| (Some(*id), receiver.webhook.clone(), receiver.phases())))
            }
        }
    }
}

/// The id of an event in the queue: always the same for the same event.
fn event_id(batch: BatchId, key: &str) -> EventId {
    let digest = Sha256::new().chain_update(b"told of batch ").chain_update(batch.as_u128().to_be_bytes()).chain_update(key);
    EventId::from_u128(half(digest.finalize().into()))
}
