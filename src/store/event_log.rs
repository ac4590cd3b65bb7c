//! The event log of a batch, as operations read and write it.

use super::format::{self, Blob};
use super::op::Tx;
use super::record;
use super::record::webhook_events::EventLogRecord;
use crate::domain::id::BatchId;
use crate::domain::webhook::event_log::{DeliveryAttempt, EventLog};
use crate::store::error::StoreError;

/// Records an attempt to deliver a message about a batch.
pub(super) fn tried(tx: &mut Tx<'_>, batch: BatchId, tried: DeliveryAttempt) -> Result<(), StoreError> {
    let mut event_log = read_event_log(tx, batch)?;
    event_log.tried(tried);
    put_event_log(tx, batch, &event_log)
}

pub(super) fn read_event_log(tx: &Tx<'_>, batch: BatchId) -> Result<EventLog, StoreError> {
    let mut bytes = Vec::new();
    for entry in tx.tree().scan_prefix(format::blob(batch, Blob::EventLog)) {
        bytes.extend_from_slice(&entry?.1);
    }
    match bytes.is_empty() {
        true => Ok(EventLog::default()),
        false => Ok(record::decode::<EventLogRecord>(&bytes)?.try_into()?),
    }
}

/// Writes the event log of a batch. The log may have become shorter, so its old chunks are removed
/// first.
pub(super) fn put_event_log(tx: &mut Tx<'_>, batch: BatchId, event_log: &EventLog) -> Result<(), StoreError> {
    tx.remove_all(format::blob(batch, Blob::EventLog))?;
    tx.put_blob(batch, Blob::EventLog, &EventLogRecord::from(event_log))
}
