//! Copies the records, as far as they can be read. Lists are left out, because they are rebuilt.

use std::collections::{BTreeMap, BTreeSet};

use super::super::check::one_line;
use super::super::examine::{Examined, Gathered, Gathering, examine};
use super::super::format::{self, MAX_VALUE};
use super::super::key::Key;
use super::super::readable::Readable;
use super::Out;
use super::report::{SalvageReport, Thing};
use crate::domain::file::File;
use crate::domain::file::upload::{Upload, UploadPart};
use crate::domain::id::{BatchId, EventId, FileId, QuoteId, UploadId};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;
use crate::store::record::error::RecordError;

/// What was copied, and what the later steps need to know about it.
#[derive(Default)]
pub(super) struct Copied {
    /// Entries that were read.
    pub entries: u64,
    /// Batches of which any record was found.
    pub batches: BTreeSet<BatchId>,
    /// Batches that have results or pages.
    pub with_rows: BTreeSet<BatchId>,
    /// Pages that may be older than those last shown to clients.
    pub old_pages: BTreeSet<(BatchId, u32)>,
    /// Batches whose state says that they ended, but may have changed since.
    pub old_states: BTreeSet<BatchId>,
    /// Batches that were deleted, or one of whose files was deleted.
    pub unseen: BTreeSet<BatchId>,
    /// Records of files whose content is not copied yet.
    pub files: BTreeMap<FileId, File>,
    /// Files whose record is damaged.
    pub unreadable_files: BTreeSet<FileId>,
    /// Deleted files that are still being read.
    pub deleted: BTreeMap<FileId, Option<File>>,
    /// Files whose record was deleted or lost, but whose content is there.
    pub content: BTreeSet<FileId>,
    pub parts: Vec<UploadPart>,
    pub uploads: BTreeMap<UploadId, Upload>,
    /// When each quote stops being valid.
    pub quotes: BTreeMap<QuoteId, Timestamp>,
    /// Idempotency keys, and the batch that each made; `None` if that batch was deleted.
    pub idempotency: BTreeMap<[u8; 32], Option<BatchId>>,
    /// Expiry entries that were found.
    pub expiring: BTreeSet<Key>,
    pub deliveries: BTreeSet<EventId>,
}

/// Copies every readable record.
pub(super) fn copy(readable: &Readable, out: &mut Out, report: &mut SalvageReport<'_>) -> Result<Copied, StoreError> {
    let mut copying = Copying { out, report, copied: Copied::default(), gathering: Gathering::default(), failed: None };
    readable
        .entries(|key, value, is_newest| copying.entry(key, value, is_newest))
        .map_err(|error| StoreError::Broken(error.to_string()))?;
    if let Some(last) = copying.gathering.end() {
        copying.record(last);
    }
    if let Some(error) = copying.failed {
        return Err(error);
    }
    let copied = copying.copied;
    out.write()?;
    Ok(copied)
}

struct Copying<'a, 'b> {
    out: &'a mut Out,
    report: &'a mut SalvageReport<'b>,
    copied: Copied,
    gathering: Gathering,
    failed: Option<StoreError>,
}

impl Copying<'_, '_> {
    fn entry(&mut self, key: &[u8], value: &[u8], is_newest: bool) {
        if self.failed.is_some() {
            return;
        }
        self.copied.entries += u64::from(key != format::SUM_KEY);
        match self.gathering.next(key, value, is_newest) {
            Ok(Some(complete)) => self.record(complete),
            Ok(None) => {}
            Err(()) => self.report.lost(Thing::Other("an entry of an unknown kind".into())),
        }
    }

    fn record(&mut self, record: Gathered) {
        if let Some(batch) = record.key.batch() {
            self.copied.batches.insert(batch);
        }
        let written = if self.is_of_rows(&record) { self.copy_chunks(&record) } else { self.copy_record(record) };
        if let Err(error) = written.and_then(|()| self.out.write_much()) {
            self.failed = Some(error);
        }
    }

    /// Whether a record belongs to rows; rows are examined later, with their batch.
    fn is_of_rows(&mut self, record: &Gathered) -> bool {
        let (Key::Page(batch, _) | Key::Alone(batch, _) | Key::Run(batch, _)) = record.key else { return false };
        self.copied.with_rows.insert(batch);
        if let (Key::Page(batch, page), false) = (record.key, record.is_newest) {
            self.copied.old_pages.insert((batch, page));
        }
        true
    }

    fn copy_chunks(&mut self, record: &Gathered) -> Result<(), StoreError> {
        for (key, value) in &record.values {
            self.out.writes.insert(key.clone(), value.as_slice());
        }
        Ok(())
    }

    fn copy_record(&mut self, mut record: Gathered) -> Result<(), StoreError> {
        let examined = match examine_newest(&mut record) {
            Ok(examined) => examined,
            Err(error) => {
                match record.key {
                    // Reported later, with the batch or with the content.
                    Key::State(_) | Key::Spec(_) => {}
                    Key::File(id) => drop(self.copied.unreadable_files.insert(id)),
                    key => self.report.lost(Thing::Other(format!("{key} ({})", one_line(&error.to_string())))),
                }
                return Ok(());
            }
        };
        if !record.is_newest {
            self.may_be_old(&record.key, &examined);
        }
        let copied = &mut self.copied;
        match (record.key, examined) {
            (_, Examined::File(file)) => drop(copied.files.insert(file.id, *file)),
            (_, Examined::Part(part)) => copied.parts.push(part),
            (Key::Deleted(id), Examined::Deleted(file)) => drop(copied.deleted.insert(id, file.map(|file| *file))),
            (Key::Unseen(id), _) => drop(copied.unseen.insert(id)),
            // These entries are rebuilt.
            (Key::Meta | Key::Active(_) | Key::BatchOf(..) | Key::FileOf(..) | Key::ExpiryOfFile(_), _)
            | (Key::UsedQuote(_) | Key::AccessOf(..) | Key::AccessOwner(_) | Key::Due(..), _) => {}
            (key, examined) => {
                match examined {
                    Examined::Upload(upload) => drop(copied.uploads.insert(upload.id, *upload)),
                    Examined::Quote(quote) => drop(copied.quotes.insert(quote.id, quote.valid_until)),
                    Examined::Delivery(delivery) => drop(copied.deliveries.insert(delivery.id)),
                    Examined::Idempotency(used) => {
                        if let Key::Idempotency(digest) = key {
                            copied.idempotency.insert(digest, used.batch.map(BatchId::from_u128));
                        }
                    }
                    _ => {}
                }
                match key {
                    Key::ExpiryOfIdempotency(digest) if !copied.idempotency.contains_key(&digest) => return Ok(()),
                    Key::ExpiryOfUpload(_) | Key::ExpiryOfQuote(_) | Key::ExpiryOfIdempotency(_) => drop(copied.expiring.insert(key)),
                    _ => {}
                }
                self.copy_chunks(&record)?;
            }
        }
        Ok(())
    }

    /// Reports a record that may have changed since.
    fn may_be_old(&mut self, key: &Key, examined: &Examined) {
        let thing = match (key, examined) {
            (Key::State(id), Examined::State(state, _)) if !state.is_terminal() => Thing::Batch(*id),
            (Key::State(id), _) => {
                self.copied.old_states.insert(*id);
                return;
            }
            (_, Examined::Reservation(reservation)) if reservation.settlement.is_none() => Thing::Other(key.to_string()),
            (_, Examined::ApiKey(found)) if found.revoked_at.is_none() => Thing::Other(format!("API key {}", found.id)),
            (_, Examined::Upload(upload)) if upload.state == crate::domain::file::upload::UploadState::Pending => {
                Thing::Other(key.to_string())
            }
            (Key::Account(_) | Key::Hold(_) | Key::Org(_) | Key::Receiver(..) | Key::Control(_), _) => Thing::Other(key.to_string()),
            _ => return,
        };
        self.report.unsure(thing, "it may have been changed or removed since");
    }
}

/// Decodes a record. The record may have become shorter, so that its later parts are from an
/// earlier time: these are left out then.
fn examine_newest(record: &mut Gathered) -> Result<Examined, RecordError> {
    let bytes = record.bytes().ok_or(RecordError::Damaged { what: "record", reason: "a part of it is missing".into() })?;
    let failed = match examine(&record.key, &bytes) {
        Ok(examined) => return Ok(examined),
        Err(error) => error,
    };
    for parts in (1..record.values.len()).rev() {
        if let Ok(examined) = examine(&record.key, &bytes[..parts * MAX_VALUE]) {
            record.values.truncate(parts);
            return Ok(examined);
        }
    }
    Err(failed)
}
