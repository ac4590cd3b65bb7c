//! What each organisation holds in the store: bytes, batches and rows that have not ended, and the
//! quotas for that.
//!
//! Counted with each write ([`super::writes::Writes::apply`]), so that no kind of record can be
//! forgotten by those who write it, and found again at each start while the sum over the store is
//! computed ([`found`]). The operator's own organisation has no quotas, and is not counted.
//!
//! Not counted, because each has a limit of its own: messages that wait for a receiver, idempotency
//! keys, and answers that are shared.

pub(super) mod found;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::format;
use super::key::{self, Key};
use super::live::Lives;
use super::record::file::FileRecord;
use super::record::org::OrgRecord;
use super::record::upload::{PartRecord, UploadRecord};
use super::record::{self, Record};
use super::tree::Tree;
use crate::domain::file::upload::{Upload, UploadPart};
use crate::domain::file::{File, FileSource};
use crate::domain::id::{BatchId, OrgId, PartId, QuoteId};
use crate::domain::org::Organisation;
use crate::domain::org::quotas::Quotas;
use crate::store::error::StoreError;

/// What organisations hold; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    orgs: HashMap<OrgId, Held>,
    batches: HashMap<BatchId, OfBatch>,
    quotes: HashMap<QuoteId, Owned>,
    parts: HashMap<PartId, Owned>,
}

/// What one organisation holds.
#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    /// Its batches that have not ended.
    active: HashSet<BatchId>,
    quotas: Quotas,
}

/// A batch of an organisation.
#[derive(Debug)]
struct OfBatch {
    owned: Owned,
    /// How many rows it has, as far as that is known.
    rows: u32,
}

/// Bytes and whose they are.
#[derive(Debug, Clone, Copy)]
struct Owned {
    org: OrgId,
    bytes: u64,
}

impl Holdings {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The quotas of an organisation.
    pub fn quotas(&self, org: OrgId) -> Quotas {
        self.lock().orgs.get(&org).map_or(Quotas::NONE, |held| held.quotas)
    }

    /// The organisation of a batch, if it is not the operator's.
    pub fn owner(&self, batch: BatchId) -> Option<OrgId> {
        self.lock().batches.get(&batch).map(|batch| batch.owned.org)
    }

    /// The bytes that an organisation stores.
    pub fn bytes(&self, org: OrgId) -> u64 {
        self.lock().orgs.get(&org).map_or(0, |held| held.bytes)
    }

    /// How many of an organisation's batches have not ended.
    pub fn batches(&self, org: OrgId) -> u64 {
        self.lock().orgs.get(&org).map_or(0, |held| held.active.len() as u64)
    }

    /// The rows of an organisation's batches that have no result yet, as `lives` tells.
    pub fn rows(&self, org: OrgId, lives: &Lives) -> u64 {
        let table = self.lock();
        let Some(held) = table.orgs.get(&org) else { return 0 };
        let left = held.active.iter().map(|id| {
            let rows = table.batches.get(id).map_or(0, |batch| batch.rows);
            let done = lives.get(*id).map_or(0, |live| {
                let progress = live.progress();
                progress.succeeded.saturating_add(progress.failed)
            });
            u64::from(rows.saturating_sub(done))
        });
        left.sum()
    }

    /// The batches of an organisation that have not ended.
    pub fn active(&self, org: OrgId) -> Vec<BatchId> {
        self.lock().orgs.get(&org).map_or_else(Vec::new, |held| held.active.iter().copied().collect())
    }

    /// Notes a new batch with the rows that it announces.
    pub fn announce(&self, batch: BatchId, org: OrgId, rows: u32) {
        self.lock().own(Owner::Batch(batch, org));
        self.set_rows(batch, rows);
    }

    /// Notes how many rows a batch has.
    pub fn set_rows(&self, batch: BatchId, rows: u32) {
        if let Some(batch) = self.lock().batches.get_mut(&batch) {
            batch.rows = rows;
        }
    }

    /// Notes whose the new batches and quotes of a write are, before their entries are counted.
    pub fn begin<'a>(&self, written: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        for (key, value) in written {
            if let Some(owner) = owner_of(key, value) {
                self.lock().own(owner);
            }
        }
    }

    /// Counts one changed key of a write, with its old and its new value.
    pub fn count(&self, tree: &Tree, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> Result<(), StoreError> {
        let Some((place, _)) = key::parse(key) else { return Ok(()) };
        let len = |value: Option<&[u8]>| value.map_or(0, |value| (key.len() + value.len()) as u64);
        match place {
            Key::Part(upload, part) => {
                let upload = if new.is_some() { tree.get(format::upload(upload))? } else { None };
                let mut table = self.lock();
                if let Some(upload) = upload.and_then(|bytes| decoded::<UploadRecord, Upload>(&bytes)) {
                    table.own(Owner::Part(part, upload.org));
                }
                table.count_part(part, len(old) + content_of_part(old), len(new) + content_of_part(new));
            }
            Key::Org(_) => {
                if let Some(org) = new.and_then(decoded::<OrgRecord, Organisation>) {
                    self.lock().orgs.entry(org.id).or_default().quotas = org.quotas;
                }
            }
            Key::File(_) | Key::Deleted(_) => {
                let mut table = self.lock();
                for (value, is_new) in [(old, false), (new, true)] {
                    if let Some((org, content)) = value.and_then(content_of_file) {
                        table.change(org, content + len(value), is_new);
                    }
                }
            }
            Key::Upload(_) => {
                let mut table = self.lock();
                for (value, is_new) in [(old, false), (new, true)] {
                    if let Some(upload) = value.and_then(decoded::<UploadRecord, Upload>) {
                        table.change(upload.org, len(value), is_new);
                    }
                }
            }
            Key::Receiver(org, _) => {
                let mut table = self.lock();
                table.change(org, len(old), false);
                table.change(org, len(new), true);
            }
            Key::Quote(quote) => self.lock().count_quote(quote, len(old), len(new)),
            Key::BatchOf(_, batch) if new.is_none() => self.lock().forget_batch(batch),
            other => {
                if let Some(batch) = other.batch() {
                    self.lock().count_batch(batch, &other, len(old), len(new), new.is_some());
                }
            }
        }
        Ok(())
    }
}

/// Who owns something whose own entries do not say so.
enum Owner {
    Batch(BatchId, OrgId),
    Quote(QuoteId, OrgId),
    Part(PartId, OrgId),
}

/// The owner that an entry tells.
fn owner_of(key: &[u8], value: &[u8]) -> Option<Owner> {
    if !matches!(key.first(), Some(b'E' | b'X')) {
        return None;
    }
    match key::parse(key)?.0 {
        Key::BatchOf(org, batch) => Some(Owner::Batch(batch, org)),
        Key::ExpiryOfQuote(quote) => Some(Owner::Quote(quote, OrgId::from_u128(format::trailing_id(value)?))),
        _ => None,
    }
}

impl Table {
    fn own(&mut self, owner: Owner) {
        let owned = |org| Owned { org, bytes: 0 };
        match owner {
            Owner::Batch(batch, org) => drop(self.batches.entry(batch).or_insert(OfBatch { owned: owned(org), rows: 0 })),
            Owner::Quote(_, org) | Owner::Part(_, org) if org == OrgId::OPERATOR => {}
            Owner::Quote(quote, org) => drop(self.quotes.entry(quote).or_insert(owned(org))),
            Owner::Part(part, org) => drop(self.parts.entry(part).or_insert(owned(org))),
        }
    }

    /// Adds bytes to what an organisation holds, or takes them off.
    fn change(&mut self, org: OrgId, bytes: u64, is_new: bool) {
        if org == OrgId::OPERATOR || bytes == 0 {
            return;
        }
        let held = self.orgs.entry(org).or_default();
        held.bytes = if is_new { held.bytes.saturating_add(bytes) } else { held.bytes.saturating_sub(bytes) };
    }

    fn count_batch(&mut self, batch: BatchId, key: &Key, old: u64, new: u64, is_there: bool) {
        let Some(of_batch) = self.batches.get_mut(&batch) else { return };
        let org = of_batch.owned.org;
        of_batch.owned.bytes = of_batch.owned.bytes.saturating_sub(old).saturating_add(new);
        self.change(org, old, false);
        self.change(org, new, true);
        if matches!(key, Key::Active(_)) {
            let active = &mut self.orgs.entry(org).or_default().active;
            if is_there {
                active.insert(batch)
            } else {
                active.remove(&batch)
            };
        }
    }

    /// A deleted batch is no longer its organisation's, although its rows go in small steps.
    fn forget_batch(&mut self, batch: BatchId) {
        if let Some(OfBatch { owned: Owned { org, bytes }, .. }) = self.batches.remove(&batch) {
            self.change(org, bytes, false);
            if let Some(held) = self.orgs.get_mut(&org) {
                held.active.remove(&batch);
            }
        }
    }

    fn count_quote(&mut self, quote: QuoteId, old: u64, new: u64) {
        let Some(owned) = self.quotes.get_mut(&quote) else { return };
        owned.bytes = owned.bytes.saturating_sub(old).saturating_add(new);
        let Owned { org, bytes } = *owned;
        if bytes == 0 {
            self.quotes.remove(&quote);
        }
        self.change(org, old, false);
        self.change(org, new, true);
    }

    fn count_part(&mut self, part: PartId, old: u64, new: u64) {
        let Some(owned) = self.parts.get_mut(&part) else { return };
        owned.bytes = owned.bytes.saturating_sub(old).saturating_add(new);
        let Owned { org, bytes } = *owned;
        if bytes == 0 {
            self.parts.remove(&part);
        }
        self.change(org, old, false);
        self.change(org, new, true);
    }
}

/// What a record says, as far as it can be read: damage is reported by those who need the record.
fn decoded<R: Record, T: TryFrom<R>>(bytes: &[u8]) -> Option<T> {
    T::try_from(record::decode::<R>(bytes).ok()?).ok()
}

/// Whose a file is, and the bytes of its content; a view has none.
fn content_of_file(bytes: &[u8]) -> Option<(OrgId, u64)> {
    let file = decoded::<FileRecord, File>(bytes)?;
    let content = match file.source {
        FileSource::Uploaded { .. } => file.bytes,
        FileSource::View { .. } => 0,
    };
    Some((file.org, content))
}

fn content_of_part(bytes: Option<&[u8]>) -> u64 {
    bytes.and_then(decoded::<PartRecord, UploadPart>).map_or(0, |part| part.bytes)
}
