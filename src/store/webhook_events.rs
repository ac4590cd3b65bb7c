//! Of which batches somebody is told, and what they were told: the list of those that are watched, and the
//! telling of each. What is queued and that it is queued are one step.

use super::deliveries::{pack, put};
use super::format::{self, Blob};
use super::record;
use super::record::webhook_events::{ReceiverRecord, TellingRecord};
use super::writer::Tx;
use super::{Store, blocking};
use crate::domain::batch::{BatchState, Progress};
use crate::domain::id::{BatchId, OrgId, ReceiverId};
use crate::domain::webhook::delivery::{Delivery, Payload};
use crate::domain::webhook::endpoint::{Receiver, ReceiverStatus};
use crate::domain::webhook::event_log::{DeliveryAttempt, EventLog};
use crate::store::error::StoreError;

/// Receivers of one organisation, those that were deleted included.
pub const MAX_RECEIVERS: usize = 1_000;

/// Where a batch stands of which somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchedBatch {
    pub batch: BatchId,
    pub state: BatchState,
    pub progress: Progress,
}

/// What of a batch is told now.
#[derive(Debug, Clone)]
pub struct WebhookEvents {
    pub batch: BatchId,
    /// Where it stands, and its step of progress.
    pub status: &'static str,
    pub bucket: Option<u32>,
    pub deliveries: Vec<Delivery>,
    /// It has ended: nothing more will be told.
    pub is_over: bool,
}

impl Store {
    /// Batches of which somebody is told, at most so many, from `after` on.
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

    /// What the receiver of a batch was told; nothing yet if nobody is told of it.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn telling(&self, batch: BatchId) -> Result<Option<EventLog>, StoreError> {
        let store = self.clone();
        let found = blocking(move || store.read_blob::<TellingRecord>(batch, Blob::Telling)).await?;
        self.await_durable().await?;
        Ok(found.map(EventLog::try_from).transpose()?)
    }

    /// Queues what is to be told of a batch, but for what was queued before.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn tell(&self, news: WebhookEvents) -> Result<(), StoreError> {
        let packed =
            news.deliveries.iter().map(|delivery| Ok((pack(delivery)?, delivery.clone()))).collect::<Result<Vec<_>, StoreError>>()?;
        self.commit(move |tx| {
            // It may have been deleted since somebody looked.
            if !tx.tree().contains_key(format::batch(news.batch))? {
                return Ok(());
            }
            let mut telling = telling_in(tx, news.batch)?;
            for (packed, delivery) in &packed {
                let Payload::Phaseo(told) = &delivery.wire else { continue };
                if !telling.queued.contains(&told.event.key) {
                    telling.queued.push(told.event.key.clone());
                    put(tx, delivery, packed)?;
                }
            }
            telling.saw(news.status, news.bucket);
            put_telling(tx, news.batch, &telling)?;
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

    /// A receiver of an organisation, also one that was deleted.
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

    /// Changes a receiver that was not deleted. `None`, and nothing changed, if there is none.
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

/// Takes note of an attempt at a message about a batch.
pub(super) fn tried(tx: &mut Tx<'_>, batch: BatchId, tried: DeliveryAttempt) -> Result<(), StoreError> {
    let mut telling = telling_in(tx, batch)?;
    telling.tried(tried);
    put_telling(tx, batch, &telling)
}

fn telling_in(tx: &Tx<'_>, batch: BatchId) -> Result<EventLog, StoreError> {
    let mut bytes = Vec::new();
    for entry in tx.tree().scan_prefix(format::blob(batch, Blob::Telling)) {
        bytes.extend_from_slice(&entry?.1);
    }
    match bytes.is_empty() {
        true => Ok(EventLog::default()),
        false => Ok(record::decode::<TellingRecord>(&bytes)?.try_into()?),
    }
}

/// It may have become shorter: chunks that it has no more must go.
fn put_telling(tx: &mut Tx<'_>, batch: BatchId, telling: &EventLog) -> Result<(), StoreError> {
    tx.remove_all(format::blob(batch, Blob::Telling))?;
    tx.put_blob(batch, Blob::Telling, &TellingRecord::from(telling))
}

fn decode(bytes: &[u8]) -> Result<Receiver, StoreError> {
    Ok(record::decode::<ReceiverRecord>(bytes)?.try_into()?)
}
