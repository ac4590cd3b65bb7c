//! Turns the notes that batches have ended into messages, in the form of each batch's dialect: to
//! the batch's own receiver, or to that of its organisation.
//!
//! Not here: messages to receivers of Phaseo's batches ([`super::phaseo`]).

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest, Sha256};

use super::batchrouter::Links;
use super::{WRITERS, batchrouter, openai};
use crate::domain::batch::{Batch, BatchInput};
use crate::domain::dialect::Dialect;
use crate::domain::id::{BatchId, EventId, half};
use crate::domain::money::Usd;
use crate::domain::time::Clock;
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, Payload};
use crate::store::Store;
use crate::store::error::StoreError;

/// Notes that are read in one step.
const NOTES: usize = 1_024;

/// Writes messages about batches that have ended.
pub(super) struct EndWriter {
    pub store: Store,
    pub clock: Clock,
    /// See [`Links::base_url`].
    pub base_url: Option<String>,
}

impl EndWriter {
    /// Writes the messages that are pending. Many are written at a time, so that the store makes
    /// them durable together: a thousand ends of one organisation hold up those of others for a
    /// moment only.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn round(&self) -> Result<(), StoreError> {
        loop {
            let notes = self.store.notices(NOTES).await?;
            let count = notes.len();
            stream::iter(notes).map(Ok).try_for_each_concurrent(WRITERS, |batch| self.answer(batch)).await?;
            if count < NOTES {
                return Ok(());
            }
        }
    }

    /// Turns one note into a message, or drops it.
    async fn answer(&self, batch: BatchId) -> Result<(), StoreError> {
        let delivery = match self.write(batch).await {
            Err(StoreError::Damaged(error)) => {
                tracing::error!(%batch, %error, "cannot send the end of a batch: its record is damaged");
                None
            }
            written => written?,
        };
        self.store.answer_notice(batch, delivery).await
    }

    /// Writes the message about a batch, if it has a receiver.
    async fn write(&self, id: BatchId) -> Result<Option<Delivery>, StoreError> {
        let Some(batch) = self.store.batch(id).await? else { return Ok(None) };
        let Some(webhook) = self.receiver(&batch).await? else { return Ok(None) };
        let Some(end) = batch.end() else { return Ok(None) };
        let charged = self.charged(&batch).await?;
        let (event, now) = (event_of(&batch), self.clock.now());
        let body = match batch.spec.dialect {
            Dialect::OpenAi => openai::write(&batch, event, charged),
            Dialect::BatchRouter | Dialect::Phaseo => {
                let links = Links { base_url: self.base_url.as_deref(), seal: self.store.seal() };
                batchrouter::write(&batch, end, event, charged, &links, now)
            }
        };
        Ok(Some(Delivery {
            id: event,
            batch: id,
            org: batch.spec.org,
            webhook,
            body,
            wire: Payload::Whole,
            created_at: now,
            attempts: 0,
            due_at: now,
        }))
    }

    /// What a batch was charged, or, for a batch for which nothing was reserved, what its rows cost.
    async fn charged(&self, batch: &Batch) -> Result<Usd, StoreError> {
        Ok(match self.store.reservation(batch.spec.id).await? {
            Some(reservation) => reservation.settlement.unwrap_or_default().charged,
            None => batch.progress.cost,
        })
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
            None => Ok(self.store.org(batch.spec.org).await?.and_then(|org| org.webhook)),
        }
    }
}

/// The event of a batch's end: always the same for the same batch.
fn event_of(batch: &Batch) -> EventId {
    let digest = Sha256::new().chain_update(b"batch ended ").chain_update(batch.spec.id.as_u128().to_be_bytes());
    EventId::from_u128(half(digest.finalize().into()))
}
