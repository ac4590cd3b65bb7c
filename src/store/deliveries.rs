//! The queue of messages to receivers.
//!
//! The end of a batch and the note that it has ended are written in one step. The note becomes a
//! message, in one step, once the message has been composed. The message stays until it is
//! delivered or given up. So no end is forgotten, and every attempt sends the same bytes.

use std::collections::HashMap;

use super::event_log;
use super::format;
use super::op::Tx;
use super::record::delivery::DeliveryRecord;
use super::record::encode_body;
use super::record::packed::{self, Packed};
use super::results::chunks::read_packed;
use super::{Store, blocking};
use crate::domain::id::{BatchId, EventId, OrgId};
use crate::domain::time::Timestamp;
use crate::domain::webhook::delivery::{Delivery, Route};
use crate::domain::webhook::event_log::DeliveryAttempt;
use crate::store::error::StoreError;
use crate::store::format::seconds;

/// A message that is due.
#[derive(Debug)]
pub enum Due<P> {
    /// The message, and what its caller keeps for it.
    Message(Box<Delivery>, P),
    /// The message's batch was deleted; `key` is the message's place in the queue.
    Moot { key: Vec<u8> },
    /// The message cannot be read, and never will be; `key` is its place in the queue.
    Lost { key: Vec<u8>, reason: String },
}

/// What to do with a message that is due.
#[derive(Debug)]
pub enum DeliveryChoice<P> {
    /// The message is taken; the place is the caller's, and comes back with it.
    Take(P),
    /// The message is not taken, but another message of its organisation may be.
    Pass,
    /// No more messages of its organisation are taken.
    Enough,
}

/// Where a search for due messages begins. Each search ends with that of the next one, so that
/// each organisation, and each message of one, is looked at in its turn.
#[derive(Debug, Clone)]
pub struct DueSearch {
    /// The organisation whose messages are looked at first, or the next one after this id.
    first: OrgId,
    /// The first message to look at, for organisations of whose due messages the last search saw
    /// only a part.
    next: HashMap<OrgId, Vec<u8>>,
}

impl Default for DueSearch {
    fn default() -> Self {
        Self { first: OrgId::from_u128(0), next: HashMap::new() }
    }
}

/// The result of a search for due messages.
#[derive(Debug)]
pub struct FoundDue<P> {
    pub due: Vec<Due<P>>,
    pub next: DueSearch,
}

/// Notes that a batch has ended.
pub(super) fn note(tx: &mut Tx<'_>, batch: BatchId) {
    tx.put_raw(format::notice(batch), &[]);
}

impl Store {
    /// Batches that have ended and whose receivers were not notified yet, at most `most`.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn notices(&self, most: usize) -> Result<Vec<BatchId>, StoreError> {
        let keys = self.inner.tree.scan_prefix(format::NOTICES).keys().take(most);
        let found = keys.map(|key| Ok(format::trailing_id(&key?).map(BatchId::from_u128))).collect::<Result<Vec<_>, StoreError>>()?;
        self.await_durable().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Turns the note of a batch into a message, or removes the note if the batch has no receiver.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn answer_notice(&self, batch: BatchId, delivery: Option<Delivery>) -> Result<(), StoreError> {
        let packed = delivery.map(|delivery| Ok::<_, StoreError>((pack(&delivery)?, delivery))).transpose()?;
        self.commit(move |tx| {
            // Another caller may have answered the note already.
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

    /// Messages that are due at `now` and that `choose` takes. Goes through the organisations in
    /// order, around from where `search` begins; within an organisation, the most overdue message
    /// comes first, or the one at which the last search stopped. Looks at no more than `look`
    /// messages of one organisation.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn due_deliveries<P: Send + 'static>(
        &self,
        now: Timestamp,
        search: DueSearch,
        look: usize,
        mut choose: impl FnMut(EventId, Route) -> DeliveryChoice<P> + Send + 'static,
    ) -> Result<FoundDue<P>, StoreError> {
        let store = self.clone();
        let found = blocking(move || {
            let mut found = FoundDue { due: Vec::new(), next: DueSearch { first: search.first, next: HashMap::new() } };
            let (middle, end) = (format::deliveries_of(search.first), format::behind(format::DELIVERIES_DUE));
            for (mut from, to) in [(middle.clone(), end), (format::DELIVERIES_DUE.to_vec(), middle)] {
                while let Some(key) = store.inner.tree.range(from..to.clone()).keys().next().transpose()? {
                    let Some(org) = format::org_of_delivery(&key) else { break };
                    let had = found.due.len();
                    if let Some(next) = store.due_of(org, now, (search.next.get(&org), look), &mut choose, &mut found.due)? {
                        found.next.next.insert(org, next);
                    }
                    // The organisation that was served first is served last the next time.
                    if had == 0 && !found.due.is_empty() {
                        found.next.first = OrgId::from_u128(org.as_u128().wrapping_add(1));
                    }
                    from = format::deliveries_end(org, u64::MAX);
                }
            }
            Ok(found)
        });
        let found = found.await?;
        self.await_durable().await?;
        Ok(found)
    }

    /// Looks at due messages of one organisation, from a key on and around. Returns the key at
    /// which it stopped, if it has not seen them all.
    fn due_of<P>(
        &self,
        org: OrgId,
        now: Timestamp,
        (begin, look): (Option<&Vec<u8>>, usize),
        choose: &mut impl FnMut(EventId, Route) -> DeliveryChoice<P>,
        due: &mut Vec<Due<P>>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let (start, end) = (format::deliveries_of(org), format::deliveries_end(org, seconds(now)));
        let middle = begin.map_or_else(|| start.clone(), |key| key.clone().clamp(start.clone(), end.clone()));
        let entries = self.inner.tree.range(middle.clone()..end).chain(self.inner.tree.range(start..middle));
        for (looked, entry) in entries.enumerate() {
            let (key, host) = entry?;
            if looked == look {
                return Ok(Some(key.to_vec()));
            }
            let Some(id) = format::trailing_id(&key).map(EventId::from_u128) else { continue };
            let place = match choose(id, Route { host: format::trailing_id(&host).unwrap_or_default(), org }) {
                DeliveryChoice::Take(place) => place,
                DeliveryChoice::Pass => continue,
                DeliveryChoice::Enough => return Ok(Some(key.to_vec())),
            };
            due.push(match self.read_delivery(id) {
                Ok(Some(delivery)) if !self.inner.tree.contains_key(format::batch(delivery.batch))? => Due::Moot { key: key.to_vec() },
                Ok(Some(delivery)) => Due::Message(Box::new(delivery), place),
                Ok(None) => Due::Lost { key: key.to_vec(), reason: "it is not there".to_owned() },
                Err(StoreError::Damaged(error)) => Due::Lost { key: key.to_vec(), reason: error.to_string() },
                Err(error) => return Err(error),
            });
        }
        Ok(None)
    }

    /// Removes a message that is no longer sent, or that cannot be read.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn drop_delivery(&self, key: Vec<u8>) -> Result<(), StoreError> {
        self.commit(move |tx| {
            tx.remove(key.clone());
            match format::trailing_id(&key) {
                Some(id) => tx.remove_all(format::delivery(EventId::from_u128(id))),
                None => Ok(()),
            }
        })
        .await
    }

    fn read_delivery(&self, id: EventId) -> Result<Option<Delivery>, StoreError> {
        let Some(bytes) = read_packed::<DeliveryRecord>(&self.inner.tree, &format::delivery(id))? else { return Ok(None) };
        let packed = Packed::open::<DeliveryRecord>(&bytes)?;
        let record = packed.with_body::<DeliveryRecord, _>(|body| DeliveryRecord::read(packed.version, body))?;
        Ok(Some(Delivery::try_from(record)?))
    }

    /// Records the result of an attempt: `next` is the message for the next attempt, `None` if
    /// there is none. The result of an attempt for a Phaseo batch is remembered with the batch.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn delivery_tried(
        &self,
        tried: Delivery,
        next: Option<Delivery>,
        outcome: Option<DeliveryAttempt>,
    ) -> Result<(), StoreError> {
        let packed = next.map(|next| Ok::<_, StoreError>((pack(&next)?, next))).transpose()?;
        self.commit(move |tx| {
            tx.remove(format::delivery_due(tried.org, seconds(tried.due_at), tried.id));
            // The batch may have been deleted meanwhile; then the message and the result are
            // dropped.
            if tx.tree().contains_key(format::batch(tried.batch))? {
                if let Some(outcome) = outcome {
                    event_log::tried(tx, tried.batch, outcome)?;
                }
                if let Some((packed, next)) = &packed {
                    return put(tx, next, packed);
                }
            }
            tx.remove_all(format::delivery(tried.id))
        })
        .await
    }
}

pub(super) fn pack(delivery: &Delivery) -> Result<Vec<u8>, StoreError> {
    Ok(packed::pack::<DeliveryRecord>(0, &encode_body(&DeliveryRecord::from(delivery))?)?)
}

pub(super) fn put(tx: &mut Tx<'_>, delivery: &Delivery, packed: &[u8]) -> Result<(), StoreError> {
    tx.put_chunks(&format::delivery(delivery.id), packed)?;
    tx.put_raw(format::delivery_due(delivery.org, seconds(delivery.due_at), delivery.id), &delivery.route().host.to_be_bytes());
    Ok(())
}
