//! What the writer is asked: results of rows, operations on metadata, copies for backups.
//!
//! Invariant: an operation is all or nothing. It reads the tree as it was before, and what it will
//! write is applied as a whole.

use std::sync::mpsc::SyncSender;

use tokio::sync::oneshot;

use super::dir::{DataFile, Folder};
use super::format::{self, Blob, MAX_VALUE};
use super::live::Lives;
use super::record::{self, Record};
use super::results::PackedRow;
use super::sum::Sum;
use super::tree::Tree;
use super::writes::Writes;
use crate::domain::id::BatchId;
use crate::store::error::StoreError;
use crate::store::record::error::RecordError;

pub(super) type Ack = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
pub(super) type MetaOp = Box<dyn FnOnce(&mut Tx<'_>) -> Ack + Send>;

/// Requests to the writer.
pub(super) enum Op {
    /// The result of a row; `ran` if it went to a provider, which makes it count as dispatched.
    Row {
        row: PackedRow,
        ran: bool,
    },
    Meta(MetaOp),
    /// Requests a copy for a backup, in a folder of its own.
    Backup {
        place: (Folder, String),
        answer: SyncSender<BackupAnswer>,
    },
    /// All entries have been copied, or the copy was given up; see `copier`.
    Copied,
    Stop,
}

impl Op {
    /// An operation whose result goes to `sender` once the operation is durable.
    pub fn meta<R: Send + 'static>(
        op: impl FnOnce(&mut Tx<'_>) -> Result<R, StoreError> + Send + 'static,
        sender: oneshot::Sender<Result<R, StoreError>>,
    ) -> Self {
        Self::Meta(Box::new(move |tx| {
            let result = op(tx);
            tx.failed = result.is_err();
            Box::new(move |flushed| {
                // A caller that no longer waits is not a fault: its write stands.
                let _ = sender.send(flushed.and(result));
            })
        }))
    }
}

pub(super) type Publish = Box<dyn FnOnce(&Lives) + Send>;

/// One metadata operation: what it reads and what it will write, all or nothing.
pub(super) struct Tx<'a> {
    pub tree: &'a Tree,
    pub lives: &'a Lives,
    pub writes: Writes,
    pub publish: Vec<Publish>,
    pub failed: bool,
}

impl Tx<'_> {
    /// The tree as it was before this operation.
    pub fn tree(&self) -> &Tree {
        self.tree
    }

    pub fn get<T: Record>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.tree.get(key)?.map(|bytes| record::decode(&bytes).map_err(StoreError::from)).transpose()
    }

    pub fn put<T: Record>(&mut self, key: Vec<u8>, record: &T) -> Result<(), StoreError> {
        let bytes = record::encode(record)?;
        if bytes.len() > MAX_VALUE {
            return Err(RecordError::damaged::<T>(format!("{} bytes are too many for one value", bytes.len())).into());
        }
        self.writes.insert(key, bytes);
        Ok(())
    }

    pub fn put_raw(&mut self, key: Vec<u8>, value: &[u8]) {
        self.writes.insert(key, value);
    }

    /// Writes a record that may exceed one value.
    pub fn put_blob<T: Record>(&mut self, id: BatchId, blob: Blob, record: &T) -> Result<(), StoreError> {
        self.put_chunks(&format::blob(id, blob), &record::encode(record)?)
    }

    /// Writes bytes that may exceed one value, in chunks below `prefix`.
    pub fn put_chunks(&mut self, prefix: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
        for (number, part) in bytes.chunks(MAX_VALUE).enumerate() {
            let number =
                u16::try_from(number).map_err(|_| StoreError::Unexpected(format!("{} bytes are too many for a record", bytes.len())))?;
            self.writes.insert(format::chunk(prefix, number), part);
        }
        Ok(())
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.writes.remove(key);
    }

    /// Removes every key that begins with `prefix`. For small numbers of keys: they are gathered
    /// first.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn remove_all(&mut self, prefix: Vec<u8>) -> Result<(), StoreError> {
        let keys: Vec<_> = self.tree().scan_prefix(prefix).keys().collect::<Result<_, _>>()?;
        keys.into_iter().for_each(|key| self.remove(key.to_vec()));
        Ok(())
    }

    /// Runs `publish` once this operation is durable.
    pub fn after(&mut self, publish: impl FnOnce(&Lives) + Send + 'static) {
        self.publish.push(Box::new(publish));
    }
}

/// A finished copy: durable, and equal to the store as of its sum.
pub(super) struct Copy {
    pub tree: sled::Tree,
    /// sled's log.
    pub log: DataFile,
}

/// The writer's answer: the copy and its sum, or nothing if another copy is being made.
pub(super) type BackupAnswer = Option<(Copy, Sum)>;
