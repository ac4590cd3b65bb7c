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
use crate::domain::delivery::{Delivery, Route};
use crate::domain::id::{BatchId, EventId};
use crate::domain::time::Timestamp;

/// A message that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    Message(Box<Delivery>),
    /// It cannot be read, and never will be; its place in the queue.
    Lost {
        key: Vec<u8>,
        reason: String,
    },
}

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

    /// Messages that are to be tried at `now`, the most overdue first, of those whose route `take` wants.
    /// Looks at so many, `look`, at most: more than that are not shared out fairly.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn due_deliveries(
        &self,
        now: Timestamp,
        look: usize,
        mut take: impl FnMut(EventId, Route) -> bool + Send + 'static,
    ) -> Result<Vec<Due>, StoreError> {
        let store = self.clone();
        let due = blocking(move || {
            let mut due = Vec::new();
            let range = store.inner.tree.range(format::DELIVERIES_DUE.to_vec()..format::delivery_due_end(seconds(now)));
            for entry in range.take(look) {
                let (key, route) = entry?;
                let Some(id) = format::trailing_id(&key).map(EventId::from_u128) else { continue };
                if !take(id, format::route_of(&route)) {
                    continue;
                }
                due.push(match store.read_delivery(id) {
                    Ok(Some(delivery)) => Due::Message(Box::new(delivery)),
                    Ok(None) => Due::Lost { key: key.to_vec(), reason: "it is not there".to_owned() },
                    Err(StoreError::Damaged(error)) => Due::Lost { key: key.to_vec(), reason: error.to_string() },
                    Err(error) => return Err(error),
                });
            }
            Ok(due)
        });
        let due = due.await?;
        self.shown().await?;
        Ok(due)
    }

    /// Forgets a message that cannot be read.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn drop_delivery(&self, key: Vec<u8>) -> Result<(), StoreError> {
        self.commit(move |tx| {
            tx.remove(key.clone());
            match format::trailing_id(&key) {
                Some(id) => remove(tx, EventId::from_u128(id)),
                None => Ok(()),
            }
        })
        .await
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
            remove(tx, tried.id)
        })
        .await
    }
}

fn pack(delivery: &Delivery) -> Result<Vec<u8>, StoreError> {
    Ok(packed::pack::<DeliveryRecord>(0, &encode_body(&DeliveryRecord::from(delivery))?)?)
}

fn put(tx: &mut Tx<'_>, delivery: &Delivery, packed: &[u8]) -> Result<(), StoreError> {
    tx.put_chunks(&format::delivery(delivery.id), packed)?;
    tx.put_raw(format::delivery_due(seconds(delivery.due_at), delivery.id), &format::route(delivery.route()));
    Ok(())
}

fn remove(tx: &mut Tx<'_>, id: EventId) -> Result<(), StoreError> {
    let keys: Vec<_> = tx.tree().scan_prefix(format::delivery(id)).keys().collect::<Result<_, _>>()?;
    keys.into_iter().for_each(|key| tx.remove(key.to_vec()));
    Ok(())
}
