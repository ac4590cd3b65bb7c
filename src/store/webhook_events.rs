//! Which batches have a receiver, and what the receivers were notified of: the list of watched
//! batches, and the event log of each. Messages and the record that they were queued are written in
//! one step.

use super::deliveries::{pack, put};
use super::event_log::{put_event_log, read_event_log};
use super::format::{self, Blob};
use super::record;
use super::record::webhook_events::{EventLogRecord, ReceiverRecord};
use super::{Store, blocking};
use crate::domain::batch::{BatchState, Progress};
use crate::domain::id::{BatchId, OrgId, ReceiverId};
use crate::domain::webhook::delivery::{Delivery, Payload};
use crate::domain::webhook::endpoint::{Receiver, ReceiverStatus};
use crate::domain::webhook::event_log::EventLog;
use crate::store::error::StoreError;

/// Limit on the receivers of one organisation, deleted receivers included.
pub const MAX_RECEIVERS: usize = 1_000;

/// The state of a batch that has a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchedBatch {
    pub batch: BatchId,
    pub state: BatchState,
    pub progress: Progress,
}

/// The events of a batch that are due now.
#[derive(Debug, Clone)]
pub struct WebhookEvents {
    pub batch: BatchId,
    /// The batch's status, and its step of progress.
    pub status: &'static str,
    pub bucket: Option<u32>,
    pub deliveries: Vec<Delivery>,
    /// The batch has ended: no more events will follow.
    pub is_over: bool,
}

impl Store {
    /// Batches that have a receiver, at most `most`, after the batch `after`.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn watched(&self, after: Option<BatchId>, most: usize) -> Result<Vec<WatchedBatch>, StoreError> {
        let store = self.clone();
        let found = blocking(move || {
            let from = after.map_or_else(|| format::WATCHED.to_vec(), |batch| [format::watched(batch), vec![0]].concat());
            let mut found = Vec::new();
            for key in store.inner.tree.range(from..format::behind(format::WATCHED)).keys().take(most) {
                let Some(batch) = format::trailing_id(&key?).map(BatchId::from_u128) else { continue };
                if let Some((state, progress)) = store.read_progress(batch)? {
                    found.push(WatchedBatch { batch, state, progress });
                }
            }
            Ok::<_, StoreError>(found)
        });
        let found = found.await?;
        self.await_durable().await?;
        Ok(found)
    }

    /// The event log of a batch; `None` while no receiver is notified of the batch.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn event_log(&self, batch: BatchId) -> Result<Option<EventLog>, StoreError> {
        let store = self.clone();
        let found = blocking(move || store.read_blob::<EventLogRecord>(batch, Blob::EventLog)).await?;
        self.await_durable().await?;
        Ok(found.map(EventLog::try_from).transpose()?)
    }

    /// Queues the new messages about a batch, except those that were queued before.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn queue_events(&self, news: WebhookEvents) -> Result<(), StoreError> {
        let packed =
            news.deliveries.iter().map(|delivery| Ok((pack(delivery)?, delivery.clone()))).collect::<Result<Vec<_>, StoreError>>()?;
        self.commit(move |tx| {
            // The batch may have been deleted since the caller looked.
            if !tx.tree().contains_key(format::batch(news.batch))? {
                return Ok(());
            }
            let mut event_log = read_event_log(tx, news.batch)?;
            for (packed, delivery) in &packed {
                let Payload::Phaseo(event) = &delivery.wire else { continue };
                if !event_log.queued.contains(&event.event.key) {
                    event_log.queued.push(event.event.key.clone());
                    put(tx, delivery, packed)?;
                }
            }
            event_log.saw(news.status, news.bucket);
            put_event_log(tx, news.batch, &event_log)?;
            if news.is_over {
                tx.remove(format::watched(news.batch));
            }
            Ok(())
        })
        .await
    }

    /// Adds a receiver; `false` if its organisation has too many.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn add_receiver(&self, receiver: Receiver) -> Result<bool, StoreError> {
        self.commit(move |tx| {
            let known = tx.tree().scan_prefix(format::receivers_of(receiver.org)).keys().take(MAX_RECEIVERS).count();
            if known == MAX_RECEIVERS {
                return Ok(false);
            }
            tx.put(format::receiver(receiver.org, receiver.id), &ReceiverRecord::from(&receiver))?;
            Ok(true)
        })
        .await
    }

    /// A receiver of an organisation, including a deleted one.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn receiver(&self, org: OrgId, id: ReceiverId) -> Result<Option<Receiver>, StoreError> {
        let found = self.inner.tree.get(format::receiver(org, id))?.map(|bytes| decode(&bytes)).transpose()?;
        self.await_durable().await?;
        Ok(found)
    }

    /// Receivers of an organisation, the newest first.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn receivers(&self, org: OrgId) -> Result<Vec<Receiver>, StoreError> {
        let store = self.clone();
        let found = blocking(move || {
            let entries = store.inner.tree.scan_prefix(format::receivers_of(org)).rev();
            entries.map(|entry| decode(&entry?.1)).collect::<Result<Vec<_>, StoreError>>()
        });
        let found = found.await?;
        self.await_durable().await?;
        Ok(found)
    }

    /// Changes a receiver that was not deleted. Returns `None` and changes nothing if there is no
    /// such receiver.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn change_receiver(
        &self,
        (org, id): (OrgId, ReceiverId),
        change: impl FnOnce(Receiver) -> Receiver + Send + 'static,
    ) -> Result<Option<Receiver>, StoreError> {
        self.commit(move |tx| {
            let found = tx.get::<ReceiverRecord>(&format::receiver(org, id))?.map(Receiver::try_from).transpose()?;
            let Some(receiver) = found.filter(|receiver| receiver.status != ReceiverStatus::Deleted) else { return Ok(None) };
            let changed = change(receiver);
            tx.put(format::receiver(org, id), &ReceiverRecord::from(&changed))?;
            Ok(Some(changed))
        })
        .await
    }
}

fn decode(bytes: &[u8]) -> Result<Receiver, StoreError> {
    Ok(record::decode::<ReceiverRecord>(bytes)?.try_into()?)
}
