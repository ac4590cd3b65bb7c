//! The queue of messages to receivers. That a batch has ended is noted in one step with its end; the note
//! becomes a message, in one step, when somebody has written it; the message stays until it is delivered
//! or given up. So no end is forgotten, and every attempt sends the same bytes.

use super::batches::seconds;
use super::chunks::read_packed;
use super::format;
use super::record::delivery::DeliveryRecord;
use super::record::packed::{self, Packed};
use super::record::{decode_body, encode_body};
use super::writer::Tx;
use super::{Store, StoreError, blocking};
use crate::domain::delivery::Delivery;
use crate::domain::id::{BatchId, EventId};
use crate::domain::time::Timestamp;

/// Notes that a batch has ended.
pub(super) fn note(tx: &mut Tx<'_>, batch: BatchId) {
    tx.put_raw(format::notice(batch), &[]);
}

impl Store {
    /// Batches that have ended and of which nobody was told yet, at most so many.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn notices(&self, most: usize) -> Result<Vec<BatchId>, StoreError> {
        let keys = self.inner.tree.scan_prefix(format::NOTICES).keys().take(most);
        let found = keys.map(|key| Ok(format::trailing_id(&key?).map(BatchId::from_u128))).collect::<Result<Vec<_>, StoreError>>()?;
        self.shown().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Turns the note of a batch into a message, or into nothing if nobody wants to know.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn answer_notice(&self, batch: BatchId, delivery: Option<Delivery>) -> Result<(), StoreError> {
        let packed = delivery.map(|delivery| Ok::<_, StoreError>((pack(&delivery)?, delivery))).transpose()?;
        self.commit(move |tx| {
            // Whoever was quicker has answered it.
            if !tx.tree().contains_key(format::notice(batch))? {
                return Ok(());
            }
            tx.remove(format::notice(batch));
            match &packed {
                Some((packed, delivery)) => put(tx, delivery, packed),
                None => Ok(()),
            }
        })
        .await
    }

    /// Messages that are to be tried at `now`, the most overdue first, at most so many.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub async fn due_deliveries(&self, now: Timestamp, most: usize) -> Result<Vec<Delivery>, StoreError> {
        let store = self.clone();
        let due = blocking(move || {
            let range = store.inner.tree.range(format::DELIVERIES_DUE.to_vec()..format::delivery_due_end(seconds(now)));
            let ids = range.keys().take(most).map(|key| Ok(format::trailing_id(&key?))).collect::<Result<Vec<_>, StoreError>>()?;
            let read = ids.into_iter().flatten().map(|id| store.read_delivery(EventId::from_u128(id)));
            Ok(read.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        });
        let due = due.await?;
        self.shown().await?;
        Ok(due)
    }

    fn read_delivery(&self, id: EventId) -> Result<Option<Delivery>, StoreError> {
        let Some(bytes) = read_packed::<DeliveryRecord>(&self.inner.tree, &format::delivery(id))? else { return Ok(None) };
        let record: DeliveryRecord = Packed::open::<DeliveryRecord>(&bytes)?.with_body::<DeliveryRecord, _>(decode_body)?;
        Ok(Some(Delivery::try_from(record)?))
    }

    /// Records what became of an attempt: `next` is the message as it is tried again, `None` if it is
    /// not.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn delivery_tried(&self, tried: Delivery, next: Option<Delivery>) -> Result<(), StoreError> {
        let packed = next.map(|next| Ok::<_, StoreError>((pack(&next)?, next))).transpose()?;
        self.commit(move |tx| {
            tx.remove(format::delivery_due(seconds(tried.due_at), tried.id));
            if let Some((packed, next)) = &packed {
                return put(tx, next, packed);
            }
            let keys: Vec<_> = tx.tree().scan_prefix(format::delivery(tried.id)).keys().collect::<Result<_, _>>()?;
            keys.into_iter().for_each(|key| tx.remove(key.to_vec()));
            Ok(())
        })
        .await
    }
}

fn pack(delivery: &Delivery) -> Result<Vec<u8>, StoreError> {
    Ok(packed::pack::<DeliveryRecord>(0, &encode_body(&DeliveryRecord::from(delivery))?)?)
}

fn put(tx: &mut Tx<'_>, delivery: &Delivery, packed: &[u8]) -> Result<(), StoreError> {
    tx.put_chunks(&format::delivery(delivery.id), packed)?;
    tx.put_raw(format::delivery_due(seconds(delivery.due_at), delivery.id), &[]);
    Ok(())
}
